"""A node's data directory: its layout, its version, its lock, and how a file in it is written.

    VERSION        raftcluster-data 2; written last, so that what has it is complete
    LOCK           held with flock while a process uses the directory; names the process
    node.json      who this node is
    log/                                    the segments of the log
    tables/ local/                         LMDB environments
    certificates/<generation>/{root.pem,node.pem,node.key}
    before.json    what was there before, for the end of the cluster
    events.log     what has happened; see docs/events.md
    maillog/       what was decided about mail; see docs/logs.md
    control.sock

Directories are 0700, files 0600: there are keys in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from raftcluster import failpoints
from raftcluster.errors import DataVersion, MissingPrivilege, StorageFailed, StorageFull, StorageRefusal

VERSION: Final = "raftcluster-data 2"

EVENTS: Final = "events.log"
"""The node's own record of events."""
BEFORE: Final = "before.json"
"""What was there before the directory became a node's."""
DESTROYED: Final = "destroyed"
"""What is kept of destroyed clusters; see `archive`."""

_FOLDERS: Final = ("log", "tables", "local", "certificates")
_UNFINISHED: Final = {
    *_FOLDERS,
    "LOCK",
    "node.json",
    BEFORE,
    f".{BEFORE}.new",
    ".VERSION.new",
    DESTROYED,
}  # what an interrupted `create` may leave


_NODE: Final[dict[str, type]] = {
    **dict.fromkeys(("node_id", "name", "cluster_id", "cluster", "founder", "product"), str),
    **dict.fromkeys(("listen", "advertise"), list),
    "lab": bool,
}
"""What node.json says of every node."""


class DataDirectory:
    """An opened, locked data directory.

    Thread: any; writes of one file are the caller's to order. Not after a fork: the lock is the parent's.
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        """Use `create` or `open`."""
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> DataDirectory:
        """Make the directory (and its parents) and open it.

        Raises `StorageRefusal` when it holds anything already, `MissingPrivilege`, `StorageFull`, and `StorageRefusal` when in use.
        """
        root = Path(path)
        with refusals(root):
            before = _before(root)
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_unused(root)  # what is another's is not even locked
            directory = cls(root, _locked(root))
            try:
                _check_unused(root)  # another process may have made it meanwhile
                for folder in _FOLDERS:
                    (root / folder).mkdir(mode=0o700, exist_ok=True)
                if not (root / BEFORE).exists():
                    directory.write(BEFORE, json.dumps(before).encode())
                directory.write("VERSION", f"{VERSION}\n".encode())
                for made in (root, *map(Path, directory.read_before().get("made", []))):
                    sync_directory(made.parent)
            except BaseException:
                directory.close()
                raise
            return directory

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> DataDirectory:
        """Open and lock an existing one.

        Raises `StorageRefusal` when there is none, `DataVersion`, `MissingPrivilege`, `StorageRefusal` when it is in use.
        """
        root = Path(path)
        with refusals(root):
            try:
                version = read_file(root / "VERSION").decode("utf-8", "replace")[:80].strip()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise StorageRefusal(
                    f"{root} is no data directory", subject=str(root), remedy="create it: raftcluster init or join"
                ) from error
            if version != VERSION:
                raise DataVersion(
                    f"{root} was written as {version!r}, this program reads {VERSION!r}",
                    subject=str(root),
                    remedy="install the version that wrote it, or join again with an empty directory",
                )
            return cls(root, _locked(root))

    @classmethod
    def begin(cls, path: str | os.PathLike[str], unfinished: Callable[[Path], bool]) -> DataDirectory:
        """`create` it, or `open` what an attempt that broke off has left: one that is `unfinished`, or that holds nothing yet.

        That is asked with the lock held: who held it before may have finished. Raises what `create` and `open` do.
        """
        root = Path(path)
        with refusals(root):
            if not (root / "VERSION").exists():
                return cls.create(root)
            directory = cls.open(root)
            try:
                if not unfinished(root) and not _is_new(root):
                    raise _taken(root)
            except BaseException:
                directory.close()
                raise
            return directory

    @classmethod
    def look(cls, path: str | os.PathLike[str]) -> DataDirectory:
        """Without locking it: to read its files, while a process may use it. Raises `StorageRefusal` when there is none."""
        root = Path(path)
        with refusals(root):
            found = (root / "VERSION").is_file()
        if not found:
            raise StorageRefusal(f"{root} is no data directory", subject=str(root), remedy="name another one with -C")
        return cls(root, None)

    def close(self) -> None:
        """Unlock. Idempotent."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # explicitly: a forked child may hold the descriptor, too
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> DataDirectory:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close it. What the operating system has refused meanwhile is told as ours."""
        self.close()
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            with refusals(Path(error.filename) if isinstance(error.filename, str) else self.path):
                raise error

    # --- the layout

    @property
    def log(self) -> Path:
        """For `LogStore`."""
        return self.path / "log"

    @property
    def tables(self) -> Path:
        """For `TableStore`."""
        return self.path / "tables"

    @property
    def local(self) -> Path:
        """What this node keeps for itself, never replicated."""
        return self.path / "local"

    @property
    def control_socket(self) -> Path:
        """The control socket."""
        return self.path / "control.sock"

    @property
    def events(self) -> Path:
        """The log of events."""
        return self.path / EVENTS

    @property
    def maillog(self) -> Path:
        """The folder of the mail log; it need not exist."""
        return self.path / "maillog"

    def certificates(self, generation: int) -> Path:
        """The folder of one certificate generation; it need not exist."""
        return self.path / "certificates" / str(generation)

    def generations(self) -> list[int]:
        """The certificate generations that have a folder, ascending."""
        return sorted(int(folder.name) for folder in (self.path / "certificates").iterdir() if folder.name.isdecimal())

    # --- files

    def write(self, name: str, data: bytes) -> None:
        """Write the file `name` (a path below the directory): durably, and all or nothing -- readers and a crash see the
        old content or the new. Missing folders are made. Raises `StorageFull`, `StorageFailed`, `MissingPrivilege`."""
        target = self.path / name
        with refusals(target):
            self._make_folder(target.parent)
            temporary = target.with_name(f".{target.name}.new")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                failpoints.reach("file.rename.before")
                temporary.replace(target)
                failpoints.reach("file.rename.after")
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            sync_directory(target.parent)

    def remove(self, name: str) -> None:
        """Remove the file `name`, durably. Raises as `write` does."""
        target = self.path / name
        with refusals(target):
            target.unlink()
            sync_directory(target.parent)

    def read_node(self) -> dict[str, Any]:
        """The content of node.json. Raises `StorageRefusal` when there is none, `StorageFailed` when it is damaged."""
        file = self.path / "node.json"
        node = read_object(file)
        if node is None:
            raise StorageRefusal(
                f"{self.path} belongs to no node yet", subject=str(file), remedy="raftcluster init or join"
            )
        check_node(node, file)
        return node

    def read_before(self) -> dict[str, Any]:
        """What was there before: "existed" (the directory itself) and "made" (folders above it, the deepest first). Raises `StorageFailed` when the file is damaged."""
        file = self.path / BEFORE
        before = read_object(file)
        if before is None:
            return {"existed": True}
        check_before(before, file)
        return before

    def write_node(self, node: Mapping[str, Any]) -> None:
        """Write node.json."""
        self.write("node.json", (json.dumps(node, indent=2, sort_keys=True) + "\n").encode())

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)
            sync_directory(folder.parent)


def _check_unused(root: Path) -> None:
    """Refuse what holds anything but what an interrupted `create` may have left."""
    present = {entry.name for entry in root.iterdir()}
    if "VERSION" in present:
        raise _taken(root)
    if strange := present - _UNFINISHED:
        raise StorageRefusal(
            f"{root} is not empty: it holds {min(strange)}", subject=str(root), remedy="name another directory"
        )


def _is_new(root: Path) -> bool:
    """Whether nothing was done to it since `create`, but for a file that was not finished."""
    names = {entry.name for entry in root.iterdir()} - _UNFINISHED - {"VERSION"}
    return all(name.startswith(".") and name.endswith(".new") for name in names) and not any(
        entry for folder in _FOLDERS for entry in (root / folder).iterdir()
    )


def _taken(root: Path) -> StorageRefusal:
    return StorageRefusal(f"{root} is a data directory already", subject=str(root), remedy="open it, or name another")


def files_below(folder: Path) -> list[Path]:
    """What is below a folder and is none. Raises `OSError`: one that cannot be listed is not empty, as `Path.rglob` would have it."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # gone meanwhile
            raise error

    return sorted(Path(where, name) for where, _, names in os.walk(folder, onerror=refuse) for name in names)


def open_file(file: str | os.PathLike[str]) -> BinaryIO:
    """A file that is one, to be read: nobody waits for what comes out of a pipe. Raises `OSError`."""
    opened = open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115 - the caller's
    if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        return opened
    opened.close()
    raise OSError(errno.EINVAL, "it is no regular file", os.fspath(file))


def read_file(file: Path) -> bytes:
    """What is in a file that is one. Raises `OSError`."""
    with open_file(file) as opened:
        return opened.read()


def read_object(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is no such file. Raises `StorageFailed` for anything else, and as `write` does."""
    with refusals(file):
        try:
            found = json.loads(read_file(file))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise damaged(file, f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise damaged(file, "it is no JSON object")
    return found


def check_node(node: Any, file: Path) -> None:
    """Raises `StorageFailed` unless this is what node.json says of a node: `file` holds it."""
    if not isinstance(node, dict) or not all(isinstance(node.get(name), kind) for name, kind in _NODE.items()):
        raise damaged(file, "it does not say who the node is")
    for host, port in (each if len(each) == 2 else ("", "") for each in (node["listen"], node["advertise"])):
        if not isinstance(host, str) or type(port) is not int:
            raise damaged(file, "it does not say where the node is")


def check_before(before: dict[str, Any], file: Path) -> None:
    """Raises `StorageFailed` unless this is what `DataDirectory.read_before` tells: `file` holds it."""
    made = before.get("made", [])
    if not isinstance(made, list) or not all(isinstance(each, str) for each in made):
        raise damaged(file, "it does not say which folders were made")


def damaged(file: Path, why: str) -> StorageFailed:
    """The refusal of a file that is not what was written."""
    return StorageFailed(f"{file} is damaged: {why}", subject=str(file), remedy="restore it, or join again")


def _before(root: Path) -> dict[str, Any]:
    """See `DataDirectory.read_before`."""
    made = [str(each.absolute()) for each in root.parents if not each.exists()]
    return {"existed": root.exists(), "made": made}


def archive(path: str | os.PathLike[str]) -> Path:
    """Where tombstones and event records of clusters that `path` once belonged to are kept: beside the data directory, for
    that is removed; inside where this user may not write beside it, as when what is kept there is another user's. The folder
    need not exist."""
    root = Path(path).absolute()
    beside, inside = root.with_name(f"{root.name}-{DESTROYED}"), root / DESTROYED
    usable = _is_ours(beside) if beside.exists() else os.access(root.parent, os.W_OK)
    return beside if usable and not inside.is_dir() else inside


def neighbours(path: str | os.PathLike[str]) -> list[Path]:
    """The archives of other data directories beside `path`, as far as they are this user's alone: whoever could write to
    them could write to this one's. Elsewhere on the host is not looked."""
    root = Path(path).absolute()
    try:
        found = [*root.parent.glob(f"*-{DESTROYED}"), *root.parent.glob(f"*/{DESTROYED}")]
    except OSError:
        return []
    return sorted(each for each in found if each != archive(root) and _is_ours(each))


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def _locked(root: Path) -> int:
    """The descriptor of the lock file, locked. Raises `Refusal` naming the process that has it."""
    descriptor = os.open(root / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StorageRefusal(
            f"{root} is already used by process {holder}",
            subject=str(root),
            remedy="stop it, or use its control socket",
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def sync_directory(folder: Path) -> None:
    """Make what was created, renamed or removed in `folder` durable. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """The operating system's errors as ours, naming `path`."""
    try:
        yield
    except OSError as error:
        reason = f"{path}: {error.strerror}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise MissingPrivilege(reason, subject=str(path), remedy="run as the owner of the directory") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(reason, subject=str(path), remedy="free disk space") from error
        if error.errno == errno.EIO:
            raise StorageFailed(reason, subject=str(path), remedy="check the disk") from error
        raise StorageRefusal(reason, subject=str(path), remedy="name a directory that can be used") from error
