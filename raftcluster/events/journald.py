"""An event in the journal's native protocol. Pure.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/ -- a datagram of fields, `NAME=value` and a line feed each; a value that
holds a line feed goes with its length (64 bits, little endian) instead of the equals sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raftcluster.events.catalogue import SEVERITIES, Event, Field

IDENTIFIER: Final = "raftcluster"


def datagram(event: Event) -> bytes:
    """The event as the journal reads it; the kind's id is MESSAGE_ID, so `journalctl MESSAGE_ID=...` finds it."""
    return b"".join(_field(name, value) for name, value in _fields(event))


def _fields(event: Event) -> Iterator[tuple[str, str]]:
    yield "MESSAGE", event.message
    yield "MESSAGE_ID", event.kind.id.replace("-", "")
    yield "PRIORITY", str(SEVERITIES[event.kind.severity])
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "RAFTCLUSTER_EVENT", event.kind.name
    yield "RAFTCLUSTER_SEQUENCE", str(event.sequence)
    yield "RAFTCLUSTER_CLUSTER_ID", event.cluster_id
    yield "RAFTCLUSTER_CLUSTER", event.cluster
    yield "RAFTCLUSTER_NODE_ID", event.node_id
    yield "RAFTCLUSTER_NODE", event.node
    for name, value in event.fields.items():
        for each in value if isinstance(value, list | tuple) else [value]:  # a field may come more than once
            yield f"RAFTCLUSTER_FIELD_{name.upper()}", _text(each)


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _text(value: Field) -> str:
    return "" if value is None else str(value)
