"""What the checks have found: a `Row` a check and host, and the `Report` of all. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from raftcluster.errors import ChecksFailed


class Check(StrEnum):
    """What is looked at, in the order in which it matters."""

    RESOLVES = "name resolves"
    SSH = "SSH reachable"
    ACCOUNT = "this account works"
    PRIVILEGE = "privilege"
    REALM = "trust realm"
    INSTALLED = "existing installation"
    PYTHON = "Python"
    DISK = "disk"
    CLOCK = "clock"
    FIREWALL = "firewall"
    INWARD = "others reach its port"
    OUTWARD = "it reaches others' ports"


class Outcome(StrEnum):
    """Of one check at one host."""

    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """It could not be looked at, for the reason that is said; what keeps it from it is a failed row of its own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One check at one host."""

    host: str
    check: Check
    outcome: Outcome
    said: str
    """What was found."""
    remedy: str = ""
    """The command that mends it, for a root shell on that host unless it says where; empty unless failed."""


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, by host and in the order of the checks."""

    rows: tuple[Row, ...]

    @property
    def failed(self) -> tuple[Row, ...]:
        """Those that failed."""
        return tuple(each for each in self.rows if each.outcome is Outcome.FAILED)

    @property
    def error(self) -> ChecksFailed | None:
        """What there is to raise when one has failed."""
        failed = self.failed
        if not failed:
            return None
        names = list(dict.fromkeys(each.host for each in failed))
        return ChecksFailed(
            f"{len(failed)} of {len(self.rows)} checks failed, at {', '.join(names)}",
            subject=", ".join(names),
            remedy="run what is printed for each, then check again",
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        error = self.error
        return {
            "rows": [asdict(each) for each in self.rows],
            "error": None
            if error is None
            else {"code": error.code, "message": error.message, "subject": error.subject, "remedy": error.remedy},
        }
