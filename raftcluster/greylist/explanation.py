"""Why a triplet is told what it is told: read from the tables, nothing is changed."""

from __future__ import annotations

from raftcluster.codec import Value
from raftcluster.greylist.machine import read_record, read_settings_row
from raftcluster.greylist.record import node_text
from raftcluster.greylist.rules import DEFER, Triplet, decide, key_of, network_of, normal_recipient, normal_sender
from raftcluster.greylist.settings import Settings
from raftcluster.machine import ReadTables


def explain(tables: ReadTables, now: int, client: str, sender: str | bytes, recipient: str | bytes) -> dict[str, Value]:
    """What a check of this triplet would be told at `now`, by which rule, from which record.

    Times that end in `_ms` are cluster time, those in `_seconds` are durations. Raises `Rejected` like a check.
    """
    revision, values = read_settings_row(tables)
    settings = Settings.of(values)
    network = network_of(client, settings.network4, settings.network6)
    triplet = Triplet(network, normal_sender(sender), normal_recipient(recipient))
    key = key_of(triplet.pack())
    record = read_record(tables, key)
    first, expires, passed = (record.first, record.expires, record.passed) if record else (0, 0, False)
    waits = settings.waits()
    action, _, _, before, left, delayed = decide(first, expires, passed, now, waits, not triplet.sender)
    alive = record is not None and now < record.expires
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
    seen = record if alive else None
    return {
        "action": action,
        "rule": rule,
        "text": text,
        "seconds_left": -(-left // 1000),
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
        "cluster_time_ms": now,
        "delay_seconds": settings.delay,
        "window_seconds": settings.window,
        "life_seconds": settings.life,
        "settings_revision": revision,
    }
