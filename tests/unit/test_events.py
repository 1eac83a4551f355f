"""The event record: the catalogue, the file and what a crash does to it, the journal's and syslog's forms."""

from __future__ import annotations

import array
import errno
import json
import os
import random
import re
import resource
import socket
import string
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.events import journald, log, syslog
from raftcluster.events.catalogue import CATALOGUE, SEVERITIES, Event, kind
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from tests import checkout, docs_events

NODE = {"cluster_id": "c1", "cluster": "mail", "node_id": "n1", "name": "mx1.example.org"}
NOWHERE = Outlet(journal=None, syslog=None)


def event(name: str = "join-refused", **fields: Any) -> Event:
    fields = fields or {"code": "token-replayed", "address": "192.0.2.7", "reason": 'a "quoted" [reason]\nand more'}
    return Event(kind(name), 1_700_000_000.5, 7, "c1", "mail", "n1", "mx1", fields)


def test_the_catalogue_is_sound() -> None:
    assert len({each.id for each in CATALOGUE}) == len({each.name for each in CATALOGUE}) == len(CATALOGUE) > 20
    for each in CATALOGUE:
        assert str(uuid.UUID(each.id)) == each.id, each.name
        assert each.severity in SEVERITIES and each.meaning, each.name
        named = {name for _, name, _, _ in string.Formatter().parse(each.text) if name}
        assert named <= set(each.fields), each.name
        assert all(re.fullmatch(r"[a-z][a-z_]{0,40}", name) for name in each.fields), each.name


def test_the_catalogue_is_documented_as_it_is() -> None:
    assert docs_events.PAGE.read_text() == docs_events.page(), "run: python -m tests.docs_events --write"


def test_every_event_that_the_library_records_is_in_the_catalogue() -> None:
    library = "\n".join(checkout.sources(*checkout.LIBRARY).values())
    recorded = set(re.findall(r'(?:recorder|auditor)\.(?:note|write|post)\(\s*"([a-z-]+)"', library))
    recorded |= set(re.findall(r'yield "([a-z-]+)", ', library)) | {"token-used", "token-revoked"}
    names = {each.name for each in CATALOGUE}
    assert len(recorded) > 20 and recorded <= names
    library = "\n".join(text for path, text in checkout.sources(*checkout.LIBRARY).items() if "catalogue" not in path)
    assert {name for name in names if f'"{name}"' not in library} - {"token-used", "token-revoked"} == set(), "unused"


def test_events_are_numbered_and_durable_in_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    recorder = Recorder(EventLog(path), NODE, NOWHERE, clock=lambda: 5.25)
    recorder.write("node-started", version="mta/1.0", listen="127.0.0.1:1")
    recorder.note("storage-well")
    recorder.close()
    assert oct(path.stat().st_mode)[-3:] == "600"
    again = Recorder(EventLog(path), NODE, NOWHERE)
    again.write("node-stopped")
    found = list(log.read(path))
    assert [each["sequence"] for each in found] == [1, 2, 3]
    assert found[0] == {
        "sequence": 1, "time": 5.25, "id": kind("node-started").id, "event": "node-started", "severity": "info",
        "message": "raftcluster mta/1.0 started, listening at 127.0.0.1:1", "cluster_id": "c1", "cluster": "mail",
        "node_id": "n1", "node": "mx1.example.org", "fields": {"version": "mta/1.0", "listen": "127.0.0.1:1"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields"), [("no-such-event", {}), ("node-stopped", {"more": 1}), ("node-failed", {})]
)
def test_what_the_catalogue_does_not_know_is_a_bug(tmp_path: Path, name: str, fields: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Recorder(EventLog(tmp_path / "events.log"), NODE, NOWHERE).write(name, **fields)
    assert not (tmp_path / "events.log").exists()


def test_what_hostile_names_hold_stays_on_one_line(tmp_path: Path) -> None:
    Recorder(EventLog(tmp_path / "e"), NODE, NOWHERE).write("node-failed", reason="a\nb\x1b[31m\udcff")
    (line,) = (tmp_path / "e").read_bytes().splitlines()
    record = log.decode(line)
    assert record is not None and record["message"].endswith(": a?b?[31m?")


def test_a_torn_end_costs_the_torn_line_only(tmp_path: Path) -> None:
    """Whatever a crash has left of the newest line, those before it and those after it are read."""
    whole = tmp_path / "whole"
    writer = EventLog(whole)
    for number in range(3):
        writer.append({"event": "x", "n": number, "sequence": 0})
    data = whole.read_bytes()
    start = len(b"".join(data.splitlines(keepends=True)[:2]))
    for cut in range(start, len(data)):
        path = tmp_path / f"cut{cut}"
        path.write_bytes(data[:cut])
        again = EventLog(path)
        kept = [0, 1] if cut < len(data) - 1 else [0, 1, 2]  # only its line feed is missing: the line is whole
        assert [each["n"] for each in log.read(path)] == kept
        again.append({"event": "x", "n": 9, "sequence": 0})
        again.close()
        found = list(log.read(path))
        assert [each["n"] for each in found] == [*kept, 9], cut
        assert [each["sequence"] for each in found] == list(range(1, len(kept) + 2)), cut


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chooser = random.Random(seed)
    path = tmp_path / "events.log"
    writer = EventLog(path)
    for number in range(5):
        writer.append({"n": number, "sequence": 0})
    writer.close()
    data = bytearray(path.read_bytes())
    lines = data.splitlines(keepends=True)
    victim = chooser.randrange(5)
    offset = sum(map(len, lines[:victim])) + chooser.randrange(len(lines[victim]) - 1)
    data[offset] ^= 1
    path.write_bytes(data)
    assert [each["n"] for each in log.read(path)] == [number for number in range(5) if number != victim]


def test_the_files_are_bounded_and_the_numbers_go_on(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    writer = EventLog(path, limit_bytes=1000)
    for number in range(200):
        assert writer.append({"text": "x" * 60, "sequence": 0}) == number + 1
        if number % 50 == 0:
            writer.close()
    sizes = [file.stat().st_size for file in log.files(path)]
    assert len(sizes) == limits.EVENT_LOGS + 1 and max(sizes) <= 1000
    numbers = [each["sequence"] for each in log.read(path)]
    assert numbers == list(range(numbers[0], 201)), "the newest, without a gap"
    assert EventLog(path).sequence == 200


def test_a_disk_that_does_not_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(EventLog(tmp_path / "events.log"), NODE, NOWHERE)
    recorder.write("storage-well")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            recorder.write("node-stopped")
        recorder.note("node-stopped")
    recorder.write("storage-well")
    found = [each["event"] for each in log.read(tmp_path / "events.log")]
    assert found[0] == found[-1] == "storage-well"


def test_native_fields_of_the_journal() -> None:
    """Golden bytes: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/."""
    assert journald.datagram(event()) == (
        b'MESSAGE=a host at 192.0.2.7 was not let in: token-replayed: a "quoted" [reason]?and more\n'
        b"MESSAGE_ID=c0f8150f024440a6b4b60d1d7ea79c1f\n"
        b"PRIORITY=4\nSYSLOG_IDENTIFIER=raftcluster\nRAFTCLUSTER_EVENT=join-refused\nRAFTCLUSTER_SEQUENCE=7\n"
        b"RAFTCLUSTER_CLUSTER_ID=c1\nRAFTCLUSTER_CLUSTER=mail\nRAFTCLUSTER_NODE_ID=n1\nRAFTCLUSTER_NODE=mx1\n"
        b"RAFTCLUSTER_FIELD_CODE=token-replayed\nRAFTCLUSTER_FIELD_ADDRESS=192.0.2.7\n"
        b'RAFTCLUSTER_FIELD_REASON\n\x1c\0\0\0\0\0\0\0a "quoted" [reason]\nand more\n'
    )


def test_a_line_for_a_local_syslog_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftcluster.events.syslog.time.localtime", time.gmtime)
    assert syslog.datagram(event(), 42).decode() == (
        '<28>Nov 14 22:13:20 raftcluster[42]: a host at 192.0.2.7 was not let in: token-replayed: a "quoted" '
        f'[reason]?and more [raftcluster@32473 event="join-refused" id="{kind("join-refused").id}" sequence="7" '
        'cluster="c1" code="token-replayed" address="192.0.2.7" reason="a \\"quoted\\" [reason\\]?and more"]'
    )


def listener(path: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    found.bind(str(path))
    found.settimeout(10)
    return found


def test_the_journal_comes_before_syslog_and_nobody_is_waited_for(tmp_path: Path) -> None:
    outlet = Outlet(journal=str(tmp_path / "journal"), syslog=str(tmp_path / "log"))
    assert outlet.send(event()) == "", "nobody runs"
    with listener(tmp_path / "log") as daemon:
        assert outlet.send(event()) == "syslog"
        assert daemon.recv(65536) == syslog.datagram(event(), os.getpid())
        with listener(tmp_path / "journal") as journal:
            assert outlet.send(event()) == "journal"
            assert journal.recv(65536) == journald.datagram(event())
        assert outlet.send(event()) == "syslog", "a socket that nobody listens at"
        sent = 0
        while outlet.send(event()) == "syslog":
            sent += 1
            assert sent < 100_000
    assert sent > 0, "a daemon that does not read holds up nobody"


def test_a_large_event_reaches_the_journal_as_a_sealed_file(tmp_path: Path) -> None:
    large = event("node-failed", reason="x" * 500_000)
    with listener(tmp_path / "journal") as journal:
        outlet = Outlet(journal=str(tmp_path / "journal"), syslog=None)
        assert outlet.send(large) == "journal"
        data, ancillary, _, _ = journal.recvmsg(10, socket.CMSG_SPACE(4))
    ((_, _, passed),) = ancillary
    (descriptor,) = array.array("i", passed)
    assert data == b""
    with os.fdopen(descriptor, "rb") as file:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        file.seek(0)
        assert file.read() == journald.datagram(large)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_an_event_is_lost_and_nothing_else(tmp_path: Path) -> None:
    """The socket to the system's log cannot be opened then. `note` raised that, which ended the threads that note something."""
    for journal, system in ((str(tmp_path / "log"), None), (None, str(tmp_path / "log"))):
        recorder = Recorder(EventLog(tmp_path / "events.log"), NODE, Outlet(journal=journal, syslog=system))
        with no_descriptors():
            recorder.note("storage-well")
        with listener(tmp_path / "log") as daemon:
            recorder.note("node-stopped")
            assert b"the node has stopped" in daemon.recv(65536)
        (tmp_path / "log").unlink()
        recorder.close()
    assert [each["event"] for each in log.read(tmp_path / "events.log")] == ["node-stopped"] * 2


def test_a_large_event_needs_a_descriptor_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", none)
    with listener(tmp_path / "journal"):
        outlet = Outlet(journal=str(tmp_path / "journal"), syslog=None)
        assert outlet.send(event("node-failed", reason="x" * 500_000)) == ""


def test_a_line_is_one_json_document(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    EventLog(path).append({"text": "é\u2028", "sequence": 0})
    checksum, _, body = path.read_bytes().rstrip(b"\n").partition(b" ")
    assert len(checksum) == 8 and json.loads(body) == {"text": "é\u2028", "sequence": 1}
