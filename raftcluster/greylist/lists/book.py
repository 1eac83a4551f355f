"""The entries that are in force at one moment, ready to be looked up by every check. Immutable; any thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from raftcluster.greylist.lists.rules import (
    ALLOW,
    CLIENT,
    CLIENT_NAME,
    GREYLIST,
    OPT_OUT,
    RECIPIENT,
    RECIPIENT_DOMAIN,
    SENDER,
    SENDER_DOMAIN,
    Entry,
    Question,
    client_bits,
    domain_of,
    network_bits,
    upwards,
    without_extension,
)

OPTED_OUT: Final = "opted-out"
NOT_OPTED_IN: Final = "not-opted-in"
ALLOWED: Final = "allowed"
LISTED: Final = "listed"
"""Always greylisted."""
SILENT: Final = ""
"""No entry says anything."""

_BITS: Final = {4: 32, 6: 128}


class Ruling(NamedTuple):
    """What the lists say about one question."""

    rule: str
    """opted-out, not-opted-in, allowed: it passes without a wait. listed: it is greylisted whatever else. Or empty."""
    entry: Entry | None
    """That decided."""


class Book:
    """See the head of the file."""

    def __init__(self, entries: Iterable[Entry], now: int) -> None:
        alive = [entry for entry in entries if entry.alive(now)]
        self.empty = not alive
        self.expires = min((entry.expires for entry in alive if entry.expires is not None), default=None)
        """When the first of them ends, in milliseconds of cluster time."""
        self._networks: dict[int, dict[int, dict[int, Entry]]] = {4: {}, 6: {}}
        self._rules: dict[str, dict[str, Entry]] = {}
        self._opts: dict[str, dict[str, Entry]] = {}
        for entry in alive:
            if entry.list == "opt":
                self._opts.setdefault(entry.kind, {})[entry.pattern] = entry
            elif entry.kind == CLIENT:
                version, network, prefix = network_bits(entry.pattern)
                self._networks[version].setdefault(prefix, {})[network] = entry
            else:
                self._rules.setdefault(entry.kind, {})[entry.pattern] = entry
        for version, by_prefix in self._networks.items():
            self._networks[version] = {prefix: by_prefix[prefix] for prefix in sorted(by_prefix, reverse=True)}

    def rule(self, question: Question, opted_in_only: bool) -> Ruling:
        """What the entries say; with `opted_in_only` a recipient that nobody opted in is not greylisted."""
        opted = _recipient(self._opts, question.recipient)
        if opted is not None and opted.effect == OPT_OUT:
            return Ruling(OPTED_OUT, opted)
        if opted is None and opted_in_only:
            return Ruling(NOT_OPTED_IN, None)
        allowed = None
        for entry in self._spoken(question):
            if entry is not None and entry.effect == GREYLIST:
                return Ruling(LISTED, entry)
            if allowed is None and entry is not None and entry.effect == ALLOW:
                allowed = entry
        return Ruling(SILENT, None) if allowed is None else Ruling(ALLOWED, allowed)

    def _spoken(self, question: Question) -> tuple[Entry | None, ...]:
        """The most specific entry about each part of the question."""
        rules = self._rules
        names = rules.get(CLIENT_NAME)
        name = _domain(names, question.name) if names else None
        return (
            self._client(question.client),
            name,
            _sender(rules, question.sender),
            _recipient(rules, question.recipient),
        )

    def _client(self, client: str) -> Entry | None:
        if not self._networks[4] and not self._networks[6]:
            return None
        version, address = client_bits(client)
        bits = _BITS[version]
        for prefix, networks in self._networks[version].items():
            shift = bits - prefix
            if (entry := networks.get(address >> shift << shift)) is not None:
                return entry
        return None


def _sender(rules: Mapping[str, Mapping[str, Entry]], sender: bytes) -> Entry | None:
    exact = rules.get(SENDER)
    if exact and (entry := exact.get(sender.decode("utf-8", "replace") or "<>")) is not None:
        return entry
    domains = rules.get(SENDER_DOMAIN)
    return _domain(domains, domain_of(sender)) if domains else None


def _recipient(rules: Mapping[str, Mapping[str, Entry]], recipient: bytes) -> Entry | None:
    exact = rules.get(RECIPIENT)
    if exact:
        for address in (recipient, without_extension(recipient)):
            if (entry := exact.get(address.decode("utf-8", "replace"))) is not None:
                return entry
    domains = rules.get(RECIPIENT_DOMAIN)
    return _domain(domains, domain_of(recipient)) if domains else None


def _domain(entries: Mapping[str, Entry], domain: str) -> Entry | None:
    for each in upwards(domain):
        if (entry := entries.get(each)) is not None:
            return entry
    return None
