"""What a lease may be called and how long it may last: pure functions that raise `Rejected`."""

from __future__ import annotations

import re
from typing import Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./@-]*", re.ASCII)


class LeaseHeld(Rejected):
    """Somebody else has it, or had it so lately that it is kept from others yet."""

    code = "lease-held"


class LeaseLost(Rejected):
    """The caller does not hold it, or no more."""

    code = "lease-lost"


def check_name(name: Value) -> None:
    """Letters, digits and `_ . / @ -`, at most `limits.LEASE_NAME_BYTES` of them."""
    if type(name) is not str or len(name) > limits.LEASE_NAME_BYTES or not _NAME.fullmatch(name):
        raise Rejected(
            f"{name!a:.300} is no name of a lease",
            subject="lease",
            remedy=f"letters, digits and _ . / @ -, at most {limits.LEASE_NAME_BYTES}",
        )


def check_times(term_ms: Value, at_least_ms: Value) -> None:
    """A term of `LEASE_MIN_SECONDS` to `LEASE_MAX_SECONDS`; what is kept at least may be nothing."""
    least, most = int(limits.LEASE_MIN_SECONDS * 1000), int(limits.LEASE_MAX_SECONDS * 1000)
    if type(term_ms) is not int or not least <= term_ms <= most:
        raise Rejected(f"a lease lasts {least} to {most} ms, not {term_ms!a:.40}", subject="seconds")
    if type(at_least_ms) is not int or not 0 <= at_least_ms <= most:
        raise Rejected(f"a lease is kept 0 to {most} ms, not {at_least_ms!a:.40}", subject="at_least")


def check_holder(node: Value, label: Value) -> None:
    """The node's id and name."""
    if not all(type(each) is str and len(each) <= limits.NAME_BYTES for each in (node, label)):
        raise Rejected("malformed holder of a lease", subject="lease")
