"""What an administrator may set of one node's mail log: keys below `local/maillog/`, which never leave the node. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.maillog.address import parse

PREFIX: Final = "local/maillog/"


@dataclass(frozen=True, slots=True)
class Settings:
    """Raises `Rejected` when made from what does not fit together."""

    enabled: bool = True
    """Whether decisions are logged at all."""
    file_bytes: int = 16 * limits.MIB
    """A file is put aside when it is as long as this, or a day old."""
    keep_bytes: int = 256 * limits.MIB
    """Of all files together: the oldest is removed when there would be more. At least two files."""
    keep_days: int = 30
    """A file is removed when its newest entry is older than this, in days."""
    export: str = ""
    """Where entries are sent: `udp://HOST[:PORT]`, `tcp://HOST[:PORT]`, `tls://HOST[:PORT]`, `system` (this host's journal, or its
    syslog); nowhere when it is empty."""
    export_ca: str = ""
    """For `tls`: the path of a PEM file with the certificates to believe; those of the operating system when it is empty."""
    export_certificate: str = ""
    """For `tls`: the path of a PEM file with the certificate that this node shows."""
    export_key: str = ""
    """For `tls`: the path of the key to it, not encrypted; it may be in the certificate's file instead."""
    export_name: str = ""
    """For `tls`: the receiver's name in its certificate, when it is not the host's."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not type(field.default):
                raise _rejected(field.name, f"takes {_KINDS[type(field.default)]}, not {value!r:.80}")
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                raise _rejected(name, f"is {least} to {most}, not {getattr(self, name)}")
        if self.export:
            parse(self.export)
        if self.keep_bytes < 2 * self.file_bytes:
            raise _rejected("keep_bytes", f"{self.keep_bytes} is less than two files of file_bytes {self.file_bytes}")

    @classmethod
    def of(cls, values: Mapping[str, Value]) -> Self:
        """From what is set, by key. Raises `Rejected` for a key that is none."""
        named: dict[str, Any] = {}
        for key, value in values.items():
            name = key.removeprefix(PREFIX)
            if name not in NAMES:
                raise Rejected(
                    f"the mail log has no setting {name}", subject=key, remedy=f"it has {', '.join(sorted(NAMES))}"
                )
            named[name] = value
        return cls(**named)

    def target(self) -> tuple[str, ...]:
        """All that says where entries are sent."""
        return self.export, self.export_ca, self.export_certificate, self.export_key, self.export_name

    def values(self) -> dict[str, Value]:
        """By name."""
        return asdict(self)


NAMES: Final = frozenset(field.name for field in fields(Settings))
_KINDS: Final = {bool: "true or false", int: "a whole number", str: "text"}
_RANGES: Final = {
    "file_bytes": (64 * limits.KIB, limits.GIB),
    "keep_bytes": (128 * limits.KIB, 1024 * limits.GIB),
    "keep_days": (1, 3_650),
}


def _rejected(name: str, what: str) -> Rejected:
    return Rejected(f"{name} {what}", subject=PREFIX + name, remedy="see docs/logs.md")
