"""The hash chain over all changes: whatever is altered, taken away or put in is found, and the first revision is named."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcluster import codec, limits
from raftcluster.config import past
from raftcluster.config.api import Config
from raftcluster.config.chain import HEAD, Place, digest_of, prove, read_proof
from raftcluster.config.machine import ConfigMachine
from raftcluster.config.reading import CHANGES, HISTORY, KEPT, STAMP, VALUES
from tests.local_host import LocalHost, LocalTables, MemoryRows

STAMP_BYTES = 8


class Cluster:
    """A configuration with some past: 12 revisions, of which some change two keys, one deletes, one has a large value."""

    def __init__(self) -> None:
        self.host = LocalHost([ConfigMachine()])
        self.config = Config(self.host, MemoryRows())
        self.rows: LocalTables = self.host.tables["config"]
        for number in range(6):
            self.config.set("a", number, author="me", reason="why")
            self.config.transact([], [("set", "b", [number]), ("set", "c/d", {"n": number})])
        self.config.delete("b")
        self.config.set("c/d", random.Random(1).randbytes(100_000).hex())


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.config.close()


def test_a_sound_past_is_proven_and_its_digest_is_the_same_everywhere(cluster: Cluster) -> None:
    proof = cluster.config.verify()
    assert (proof.first, proof.last, proof.bad, proof.reason) == (1, 14, None, "")
    assert proof == Cluster().config.verify()
    cluster.config.set("a", 9)
    assert cluster.config.verify().digest != proof.digest
    empty = Config(LocalHost([ConfigMachine()]), MemoryRows()).verify()
    assert (empty.first, empty.last, empty.bad) == (1, 0, None)


def test_it_is_proven_in_steps_between_which_changes_are_made(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "ROWS", 1)
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 4)
    monkeypatch.setattr(limits, "CONFIG_CHANGES", 12)
    place, number = Place(), 0
    while not place.done:
        place = prove(cluster.rows, place, 1)
        number += 1
        if number % 2 and number < 60:
            cluster.config.set("a", number)
    assert number > 60
    assert read_proof(cluster.rows, place).bad is None
    assert read_proof(cluster.rows, place).first == read_proof(cluster.rows, place).last - 11
    assert cluster.config.verify().bad is None


def test_a_step_looks_at_a_bounded_number_of_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one step does, the whole node waits for."""
    host = LocalHost([ConfigMachine()])
    config = Config(host, MemoryRows())
    for number in range(10):
        config.transact([], [("set", f"k/{key}", number) for key in range(200)])
    rows, place, most = host.tables["config"], Place(), 0
    unpacked: list[bytes] = []
    unpack = codec.unpack

    def noticed(data: bytes, **more: Any) -> Any:
        unpacked.append(data)
        return unpack(data, **more)

    monkeypatch.setattr(codec, "unpack", noticed)
    while not place.done:
        place = prove(rows, place, 100)
        most = max(most, sum(map(len, unpacked)))
        unpacked.clear()
    assert place.bad is None
    assert most < 250_000, "ten changes of 200 keys are 80 kB, read once in a step"


def revision_of(table: str, key: bytes, rows: LocalTables) -> int:
    """Of the row, as it was written."""
    if table == HISTORY:
        return int(STAMP.unpack(key[-STAMP_BYTES:])[0])
    if table == CHANGES:
        return int(STAMP.unpack(key)[0])
    return int(codec.unpack(rows.rows[VALUES][key if table == VALUES else b"c/d"])[0])


@pytest.mark.parametrize("table", [VALUES, HISTORY, CHANGES, "parts"])
def test_a_flipped_bit_is_found_and_its_revision_is_named(cluster: Cluster, table: str) -> None:
    dice = random.Random(table)
    print(f"seed {table!r}")
    rows = cluster.rows.rows[table]
    for key, row in sorted(rows.items()):
        for _ in range(12):
            place, bit = dice.randrange(len(row)), 1 << dice.randrange(8)
            rows[key] = row[:place] + bytes([row[place] ^ bit]) + row[place + 1 :]
            proof = cluster.config.verify()
            assert proof.bad == revision_of(table, key, cluster.rows if table != VALUES else Cluster().rows), (
                key,
                place,
            )
            rows[key] = row
    assert cluster.config.verify().bad is None


@pytest.mark.parametrize("table", [VALUES, HISTORY, CHANGES, "parts"])
def test_a_row_that_is_gone_is_found(cluster: Cluster, table: str) -> None:
    rows = cluster.rows.rows[table]
    for key, row in sorted(rows.items()):
        expected = revision_of(table, key, cluster.rows)
        del rows[key]
        assert cluster.config.verify().bad == expected
        rows[key] = row


def forged_version(cluster: Cluster) -> None:
    """A value and its version are made anew, with nothing odd in them."""
    rows, key = cluster.rows.rows, b"a\0" + STAMP.pack(5)
    version = codec.unpack(rows[HISTORY][key])
    rows[HISTORY][key] = codec.pack([*version[:2], 99, *version[3:]])


def forged_change(cluster: Cluster) -> None:
    """Somebody else is said to have made it: version and record fit each other."""
    forged_version(cluster)
    rows, stamp = cluster.rows.rows, STAMP.pack(5)
    before, time, (changed,) = codec.unpack(rows[CHANGES][stamp])
    version = rows[HISTORY][b"a\0" + stamp]
    rows[CHANGES][stamp] = codec.pack([before, time, [[*changed[:2], digest_of(version)]]])


def planted_version(cluster: Cluster) -> None:
    cluster.rows.rows[HISTORY][b"b\0" + STAMP.pack(5)] = cluster.rows.rows[HISTORY][b"b\0" + STAMP.pack(6)]


def planted_value(cluster: Cluster) -> None:
    cluster.rows.rows[VALUES][b"z"] = codec.pack([5, 0, 1, "", "", "mx1", 1, 1])


def newest_taken_back(cluster: Cluster) -> None:
    """The last change never was: nothing of it is left but the head of the chain."""
    rows = cluster.rows.rows
    del rows[CHANGES][STAMP.pack(14)], rows[HISTORY][b"c/d\0" + STAMP.pack(14)]
    rows[VALUES][b"c/d"] = rows[HISTORY][b"c/d\0" + STAMP.pack(12)]
    changes, forgotten, size = codec.unpack(rows[KEPT][b"c/d"])
    rows[KEPT][b"c/d"] = codec.pack([changes - 1, forgotten, size])
    rows["state"][b"revision"] = STAMP.pack(13)


def forgotten_by_hand(cluster: Cluster) -> None:
    """What is inconvenient is said to have been dropped; only the versions are left out of the record that way."""
    changes, _, size = codec.unpack(cluster.rows.rows[KEPT][b"a"])
    cluster.rows.rows[KEPT][b"a"] = codec.pack([changes, 3, size])


@pytest.mark.parametrize(
    ("forge", "bad"),
    [
        (forged_version, 5),
        (forged_change, 5),
        (planted_version, 5),
        (planted_value, 5),
        (newest_taken_back, 13),
        (forgotten_by_hand, 1),
    ],
)
def test_a_forgery_is_found(cluster: Cluster, forge: Callable[[Cluster], None], bad: int) -> None:
    forge(cluster)
    proof = cluster.config.verify()
    assert proof.bad == bad, proof.reason


def test_a_chain_that_was_made_anew_has_another_digest(cluster: Cluster) -> None:
    """All of it, by somebody who knows how: only a digest that was written down tells."""
    before = cluster.config.verify().digest
    forger = LocalHost([ConfigMachine()])
    forged = Config(forger, MemoryRows())
    for entry in reversed(cluster.config.log()):
        if entry.key == "a":
            forged.set("a", entry.value, author="somebody else", reason=entry.reason)
    assert forged.verify().bad is None
    assert forged.verify().digest != before
    assert forger.tables["config"].rows["state"][HEAD].hex() == forged.verify().digest


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(3, 12),
)
@settings(max_examples=60)
def test_what_is_dropped_leaves_a_chain_that_is_proven(
    changes: list[tuple[str, int | None]], versions: int, listed: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "HISTORY_REVISIONS", versions)
        patched.setattr(limits, "CONFIG_CHANGES", listed)
        patched.setattr(past, "ROWS", 2)
        host = LocalHost([ConfigMachine()])
        config = Config(host, MemoryRows())
        for key, value in changes:
            before = config.get(key)
            if value is None and before is None:
                continue
            config.delete(key) if value is None else config.set(key, value)
        proof = config.verify()
        assert proof.bad is None, proof.reason
        assert proof.first == max(1, config.revision() - listed + 1)
        assert len(host.tables["config"].rows[CHANGES]) == min(listed, config.revision())
