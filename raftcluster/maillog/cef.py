"""An entry in ArcSight's Common Event Format, version 0, as a SIEM parses it. Pure.

Source: "Implementing ArcSight Common Event Format (CEF)", revision 25: `CEF:0|vendor|product|version|signature|name|severity|`
and an extension of `key=value` pairs. In the header `|` and `\\` are escaped, in a value `=`, `\\` and line ends; whatever else
is no printable character is replaced, so that nothing in a message can begin a line or a field of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from raftcluster.maillog.entry import DROPPED, GREYLISTING, LOG, NOT_VERIFIED, PASSED, REJECTED, VERIFIED, Entry

VENDOR: Final = "raftcluster"
VALUE_BYTES: Final = 1_000  # of a value before it is escaped, as CEF's own longest values ...
SHORT_BYTES: Final = 250  # ... unless the whole would be longer than ...
LINE_BYTES: Final = 7_000  # ... this: receivers take 8 KiB


class Device(NamedTuple):
    """Who has decided."""

    node: str
    node_id: str
    cluster: str
    cluster_id: str
    version: str


class Signature(NamedTuple):
    """What kind of entry it is: a row of docs/logs.md."""

    id: str
    name: str
    severity: int
    """0 to 10, as CEF has it."""
    priority: int
    """0 to 7, as syslog has it (RFC 5424, 6.2.1)."""


SIGNATURES: Final = {
    REJECTED: Signature("greylist-rejected", "Greylisting: first attempt rejected", 3, 5),
    NOT_VERIFIED: Signature("greylist-not-verified", "Greylisting: attempt before its time rejected", 3, 5),
    VERIFIED: Signature("greylist-verified", "Greylisting: verified", 1, 6),
    PASSED: Signature("greylist-passed", "Greylisting: passed without waiting", 1, 6),
}
"""Of the category greylisting, by action."""
MISSING: Final = Signature("log-dropped", "Mail log: entries are missing", 7, 4)
OTHER: Final = Signature("mail-protection", "Mail protection", 5, 5)
"""Of the product's own categories."""

KEYS: Final = {
    "rt": "`time`, in milliseconds",
    "src": "`client`; an IPv6 address in `c6a2` as well",
    "shost": "`helo`",
    "suser": "`sender`; `<>` when it is the null sender",
    "duser": "`recipient`: that of RCPT TO",
    "act": "`action`",
    "cat": "`category`",
    "reason": "`reason`",
    "msg": "`subject`",
    "flexString1": "`message_id`; `flexString1Label` is `Message-ID`",
    "dhost": "the node's name",
    "deviceExternalId": "the node's id",
    "sourceServiceName": "`source`",
    "externalId": "`sequence`",
    "cn1": "`seconds_left`; `cn1Label` is `Seconds left`",
    "cn2": "`lost`; `cn2Label` is `Entries lost`",
    "cs1": "the cluster's name; `cs1Label` is `Cluster`",
    "cs2": "`instance`; `cs2Label` is `SMTP transaction`",
    "cs3": "`client_name`; `cs3Label` is `Client name`",
    "cs4": "`yes` when `degraded`; `cs4Label` is `Degraded`",
}
"""Every key, in order, for the documentation."""
_LABELS: Final = {
    "flexString1": "Message-ID",
    "cn1": "Seconds left",
    "cn2": "Entries lost",
    "cs1": "Cluster",
    "cs2": "SMTP transaction",
    "cs3": "Client name",
    "cs4": "Degraded",
    "c6a2": "Source IPv6 Address",
}


def signature(entry: Entry) -> Signature:
    """What kind of entry it is."""
    if entry.category == LOG and entry.action == DROPPED:
        return MISSING
    return SIGNATURES.get(entry.action, OTHER) if entry.category == GREYLISTING else OTHER


def line(entry: Entry, device: Device) -> str:
    """The entry, on one line."""
    kind = signature(entry)
    header = "|".join(map(_header, (VENDOR, VENDOR, device.version, kind.id, kind.name, str(kind.severity))))
    extension = " ".join(_pairs(entry, device, VALUE_BYTES))
    if len(extension.encode("utf-8", "replace")) > LINE_BYTES:
        extension = " ".join(_pairs(entry, device, SHORT_BYTES))
    return f"CEF:0|{header}|{extension}"


def _pairs(entry: Entry, device: Device, most: int) -> Iterator[str]:
    values = (
        ("rt", str(round(entry.time * 1000))),
        ("src", entry.client),
        ("c6a2", entry.client if ":" in entry.client else ""),
        ("shost", entry.helo),
        ("suser", entry.sender or ("<>" if entry.category == GREYLISTING else "")),
        ("duser", entry.recipient),
        ("act", entry.action),
        ("cat", entry.category),
        ("reason", entry.reason),
        ("msg", entry.subject),
        ("flexString1", entry.message_id),
        ("dhost", device.node),
        ("deviceExternalId", device.node_id),
        ("sourceServiceName", entry.source),
        ("externalId", str(entry.sequence)),
        ("cn1", str(entry.seconds_left or "")),
        ("cn2", str(entry.lost or "")),
        ("cs1", device.cluster),
        ("cs2", entry.instance),
        ("cs3", entry.client_name),
        ("cs4", "yes" if entry.degraded else ""),
    )
    for key, value in values:
        if value:
            yield f"{key}={_value(value, most)}"
            if key in _LABELS:
                yield f"{key}Label={_LABELS[key]}"


def shown(text: str, most: int = VALUE_BYTES) -> str:
    """A value on one line, cut, with what is not printable replaced; line ends stay what they are."""
    if len(text) > most // 4 and len(data := text.encode("utf-8", "replace")) > most:
        text = data[:most].decode("utf-8", "ignore")
    return (
        text if text.isprintable() else "".join(sign if sign.isprintable() or sign in "\r\n" else "?" for sign in text)
    )


def _header(text: str) -> str:
    return shown(text).replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")


def _value(text: str, most: int) -> str:
    text = shown(text, most).replace("\\", "\\\\").replace("=", "\\=")
    return text.replace("\r", "\\r").replace("\n", "\\n")
