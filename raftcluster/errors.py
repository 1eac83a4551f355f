"""Errors, split by what the caller may conclude.

Three errors answer the question a caller of a replicated operation has -- *was it applied?*

* :class:`Unavailable`    -- it was **not** applied; asking again is safe.
* :class:`OutcomeUnknown` -- it **may** have been applied; ask again with the same request id, or read.
* :class:`Rejected`       -- it **never** will be; asking again in the same way is pointless.

Everything that can go wrong before there is an operation (a directory, a port, a certificate, a disk) is a
:class:`Refusal`: a `Rejected` of the environment. Every error names the thing (`subject`) and the remedy.
"""

from __future__ import annotations


class RaftclusterError(Exception):
    """Base of every error that this library raises on purpose.

    `exit_code` is what the CLI exits with (docs/exit-codes.md); `code` is stable, for programs.
    """

    code = "error"
    exit_code = 1

    def __init__(self, message: str, *, subject: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class Unavailable(RaftclusterError):
    """Not applied. Safe to ask again, here or at another node."""

    code = "unavailable"
    exit_code = 5


class OutcomeUnknown(RaftclusterError):
    """May have been applied. Asking again with the same request id is safe; with a new one it is not."""

    code = "outcome-unknown"
    exit_code = 6


class Rejected(RaftclusterError):
    """Never applied, and never will be in this form."""

    code = "rejected"
    exit_code = 4


class Refusal(Rejected):
    """The environment does not allow it: nothing was started, nothing was changed."""

    code = "refused"


class Damaged(RaftclusterError):
    """Members hold different tables at one log index, or what one has stored cannot be read. Found by `verify`."""

    code = "damaged"
    exit_code = 14


class NotRunning(Refusal):
    """No node answers at the control socket."""

    code = "not-running"
    exit_code = 7


class StorageRefusal(Refusal):
    """A data directory that cannot be used."""

    code = "storage"
    exit_code = 8


class DataVersion(StorageRefusal):
    """The data directory was written by another, incompatible version."""

    code = "data-version"


class StorageFull(StorageRefusal):
    """The disk or the map is full. Reads go on; the node takes no part in votes and writes until there is space."""

    code = "storage-full"


class StorageFailed(StorageRefusal):
    """A write or an fsync failed. Latched: the node has stopped for good and must be restarted."""

    code = "storage-failed"


class Removed(Refusal):
    """This node was removed from its cluster. It has stopped, and does not start again until it has joined anew."""

    code = "removed"
    exit_code = 13


class BackupDamaged(Refusal):
    """A backup file that is not what was written: cut short, changed, or none at all."""

    code = "backup-damaged"
    exit_code = 12


class BackupForeign(Refusal):
    """A backup that this program cannot restore: another product, other tables, or a newer format."""

    code = "backup-foreign"
    exit_code = 12


class AddressInUse(Refusal):
    """The address to listen at is taken or not ours."""

    code = "address-in-use"
    exit_code = 9


class MissingPrivilege(Refusal):
    """The operating system does not permit it to this user."""

    code = "missing-privilege"
    exit_code = 10


class LinkRefused(Refusal):
    """A peer, or we, refused a connection: wrong cluster, unknown certificate, removed member, other version."""

    code = "link-refused"
    exit_code = 11


class OtherCluster(LinkRefused):
    """Who answers belongs to another cluster: two of them on one host, or an address that has changed hands."""

    code = "other-cluster"
    exit_code = 15


class ChecksFailed(Refusal):
    """Hosts are not fit to become nodes: the checks that failed are named, each with what mends it. Nothing was changed."""

    code = "checks-failed"
    exit_code = 16


class MixedRealms(Refusal):
    """Hosts of different trust realms were to form one cluster; the offenders are named. Nothing was changed."""

    code = "mixed-realms"
    exit_code = 16


class FrameError(Refusal):
    """Bytes that are no frame: oversized, torn, malformed. The connection that carried them is closed."""

    code = "frame"
    exit_code = 11


class PushFailed(RaftclusterError):
    """What was run on another host has failed there, or some of several hosts are not what was asked for. Asking again does what is
    missing."""

    code = "push-failed"
    exit_code = 17
