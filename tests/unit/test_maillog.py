"""The mail log's entries, files and settings."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.greylist.request import Mail
from raftcluster.greylist.verdict import Verdict
from raftcluster.maillog import files
from raftcluster.maillog.decision import Decision
from raftcluster.maillog.entry import Entry, cut, parse, sequence_of
from raftcluster.maillog.files import Appender
from raftcluster.maillog.settings import Settings

SMALL = Settings(file_bytes=64 * 1024, keep_bytes=256 * 1024)
MAIL = Mail("192.0.2.7", "mx.example.net", "a@example.net", b"b@example.org", "1f.2", False, False, "mx.helo")


def entry(number: int, moment: float | None = None) -> Entry:
    return Entry(time.time() if moment is None else moment, "Rejected", recipient=f"b{number}@example.org")


def numbers(folder: Path, since: float = 0.0, after: int = 0) -> list[int]:
    return [each.sequence for each in files.entries(folder, since, after)]


def fill(appender: Appender, count: int) -> None:
    for number in range(0, count, 50):
        appender.append([entry(number + each) for each in range(50)])


@pytest.mark.parametrize(
    ("verdict", "action"),
    [
        (Verdict("defer", "new", 300, 0, None, False, "wait"), "Rejected"),
        (Verdict("defer", "early", 20, 0, None, False, "wait"), "Rejected (not verified)"),
        (Verdict("defer", "unavailable", 300, 0, None, True, "wait"), "Rejected"),
        (Verdict("pass", "waited", 0, 301, "X-Greylist: x", False, ""), "Verified"),
        (Verdict("pass", "known", 0, 0, None, False, ""), "Verified"),
        (Verdict("pass", "client", 0, 0, None, False, ""), "Verified"),
        (Verdict("pass", "spf", 0, 0, None, False, ""), "Passed"),
        (Verdict("pass", "authenticated", 0, 0, None, False, ""), "Passed"),
        (Verdict("pass", "unavailable", 0, 0, None, True, ""), "Passed"),
        (Verdict("pass", "new", 300, 0, None, False, "", True), "Passed"),
    ],
)
def test_a_verdict_has_the_columns_of_the_greylist_log(verdict: Verdict, action: str) -> None:
    decided = Decision(1_790_000_000.5, "policy", MAIL, verdict)
    made = decided.entry
    assert made.action == action
    assert made[:7] == (
        1_790_000_000.5,
        action,
        "192.0.2.7",
        "mx.helo",
        "a@example.net",
        "b@example.org",
        verdict.seconds_left,
    )
    assert (made.reason, made.degraded, made.source) == (verdict.reason, verdict.degraded, "policy")
    assert parse(decided.line(17)) == parse(made.line(17)) == made._replace(sequence=17)


@pytest.mark.parametrize("text", ["", 'a\nb"\\', "\ud800", "x" * 3_000, b"\xff\n", None])
def test_a_decision_is_written_as_its_entry_is(text: Any) -> None:
    mail = Mail("192.0.2.7", text, text or "", text or b"r", text, False, False, text or "")
    decided = Decision(1.5, "policy", mail, Verdict("pass", "known", 0, 0, None, False, ""))
    assert parse(decided.line(17)) == parse(decided.entry.line(17)) == decided.entry._replace(sequence=17)
    assert decided.line(17).count(b"\n") == 1


def test_a_line_is_json_and_comes_back_as_it_was() -> None:
    made = Decision(1.5, "policy", MAIL, Verdict("defer", "new", 300, 0, None, True, "x")).entry
    line = made.line(17)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and sequence_of(line) == 17
    assert parse(line) == made._replace(sequence=17)
    assert json.loads(line) == made._replace(sequence=17).record()
    assert "subject" not in json.loads(line), "what says nothing is left out"


@pytest.mark.parametrize("text", ["a\nb\r\0", "\ud800", "\u2028", '"}', "\U0001f600" * 3_000, b"\xff\xfe", None, 5])
def test_hostile_values_stay_one_line(text: Any) -> None:
    line = Entry(1.0, "Rejected", cut(text), subject=cut(text)).line(1)
    assert line.count(b"\n") == 1 and len(line) < 128 * 1024
    found = parse(line)
    assert found is not None and found.client == cut(text)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]\n",
        b'{"sequence":1}\n',
        b'{"sequence":"1","time":1.0,"action":"x"}\n',
        b"\xff\n",
        b'"time"\n',
        b'{"sequence":1,"time":1e300,"action":"x"}\n',
        b'{"sequence":1,"time":NaN,"action":"x"}\n',
        b'{"sequence":-1,"time":1,"action":"x"}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_what_is_no_line_is_none(line: bytes) -> None:
    assert parse(line) is None


def test_unknown_fields_of_a_later_version_are_passed_over() -> None:
    found = parse(b'{"sequence":1,"time":2,"action":"x","colour":"red"}\n')
    assert found is not None and (found.sequence, found.time) == (1, 2)


def test_entries_are_numbered_across_files_and_restarts(tmp_path: Path) -> None:
    appender = Appender(tmp_path / "log", SMALL)
    assert files.files(tmp_path / "log") == [] and numbers(tmp_path / "log") == []
    fill(appender, 1_000)
    appender.close()
    again = Appender(tmp_path / "log", SMALL)
    fill(again, 1_000)
    assert numbers(tmp_path / "log") == list(range(1, 2_001))
    names = [each.first for each in files.files(tmp_path / "log")]
    assert len(names) > 2 and names[0] == 1, "a file is named by its first entry"
    again.close()


def test_what_a_crash_has_torn_is_cut_off(tmp_path: Path) -> None:
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1), entry(2)])
    appender.close()
    path = files.files(tmp_path)[0].path
    with path.open("ab") as file:
        file.write(b'{"sequence":3,"time":1')
    assert numbers(tmp_path) == [1, 2]
    again = Appender(tmp_path, SMALL)
    again.append([entry(3)])
    again.close()
    assert numbers(tmp_path) == [1, 2, 3]
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("tail", [bytes(300_000), bytes(300_000) + b'est":1}\n'])
def test_numbers_are_known_behind_whatever_a_power_cut_has_left(tmp_path: Path, tail: bytes) -> None:
    appender = Appender(tmp_path, Settings())
    appender.append([entry(1), entry(2)])
    appender.close()
    with files.files(tmp_path)[0].path.open("ab") as file:
        file.write(tail)
    assert files.last_sequence(tmp_path) == 2
    again = Appender(tmp_path, Settings())
    again.append([entry(3)])
    again.close()
    assert numbers(tmp_path) == [1, 2, 3]


def fail(*_: Any) -> Any:
    raise OSError(5, "Input/output error")


def test_a_file_goes_on_only_when_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was written on as if nothing had been; behind a failed sync the next one then called itself for ever."""
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1)])
    synced = list[Path]()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        patch.setattr(files, "_sync_folder", fail)
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                appender.sync()
    monkeypatch.setattr(files, "_sync_folder", synced.append)
    appender.append([entry(2)])
    assert appender.sync() and synced == [tmp_path]
    assert numbers(tmp_path) == [1, 2] and [each.first for each in files.files(tmp_path)] == [1, 2]
    appender.close()


@pytest.mark.parametrize("before", [0, 1])
def test_nothing_is_written_behind_a_part_that_cannot_be_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Without anything before it, the next file has the name of the one with the part."""
    appender = Appender(tmp_path, SMALL)
    if before:
        appender.append([entry(1)])
    write = os.write

    def part(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", fail)
        return write(descriptor, data[:20])

    monkeypatch.setattr(os, "write", part)
    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(OSError, match="Input/output"):
        appender.append([entry(2)])
    monkeypatch.undo()
    appender.append([entry(3)], missing=1)
    assert appender.sync() and numbers(tmp_path) == [*range(1, before + 1), before + 2]
    assert appender.unsure == before, "what was written there and is not on the disk may stay so"
    appender.close()


@pytest.mark.parametrize("again", [False, True])
def test_a_file_that_somebody_has_renamed_is_not_written_on(tmp_path: Path, again: bool) -> None:
    """As logrotate does it, which may make an empty one in its place."""
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1)])
    path = files.files(tmp_path)[0].path
    path.rename(tmp_path / f"{path.name}-20261129")
    if again:
        path.touch()
    appender.sync()
    appender.append([entry(2)])
    appender.close()
    assert numbers(tmp_path) == [2]


def test_a_file_that_somebody_has_removed_is_not_written_on(tmp_path: Path) -> None:
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1)])
    files.files(tmp_path)[0].path.unlink()
    appender.sync()
    appender.append([entry(2)])
    appender.close()
    assert numbers(tmp_path) == [2]


def test_a_file_that_cannot_be_closed_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another file's by then: nothing is written to it any more."""
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1)])
    close = os.close

    def late(descriptor: int) -> None:
        close(descriptor)
        raise OSError(5, "Input/output error")  # as of a network's file system: the descriptor is gone all the same

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", late)
        with pytest.raises(OSError, match="Input/output"):
            appender.close()
    appender.append([entry(2)])
    appender.close()
    assert numbers(tmp_path) == [1, 2]


def test_what_a_killed_process_has_left_is_on_the_disk_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1)])
    appender.close()
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    assert Appender(tmp_path, SMALL).last == 1 and synced == [str(files.files(tmp_path)[0].path)]


def test_any_place_is_found_without_reading_what_is_before(tmp_path: Path) -> None:
    appender = Appender(tmp_path, Settings())
    fill(appender, 20_000)
    path = files.files(tmp_path)[0].path
    assert path.stat().st_size > 1024**2
    for after in (0, 1, 777, 9_999, 19_998):
        page = files.page(tmp_path, after, limit_bytes=1)
        assert [sequence_of(line) for line in page.lines] == [after + 1] and page.last == after + 1 and not page.end
    assert files.page(tmp_path, 20_000) == files.Page([], 20_000, True, 1)
    with path.open("rb") as file:
        assert files._locate(file.fileno(), 19_000) > path.stat().st_size // 2
    appender.close()


def test_a_line_that_is_cut_short_where_a_look_ends_has_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 105 it took 10: what is before was then passed over, by readers and by the export."""
    monkeypatch.setattr(files, "_BLOCK_BYTES", 256)
    path = tmp_path / f"{100:020}.jsonl"
    for pad in range(100, 140):
        path.write_bytes(b"".join(Entry(1.5, "Rejected", subject="x" * pad).line(each) for each in range(100, 110)))
        for after in range(99, 110):
            assert numbers(tmp_path, after=after) == list(range(after + 1, 110)), pad


def test_pages_follow_each_other(tmp_path: Path) -> None:
    appender = Appender(tmp_path, SMALL)
    fill(appender, 2_000)
    after, seen, pages = 0, list[int](), 0
    while True:
        lines, after, end, _ = files.page(tmp_path, after, limit_bytes=10_000)
        seen += [number for line in lines if (number := sequence_of(line)) is not None]
        pages += 1
        if end:
            break
    assert seen == list(range(1, 2_001)) and pages > 20
    appender.close()


def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(number, 1_000.0 + number) for number in range(500)])
    os.utime(files.files(tmp_path)[0].path, (1_500.0, 1_500.0))
    assert numbers(tmp_path, since=1_490.0) == list(range(491, 501))
    assert numbers(tmp_path, since=1_600.0) == [], "the file was not written since then"
    assert files.page(tmp_path, 0, 1_490.0).last == 500
    appender.close()


def test_a_page_ends_although_all_of_it_is_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for it waits: a file may be a GiB."""
    monkeypatch.setattr(limits, "MAILLOG_SCAN_BYTES", 1_000)
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(number, 1_000.0 + number) for number in range(100)])
    page = files.page(tmp_path, 0, since=1_099.0)
    assert page.lines == [] and not page.end and 0 < page.last < 20
    assert numbers(tmp_path, since=1_099.0) == [100]
    appender.close()


def test_what_is_too_much_goes_the_oldest_first(tmp_path: Path) -> None:
    appender = Appender(tmp_path, SMALL)
    fill(appender, 10_000)
    total = sum(each.path.stat().st_size for each in files.files(tmp_path))
    assert total <= SMALL.keep_bytes + SMALL.file_bytes + 8_192
    kept = numbers(tmp_path)
    assert kept[-1] == 10_000 and kept == list(range(kept[0], 10_001)) and kept[0] > 1
    page = files.page(tmp_path, 0)
    assert page.oldest == kept[0], "a reader sees what it has lost"
    appender.close()


def test_what_is_too_old_goes_and_the_numbers_go_on(tmp_path: Path) -> None:
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1), entry(2)])
    old = time.time() - 31 * 86_400
    os.utime(files.files(tmp_path)[0].path, (old, old))
    appender.retain()
    assert numbers(tmp_path) == [] and [each.first for each in files.files(tmp_path)] == [3]
    appender.close()
    again = Appender(tmp_path, SMALL)
    again.append([entry(3)])
    assert numbers(tmp_path) == [3]
    again.close()


def test_a_torn_first_line_that_is_too_old_is_no_reason_to_end(tmp_path: Path) -> None:
    """The next file has the name of the one that is there."""
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1), entry(2)])
    appender.close()
    (tmp_path / f"{3:020}.jsonl").write_bytes(b'{"sequence":3,"ti')
    for each in files.files(tmp_path):
        os.utime(each.path, (1.0, 1.0))
    again = Appender(tmp_path, SMALL)
    again.retain()
    again.append([entry(3)])
    assert numbers(tmp_path) == [3] and [each.first for each in files.files(tmp_path)] == [3]
    again.close()


def test_numbers_that_are_left_out_stay_so(tmp_path: Path) -> None:
    appender = Appender(tmp_path, SMALL)
    appender.append([entry(1)])
    appender.append([entry(2)], missing=40)
    assert numbers(tmp_path) == [1, 42]
    appender.close()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("enabled", 1, "true or false"),
        ("file_bytes", "big", "a whole number"),
        ("file_bytes", True, "a whole number"),
        ("file_bytes", 1, "65536 to"),
        ("keep_bytes", 20 * 1024**2, "less than two files"),
        ("keep_days", 0, "1 to 3650"),
        ("colour", "red", "no setting colour"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, value: Any, text: str) -> None:
    with pytest.raises(Rejected, match=text) as refused:
        Settings.of({f"local/maillog/{name}": value})
    assert refused.value.subject == f"local/maillog/{name}"


def test_settings_by_their_keys() -> None:
    assert Settings.of({}) == Settings()
    assert Settings.of({"local/maillog/enabled": False, "local/maillog/keep_days": 7}).values() == {
        **Settings().values(),
        "enabled": False,
        "keep_days": 7,
    }
