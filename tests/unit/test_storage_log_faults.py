"""The log in files when the system refuses, or does less than it was asked for."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from raftcluster.errors import MissingPrivilege, StorageFailed, StorageFull
from raftcluster.storage import log as log_module
from raftcluster.storage.log import NEXT, LogStore
from tests.helpers import eventually
from tests.unit.test_storage_log import appends, appends_of, files, image, read, small, written


def test_what_a_full_disk_took_of_a_frame_is_gone_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one has more records, and stands in the next segment; all of the first attempt may be on the disk, too."""
    small(monkeypatch)
    for number, share in enumerate((0.3, 0.9, 1.0)):
        path = tmp_path / str(number)
        log = LogStore(path)
        pwrite, refused = os.pwrite, threading.Event()

        def some(file: int, data: bytes, offset: int) -> int:
            pwrite(file, data[: int(len(data) * share)], offset)  # noqa: B023 -- undone before the next round
            refused.set()  # noqa: B023
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", some)
            log.submit(appends(1, 1, 700))
            assert refused.wait(60)
            log.submit(appends(2, 2, 2_000))
        eventually(lambda: log.health == "ok", what="health")  # noqa: B023 -- called at once
        assert log.block() == log.scrub() == 2
        log.close()
        assert len([file for file in files(path) if file.name != NEXT]) == 2
        assert read(path).entries == appends_of((1, 700), (2, 2_000))


def test_a_write_that_the_system_takes_in_parts_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: pwrite(file, data[:7], offset))
    written(tmp_path, *(appends(index, index, 900) for index in range(1, 6)))
    assert read(tmp_path) == image(1, 5, 900)


def test_a_segment_that_cannot_be_removed_stays_until_the_next_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    log = LogStore(tmp_path)
    for index in range(1, 31):
        log.submit(appends(index, index, 900))
        log.block()

    def refuse(path: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    first = files(tmp_path)[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        log.submit([("cut", 29)])
        assert log.block() == 31 and log.health == "ok"
    assert first.exists() and log.load() == image(29, 30, 900)
    log.submit([("cut", 30)])
    log.block()
    assert not first.exists() and log.load() == image(30, 30, 900)
    log.close()


def test_without_descriptors_the_log_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    log = LogStore(tmp_path)

    def refuse(path: Path, *_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        log.submit(appends(1, 1, 3_000))
        eventually(lambda: log.health == "full", what="health")
        with pytest.raises(StorageFull, match="Too many open files") as caught:
            log.block()
        assert caught.value.remedy == "allow this process more open files"
    eventually(lambda: log.health == "ok", what="health")
    log.close()
    assert read(tmp_path) == image(1, 1, 3_000)


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EACCES, MissingPrivilege), (errno.EMFILE, StorageFull), (errno.EIO, StorageFailed)]
)
def test_a_directory_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    """`Path.glob` finds nothing where the system refuses: the first segment was replaced by a new one."""
    written(tmp_path, appends(1, 3))

    def refuse(path: object) -> list[str]:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(error, match=str(tmp_path)):
            LogStore(tmp_path)
    assert read(tmp_path) == image(1, 3)


def test_a_disk_that_cannot_be_read_fails_a_scrub(tmp_path: Path) -> None:
    log = LogStore(tmp_path / "log")
    (tmp_path / "log").rename(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed, match=r"reading .* failed: No such file"):
        log.scrub()
    log.close()


def test_a_log_whose_folder_is_made_is_durable_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(log_module, "sync_directory", synced.append)
    written(tmp_path / "log", appends(1, 1))
    assert synced[0] == tmp_path and tmp_path / "log" in synced
