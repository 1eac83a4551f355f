"""When a soak says that something has grown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import lmdb
import pytest

from tests.soak import growth
from tests.soak.growth import BOUNDS, MIB, Sample, changes, content, measured, rates, table

LEVELS = {
    "anonymous": 40 * MIB,
    "private": 44 * MIB,
    "descriptors": 25,
    "threads": 11,
    "tables map": 65536 * MIB,
    "log files": MIB / 2,
    "tables content": 3 * MIB,
    "tables file": 4 * MIB,
    "log entries": 265,
    "records": 5000,
}
SAMPLES = 720


def grew(samples: Sequence[Sample]) -> list[str]:
    return [change.quantity for change in changes({"mx1": samples}) if not change.good]


def test_what_is_level_is_good_however_it_rose_in_the_first_quarter() -> None:
    assert set(LEVELS) == set(BOUNDS)
    rows = [{name: value * min(1.0, n / 180) for name, value in LEVELS.items()} for n in range(SAMPLES)]
    assert grew(rows) == []


@pytest.mark.parametrize(
    ("quantity", "per_sample"),
    [
        ("anonymous", 10 * 50 * 20.0),  # 20 bytes a check, at 50 checks a second and a sample every 10 s
        ("private", 10 * 50 * 20.0),
        ("descriptors", 1 / 60),  # one per certificate rotation
        ("threads", 1 / 60),
        ("log files", 8000.0),
        ("tables content", 3000.0),
        ("tables file", 60_000.0),
        ("log entries", 1.0),
        ("records", 5.0),
    ],
)
def test_a_leak_is_found(quantity: str, per_sample: float) -> None:
    rows = [{**LEVELS, quantity: LEVELS[quantity] + int(n * per_sample)} for n in range(SAMPLES)]
    assert grew(rows) == [quantity]


def test_a_peak_in_the_last_quarter_is_found() -> None:
    rows = [{**LEVELS, "descriptors": 25 + 5 * (n == 700)} for n in range(SAMPLES)]
    assert grew(rows) == ["descriptors"]


def test_samples_in_which_a_node_did_not_answer_count_for_the_rest() -> None:
    rows: list[Sample] = [dict(LEVELS) for _ in range(SAMPLES)]
    rows[3] = {name: value for name, value in LEVELS.items() if name != "records"}
    assert grew(rows) == []
    assert all("GREW" not in line for line in table(changes({"mx1": rows})))


def test_rates_are_those_of_the_second_and_the_last_quarter() -> None:
    rows = [{"at": 10.0 * n, "asked": 100.0 * n if n < 20 else 2000.0 + 50 * (n - 20)} for n in range(40)]
    assert rates(rows, "asked") == pytest.approx((10.0, 5.0))


def test_too_few_samples_show_nothing() -> None:
    with pytest.raises(AssertionError, match="show nothing"):
        changes({"mx1": [LEVELS] * 8})


def test_the_kernel_tells_of_a_process(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "1.segment").write_bytes(bytes(8192))
    with lmdb.open(str(tmp_path / "tables"), max_dbs=2) as env, env.begin(write=True) as transaction:
        transaction.put(b"key", b"", db=env.open_db(b"one", transaction))
    before = measured(os.getpid(), tmp_path)
    held, opened = bytearray(b"x" * (64 * MIB)), (tmp_path / "file").open("wb")
    after = measured(os.getpid(), tmp_path)
    opened.close()
    assert after["anonymous"] - before["anonymous"] > 0.9 * len(held)
    assert after["private"] - before["private"] > 0.9 * len(held)
    assert after["descriptors"] == before["descriptors"] + 1
    assert before["threads"] >= 1 and before["log files"] == 8192
    assert before["tables content"] == content(tmp_path / "tables") == len(b"key")


def test_the_pages_of_a_mapped_store_are_not_private_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "content", lambda environment: 0)  # LMDB opens nothing twice in a process
    (tmp_path / "log").mkdir()
    with lmdb.open(str(tmp_path / "tables"), map_size=64 * MIB) as env:
        with env.begin(write=True) as transaction:
            transaction.put(b"key", bytes(16 * MIB))
        before = measured(os.getpid(), tmp_path)
        with env.begin(buffers=True) as transaction:
            value = transaction.get(b"key")
            assert value is not None and not any(value[:: os.sysconf("SC_PAGESIZE")])
            after = measured(os.getpid(), tmp_path)
    assert after["tables map"] == 64 * MIB and after["private"] - before["private"] < 4 * MIB
