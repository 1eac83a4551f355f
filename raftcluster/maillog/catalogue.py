"""What an entry is in the operating system's event log: a kind with an id, and fields. Pure.

The ids never change and are never used again: filters are built on them. docs/logs.md is written from this file.
"""

from __future__ import annotations

from typing import Final

from raftcluster.events.catalogue import Event, Field, Kind
from raftcluster.maillog.cef import Device
from raftcluster.maillog.entry import DROPPED, GREYLISTING, LOG, NOT_VERIFIED, PASSED, REJECTED, VERIFIED, Entry

FIELDS: Final = tuple(name for name in Entry._fields if name not in ("time", "sequence"))
_TEXT: Final = "{action}: {client} ({helo}) from <{sender}> to <{recipient}>, {reason}"

KINDS: Final = {
    (GREYLISTING, REJECTED): Kind(
        "6b0e6a0c-8f5d-4c1b-9a2e-0d6a5b1f7e31",
        "mail-rejected",
        "notice",
        FIELDS,
        _TEXT,
        "a first attempt has to wait",
    ),
    (GREYLISTING, NOT_VERIFIED): Kind(
        "0a4d3b57-5d0e-4e5b-8a55-7f1f3c2a9c64",
        "mail-not-verified",
        "notice",
        FIELDS,
        _TEXT,
        "it came again before its time and has to wait on",
    ),
    (GREYLISTING, VERIFIED): Kind(
        "c1f4a9de-27ab-4f0e-b1a6-63d0f8e4a2b5",
        "mail-verified",
        "info",
        FIELDS,
        _TEXT,
        "it passes: it has waited, now or before, or its client has earned it",
    ),
    (GREYLISTING, PASSED): Kind(
        "5e9d7c18-3b64-4d0a-8c7f-91b2e6f0d3a8",
        "mail-passed",
        "info",
        FIELDS,
        _TEXT,
        "it passes without having waited",
    ),
    (LOG, DROPPED): Kind(
        "e27b8f40-6c1d-4b9e-a5d3-2f80c47e1b96",
        "mail-log-dropped",
        "warning",
        FIELDS,
        "{lost} entries of the mail log are missing: {reason}",
        "the log's queue or disk, or the bound of what is kept for the export, has cost entries",
    ),
}
OTHER: Final = Kind(
    "94a5d2e7-1f3c-4e86-b70d-8c5e2a6f9d13",
    "mail-protection",
    "notice",
    FIELDS,
    "{category}: " + _TEXT,
    "another protection of the product has decided",
)


def event(entry: Entry, device: Device) -> Event:
    """The entry as an event."""
    kind = KINDS.get((entry.category, entry.action), OTHER)
    fields: dict[str, Field] = {name: getattr(entry, name) for name in FIELDS}
    return Event(
        kind, entry.time, entry.sequence, device.cluster_id, device.cluster, device.node_id, device.node, fields
    )
