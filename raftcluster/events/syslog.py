"""An event as a local syslog daemon reads it. Pure.

Source: RFC 3164, 4.1, as syslog(3) writes it to /dev/log: no host name, which the daemon knows. RFC 5424 would be taken
for text there: rsyslog and syslog-ng expect the older form from that socket. The fields follow as RFC 5424 writes them
(6.3), so that what can read structured data finds it.
"""

from __future__ import annotations

import time
from typing import Final

from raftcluster.events.catalogue import SEVERITIES, Event, Field

FACILITY: Final = 3
"""daemon"""
ENTERPRISE: Final = "raftcluster@32473"
"""SD-ID; 32473 is the number that RFC 5612 keeps for examples: the project has none of its own."""
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def datagram(event: Event, pid: int) -> bytes:
    """The event as one line without its end."""
    at = time.localtime(event.time)  # RFC 3164: local time; never the process' locale
    stamp = f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2d} {at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d}"
    named: dict[str, Field] = {
        "event": event.kind.name,
        "id": event.kind.id,
        "sequence": event.sequence,
        "cluster": event.cluster_id,
    }
    pairs = " ".join(f'{name}="{_value(value)}"' for name, value in (named | dict(event.fields)).items())
    priority = FACILITY * 8 + SEVERITIES[event.kind.severity]
    text = f"<{priority}>{stamp} raftcluster[{pid}]: {event.message} [{ENTERPRISE} {pairs}]"
    return text.encode("utf-8", "replace")


def _value(value: Field) -> str:
    """RFC 5424, 6.3.3: quote, backslash and closing bracket are escaped. What would break the line is replaced."""
    if value is None:
        return ""
    text = ",".join(value) if isinstance(value, list | tuple) else str(value)
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
