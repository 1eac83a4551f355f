"""Why a triplet is told what it is told: read from the tables, nothing is changed."""

from __future__ import annotations

from typing import Final

from raftcluster.codec import Value
from raftcluster.greylist.clients import Client
from raftcluster.greylist.forgetting import Forgotten
from raftcluster.greylist.kept import Kept, living_client
from raftcluster.greylist.lists.book import ALLOWED, LISTED, NOT_OPTED_IN, OPTED_OUT, SILENT, Ruling
from raftcluster.greylist.machine import read_record, read_settings_row
from raftcluster.greylist.record import node_text
from raftcluster.greylist.rules import DEFER, PASS, Triplet, decide, key_of, network_of, normal_recipient, normal_sender
from raftcluster.greylist.settings import Settings
from raftcluster.machine import ReadTables

_LISTED: Final = {
    ALLOWED: "the lists allow it",
    OPTED_OUT: "the recipient has opted out",
    NOT_OPTED_IN: "the recipient has not opted in, and only those who have are greylisted",
}


def explain(
    tables: ReadTables,
    now: int,
    client: str,
    sender: str | bytes,
    recipient: str | bytes,
    ruling: Ruling,
    kept: Kept | None = None,
    earned: Client | None = None,
) -> dict[str, Value]:
    """What a check of this triplet would be told at `now`, by which rule, from which record.

    `ruling` is what the lists say about it, `kept` and `earned` what the node decides by besides the
    tables, of the triplet and of its client. Times that end in `_ms` are cluster time, those in `_seconds` are durations.
    Raises `Rejected` like a check.
    """
    revision, values = read_settings_row(tables)
    settings = Settings.of(values)
    network = network_of(client, settings.network4, settings.network6)
    triplet = Triplet(network, normal_sender(sender), normal_recipient(recipient))
    key = key_of(triplet.pack())
    record = read_record(tables, key)
    if kept is not None:
        record = kept.joined(key, record, Forgotten(tables, now), now)[1]
    first, expires, passed = (record.first, record.expires, record.passed) if record else (0, 0, False)
    waits = settings.waits()
    action, _, _, before, left, delayed = decide(first, expires, passed, now, waits, not triplet.sender)
    alive = record is not None and now < record.expires
    _, known = living_client(tables, network, earned, Forgotten(tables, now), now)
    if not alive:
        rule, text = "new", f"not seen, or forgotten since: a wait of {settings.delay} s would begin"
    elif action == DEFER:
        rule, text = (
            "early",
            f"first seen {(now - first) // 1000} s ago, which is less than the delay of {settings.delay} s",
        )
    elif before:
        rule, text = "known", "it has passed before and is remembered"
    else:
        rule, text = (
            "waited",
            f"first seen {delayed // 1000} s ago, within the window: it would pass for the first time",
        )
    if ruling.rule not in (SILENT, LISTED):
        action, left, rule, text = PASS, 0, ruling.rule, f"no wait: {_LISTED[ruling.rule]}"
    elif ruling.rule == SILENT and known is not None and known.allowed(now, settings.auto_allow):
        action, left, rule = PASS, 0, "client"
        text = (
            f"no wait: {known.passes} triplets of this client have passed after one, {settings.auto_allow} are enough"
        )
    if ruling.entry is not None:
        text += f" (entry: {ruling.entry.effect} {ruling.entry.kind} {ruling.entry.pattern})"
    if settings.training and action == DEFER:
        action, text = PASS, f"{text}; in training it passes all the same"
    seen = record if alive else None
    return {
        "action": action,
        "rule": rule,
        "text": text,
        "seconds_left": -(-left // 1000),
        "passes_at_ms": now + left,
        "key": key.hex(),
        "network": network.decode(),
        "sender": triplet.sender.decode("utf-8", "backslashreplace"),
        "recipient": triplet.recipient.decode("utf-8", "backslashreplace"),
        "first_seen_ms": seen.first if seen else None,
        "last_seen_ms": seen.last if seen else None,
        "expires_ms": seen.expires if seen else None,
        "seen_by": [
            {"node": node_text(node), "deferred": deferred, "passed": passes}
            for node, deferred, passes in (seen.counters if seen else ())
        ],
        "lists": ruling.rule,
        "client": _client(known, now, settings.auto_allow),
        "cluster_time_ms": now,
        "delay_seconds": settings.delay,
        "window_seconds": settings.window,
        "life_seconds": settings.life,
        "settings_revision": revision,
    }


def _client(known: Client | None, now: int, needed: int) -> dict[str, Value]:
    if known is None:
        return {"allowed": False, "passes": 0, "needed": needed, "served": 0, "expires_ms": None}
    return {
        "allowed": known.allowed(now, needed),
        "passes": known.passes,
        "needed": needed,
        "served": known.served,
        "expires_ms": known.expires,
    }
