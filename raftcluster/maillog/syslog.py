"""An entry as a syslog message. Pure.

Source: RFC 5424, 6 (the message), 7.3.1 (meta sequenceId); RFC 6587, 3.4.1 and RFC 5425, 4.3 (octet counting); RFC 5426, 3.1 (one
message a datagram). MSG is CEF in UTF-8 without a byte order mark, which RFC 5424 allows and parsers of CEF expect.

The number of each entry is in `meta sequenceId`, which by 7.3.1 ends at 2147483647 and begins anew, and whole in an element of our
own: a receiver that misses one sees it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from raftcluster.events.syslog import ENTERPRISE
from raftcluster.maillog import cef
from raftcluster.maillog.cef import Device
from raftcluster.maillog.entry import Entry

FACILITY: Final = 2
"""mail"""
APPLICATION: Final = "raftcluster"
SEQUENCE_MAX: Final = 2_147_483_647
_NAME_CHARACTERS: Final = 255


def message(entry: Entry, device: Device, pid: int) -> bytes:
    """The entry as one message."""
    kind = cef.signature(entry)
    stamp = datetime.fromtimestamp(entry.time, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    number = entry.sequence
    own = f'sequence="{number}" node="{_escaped(device.node_id)}" cluster="{_escaped(device.cluster_id)}"'
    data = f'[meta sequenceId="{(number - 1) % SEQUENCE_MAX + 1}"][{ENTERPRISE} {own}]'
    head = f"<{FACILITY * 8 + kind.priority}>1 {stamp} {_host(device.node)} {APPLICATION} {pid} {kind.id}"
    return f"{head} {data} {cef.line(entry, device)}".encode("utf-8", "replace")


def counted(message: bytes) -> bytes:
    """The message as it goes over a stream, TCP or TLS."""
    return b"%d %s" % (len(message), message)


def _host(name: str) -> str:
    """PRINTUSASCII, or the nil value."""
    text = "".join(sign for sign in name if "!" <= sign <= "~")[:_NAME_CHARACTERS]
    return text or "-"


def _escaped(value: str) -> str:
    """RFC 5424, 6.3.3."""
    return cef.shown(value).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
