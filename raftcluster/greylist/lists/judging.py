"""Why an entry matches a question or does not, one by one, for people. Pure; shares no index with `book`."""

from __future__ import annotations

from typing import NamedTuple

from raftcluster.greylist.lists.book import NOT_OPTED_IN, Ruling
from raftcluster.greylist.lists.rules import (
    CLIENT,
    CLIENT_NAME,
    GREYLIST,
    OPT_IN,
    SENDER,
    SENDER_DOMAIN,
    Entry,
    Question,
    client_bits,
    domain_of,
    network_bits,
    specific,
    without_extension,
)

_PARTS = {CLIENT: CLIENT, CLIENT_NAME: CLIENT_NAME, SENDER: SENDER, SENDER_DOMAIN: SENDER}
_WIDTH = {4: 32, 6: 128}


class Judged(NamedTuple):
    """One entry beside one question."""

    entry: Entry
    matches: bool
    decides: bool
    why: str
    """Why it does not match, or what goes before it."""


def judge(entry: Entry, question: Question, ruling: Ruling, now: int) -> Judged:
    """The entry beside the question, to which `ruling` is the answer at `now`."""
    mismatch = _mismatch(entry, question)
    if not mismatch and not entry.alive(now):
        mismatch = "it has expired"
    if mismatch:
        return Judged(entry, False, False, mismatch)
    if entry == ruling.entry:
        return Judged(entry, True, True, "it decides")
    return Judged(entry, True, False, _behind(entry, ruling))


def _behind(entry: Entry, ruling: Ruling) -> str:
    """Why a matching entry does not decide."""
    first = ruling.entry
    if ruling.rule == NOT_OPTED_IN:
        return "the recipient has not opted in, which goes first"
    if first is None or first.list != entry.list:
        if entry.effect == OPT_IN:
            return "it lets the other rules decide"
        if first is None or entry.list == "opt":
            return "a more specific entry lets the other rules decide"
        return f"{_named(first)} goes before allow and greylist"
    if part(first) == part(entry) and specific(first) > specific(entry):
        return f"{_named(first)} is more specific"
    if first.effect == GREYLIST and entry.effect != GREYLIST:
        return f"{_named(first)} goes before what allows"
    if first.effect == entry.effect:
        return f"{_named(first)} says the same and is looked at first"
    return f"a more specific entry about the same {part(entry)} goes before it"


def part(entry: Entry) -> str:
    """Which part of a question it is about: client, client-name, sender or recipient."""
    return _PARTS.get(entry.kind, "recipient")


def _mismatch(entry: Entry, question: Question) -> str:
    """Why it does not match, whether it has expired or not; empty when it does."""
    if entry.kind == CLIENT:
        return _client_mismatch(entry.pattern, question.client)
    if entry.kind == CLIENT_NAME:
        if not question.name:
            return "the client has no verified name"
        return _domain_mismatch(entry.pattern, question.name)
    if entry.kind == SENDER:
        sender = _text(question.sender) or "<>"
        return "" if sender == entry.pattern else f"the sender is {sender}"
    if entry.kind == SENDER_DOMAIN:
        domain = domain_of(question.sender)
        return _domain_mismatch(entry.pattern, domain) if domain else "the sender has no domain"
    if part(entry) == entry.kind:
        names = (_text(question.recipient), _text(without_extension(question.recipient)))
        return "" if entry.pattern in names else f"the recipient is {names[0]}"
    domain = domain_of(question.recipient)
    return _domain_mismatch(entry.pattern, domain) if domain else "the recipient has no domain"


def _client_mismatch(pattern: str, client: str) -> str:
    version, network, prefix = network_bits(pattern)
    mine, address = client_bits(client)
    if version != mine:
        return f"the client's address is IPv{mine}"
    shift = _WIDTH[version] - prefix
    return "" if address >> shift == network >> shift else f"{client} is not within {pattern}"


def _domain_mismatch(pattern: str, domain: str) -> str:
    if domain == pattern or domain.endswith(f".{pattern}"):
        return ""
    if pattern.endswith(f".{domain}"):
        return f"{domain} is above {pattern}, not below it"
    return f"{domain} is neither {pattern} nor below it"


def _text(address: bytes) -> str:
    return address.decode("utf-8", "replace")


def _named(entry: Entry) -> str:
    return f"{entry.effect} {entry.kind} {entry.pattern}"
