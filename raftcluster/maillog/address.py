"""The address of a receiver, as it is set. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from raftcluster.errors import Rejected

SYSTEM: Final = "system"
PORTS: Final = {"udp": 514, "tcp": 601, "tls": 6514}
"""RFC 5426, 3.3; the port of syslog-conn, for which RFC 6587 has none; RFC 5425, 4.1."""


def parse(target: str) -> tuple[str, tuple[str, int]]:
    """`udp://HOST[:PORT]`, tcp, tls, or `system`. Raises `Rejected`."""
    if target == SYSTEM:
        return SYSTEM, ("", 0)
    try:
        parts = urlsplit(target)
        port = parts.port
    except ValueError:  # a port that is none
        parts, port = urlsplit(""), None
    rest = (parts.path, parts.query, parts.fragment, parts.username)
    if parts.scheme not in PORTS or not parts.hostname or any(rest) or port == 0:
        raise Rejected(
            f"nothing can be exported to {target!r:.200}",
            subject="export",
            remedy="udp://HOST[:PORT], tcp://HOST[:PORT], tls://HOST[:PORT], or system",
        )
    return parts.scheme, (parts.hostname, PORTS[parts.scheme] if port is None else port)
