"""The data directory: what it refuses, and that a file in it is the old one or the new one."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from raftcluster.errors import DataVersion, MissingPrivilege, Refusal, StorageFailed, StorageFull, StorageRefusal
from raftcluster.storage import directory
from raftcluster.storage.directory import VERSION, DataDirectory, archive, neighbours

NODE = {
    **dict.fromkeys(("node_id", "name", "cluster_id", "cluster", "founder", "product"), "n1"),
    "listen": ["127.0.0.1", 9777],
    "advertise": ["127.0.0.1", 9777],
    "lab": True,
}
HOLDER = """
import sys
from raftcluster.storage.directory import DataDirectory
with DataDirectory.open(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_created_directory_opens_again(tmp_path: Path) -> None:
    root = tmp_path / "var" / "cluster"
    with DataDirectory.create(root) as directory:
        assert directory.generations() == []
        directory.write_node(NODE)
        directory.write(f"{directory.certificates(3).relative_to(root)}/node.key", b"secret")
        directory.write("certificates/12/root.pem", b"root")
    with DataDirectory.open(root) as directory:
        assert directory.read_node() == NODE
        assert directory.generations() == [3, 12]
        assert (directory.certificates(3) / "node.key").read_bytes() == b"secret"
        assert all(folder.is_dir() for folder in (directory.log, directory.tables, directory.local))
        assert directory.control_socket == root / "control.sock" and directory.events == root / "events.log"
    assert (root / "VERSION").read_text() == f"{VERSION}\n"


def test_nobody_else_may_look_into_it(tmp_path: Path) -> None:
    root = tmp_path / "data"
    before = os.umask(0)
    try:
        with DataDirectory.create(root) as directory:
            directory.write_node({})
            directory.write("certificates/1/node.key", b"secret")
    finally:
        os.umask(before)
    for path in (root, *root.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_another_version_is_named_with_the_remedy(tmp_path: Path) -> None:
    DataDirectory.create(tmp_path / "data").close()
    (tmp_path / "data" / "VERSION").write_text("raftcluster-data 99\n")
    with pytest.raises(DataVersion) as caught:
        DataDirectory.open(tmp_path / "data")
    assert "'raftcluster-data 2'" in str(caught.value) and f"'{VERSION}'" in str(caught.value) and caught.value.remedy
    (tmp_path / "data" / "VERSION").write_bytes(b"\xff" * 1000)
    with pytest.raises(DataVersion):
        DataDirectory.open(tmp_path / "data")


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageRefusal, match="no data directory"):
        DataDirectory.open(tmp_path / "absent")
    with pytest.raises(StorageRefusal, match="no data directory"):
        DataDirectory.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageRefusal):
        DataDirectory.open(tmp_path / "file")
    with pytest.raises(StorageRefusal):
        DataDirectory.create(tmp_path / "file")
    with pytest.raises(StorageRefusal, match="not empty: it holds file"):
        DataDirectory.create(tmp_path)


def test_creating_twice_is_refused_but_an_interrupted_creation_is_finished(tmp_path: Path) -> None:
    DataDirectory.create(tmp_path / "data").close()
    with pytest.raises(StorageRefusal, match="already"):
        DataDirectory.create(tmp_path / "data")
    (tmp_path / "data" / "VERSION").rename(tmp_path / "data" / ".VERSION.new")
    DataDirectory.create(tmp_path / "data").close()
    DataDirectory.open(tmp_path / "data").close()


def test_what_was_only_just_begun_is_begun_again_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "data"
    DataDirectory.begin(root, lambda _: False).close()
    (root / ".join.json.new").touch()
    DataDirectory.begin(root, lambda _: False).close()
    for name in ("join.json", "certificates/1/node.key"):
        with DataDirectory.open(root) as opened:
            opened.write(name, b"{}")
        with pytest.raises(StorageRefusal, match="is a data directory already"):
            DataDirectory.begin(root, lambda _: False)
        with DataDirectory.begin(root, lambda _: True), pytest.raises(StorageRefusal, match="already used by process"):
            DataDirectory.begin(root, lambda _: True)
        (root / name).unlink()


def test_what_another_process_has_made_meanwhile_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"

    def late(path: Path) -> int:
        monkeypatch.undo()
        DataDirectory.create(path).close()
        return directory._locked(path)

    monkeypatch.setattr(directory, "_locked", late)
    with pytest.raises(StorageRefusal, match="is a data directory already"):
        DataDirectory.create(root)
    DataDirectory.open(root).close()


def test_a_second_user_is_refused_by_the_number_of_the_first(tmp_path: Path) -> None:
    root = tmp_path / "data"
    directory = DataDirectory.create(root)
    with pytest.raises(Refusal, match=f"already used by process {os.getpid()}"):
        DataDirectory.open(root)
    directory.close()
    directory.close()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        with pytest.raises(Refusal, match=f"already used by process {holder.pid}"):
            DataDirectory.open(root)
        holder.kill()
        holder.wait()
    DataDirectory.open(root).close()


def test_a_file_of_another_owner_is_a_missing_privilege(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who is refused nothing: the operating system's answer is put in its mouth."""
    root = tmp_path / "data"
    with DataDirectory.create(root) as directory:
        for number, kind in (
            (errno.EACCES, MissingPrivilege),
            (errno.EROFS, MissingPrivilege),
            (errno.ENOSPC, StorageFull),
            (errno.EIO, StorageFailed),
            (errno.EMFILE, StorageRefusal),
        ):

            def refuse(*_: object, number: int = number, **__: object) -> int:
                raise OSError(number, os.strerror(number))

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", refuse)
                with pytest.raises(kind, match=r"node\.json") as caught:
                    directory.write_node({})
            assert caught.value.subject == str(root / "node.json")


def test_a_file_and_then_its_name_are_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DataDirectory.create(tmp_path / "data") as directory:
        synced: list[str] = []
        fsync = os.fsync

        def noted(descriptor: int) -> None:
            names = sorted(path.name for path in directory.path.iterdir() if "node.json" in path.name)
            synced.append(f"{Path(os.readlink(f'/proc/self/fd/{descriptor}')).name} with {names}")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", noted)
        directory.write_node({})
    assert synced == [".node.json.new with ['.node.json.new']", "data with ['node.json']"]


def test_the_folders_above_it_are_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of an attempt that broke off before it came to that."""
    root, synced = tmp_path / "srv" / "mail" / "data", set[str]()
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", lambda descriptor: synced.add(os.readlink(f"/proc/self/fd/{descriptor}")))
            DataDirectory.create(root).close()
        assert {str(each) for each in (tmp_path, *root.parents[:2])} <= synced
        (root / "VERSION").unlink()
        synced.clear()


def test_what_is_removed_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DataDirectory.create(tmp_path / "data") as made:
        made.write("restore.json", b"{}")
        synced: list[tuple[str, bool]] = []

        def noted(descriptor: int) -> None:
            synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (made.path / "restore.json").exists()))

        monkeypatch.setattr(os, "fsync", noted)
        made.remove("restore.json")
    assert synced == [(str(made.path), False)]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    with DataDirectory.create(tmp_path / "data") as directory:
        directory.write_node(NODE)
        present = set(directory.path.iterdir())
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        try:
            with pytest.raises(StorageRefusal, match="File too large"):
                directory.write("node.json", b"x" * 10_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert directory.read_node() == NODE and set(directory.path.iterdir()) == present


def test_a_node_file_that_is_damaged_is_not_believed(tmp_path: Path) -> None:
    with DataDirectory.create(tmp_path / "data") as directory:
        with pytest.raises(StorageRefusal, match="no node yet"):
            directory.read_node()
        nowhere = [json.dumps({**NODE, "listen": each}).encode() for each in (["h"], ["h", "1"], [1, 1], "h")]
        for damaged in (b"", b"{", b"\xff", b"[]", b"{}", b"[" * 100_000, *nowhere):
            directory.write("node.json", damaged)
            with pytest.raises(StorageFailed, match=r"node\.json"):
                directory.read_node()


@pytest.mark.parametrize("name", ["VERSION", "node.json", "before.json"])
def test_nobody_waits_for_what_is_no_file(tmp_path: Path, name: str) -> None:
    root = tmp_path / "data"
    with DataDirectory.create(root) as made:
        made.write_node(NODE)
    for change in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        (root / name).unlink()
        change(root / name)
        with pytest.raises(StorageRefusal, match="data"), DataDirectory.open(root) as opened:
            (opened.read_node(), opened.read_before())
        (root / name).rmdir() if (root / name).is_dir() else (root / name).unlink()
        (root / name).touch()


def test_what_the_system_refuses_while_a_directory_is_open_is_told_in_words(tmp_path: Path) -> None:
    root = tmp_path / "data"
    DataDirectory.create(root).close()
    for number, kind in ((errno.EACCES, MissingPrivilege), (errno.ENOSPC, StorageFull), (errno.EIO, StorageFailed)):
        with pytest.raises(kind) as caught, DataDirectory.open(root):
            raise OSError(number, os.strerror(number), str(root / "certificates"))
        assert caught.value.subject == str(root / "certificates") and caught.value.remedy
    for other in (
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        InterruptedError("enough"),
    ):  # who is told the progress raises it
        with pytest.raises(type(other)), DataDirectory.open(root):
            raise other


def test_neighbouring_archives_are_those_that_only_this_user_can_write_to(tmp_path: Path) -> None:
    own, beside, inside = tmp_path / "mx-destroyed", tmp_path / "gateway-destroyed", tmp_path / "other" / "destroyed"
    shared, link = tmp_path / "shared-destroyed", tmp_path / "link-destroyed"
    for folder in (own, beside, inside, shared, tmp_path / "elsewhere"):
        folder.mkdir(parents=True, mode=0o700)
    shared.chmod(0o770)
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file-destroyed").touch()
    assert archive(tmp_path / "mx") == own
    assert neighbours(tmp_path / "mx") == [beside, inside]


def test_neighbouring_archives_of_another_user_are_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gateway-destroyed").mkdir(mode=0o700)
    assert neighbours(tmp_path / "mx") == [tmp_path / "gateway-destroyed"]
    stranger = os.geteuid() + 1
    monkeypatch.setattr("raftcluster.storage.directory.os.geteuid", lambda: stranger)
    assert neighbours(tmp_path / "mx") == []


def test_an_archive_of_another_user_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, inside = tmp_path / "mx-destroyed", tmp_path / "mx" / "destroyed"
    assert archive(tmp_path / "mx") == beside
    beside.mkdir(mode=0o700)
    assert archive(tmp_path / "mx") == beside
    beside.chmod(0o777)
    assert archive(tmp_path / "mx") == inside, "whoever can write there could take the record away"
    beside.chmod(0o700)
    stranger = os.geteuid() + 1
    monkeypatch.setattr("raftcluster.storage.directory.os.geteuid", lambda: stranger)
    assert archive(tmp_path / "mx") == inside
