"""Large values while nodes crash, links break and power goes: clients upload in parts, and some die between two of them.

No node ever has a value that is not whole, all have the same, the chain of changes holds on each, and what nobody has come to
set is gone in the end.
"""

from __future__ import annotations

from hashlib import sha256
from random import Random
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.codec import pack
from raftcluster.config.blobs import BLOBS, PARTS, UPLOADS, parts_of, read_blob
from raftcluster.config.chain import Place, prove
from raftcluster.config.reading import HISTORY, entry_of
from raftcluster.machine import ReadTables
from tests.simulation.simulation import Simulation
from tests.simulation.workload import Client

UPLOADERS = 12
KEYS = ("large/a", "large/b", "d")
"""The last one is set and deleted by the other clients, too."""


def document(number: int) -> dict[str, Any]:
    return {"number": number, "text": Random(number).randbytes(200 + 17 * number).hex()}


class Uploader:
    """A client that sets one large value; it dies when one of its commands is given up, and what it has sent stays."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self._simulation = simulation
        packed = pack(document(number))
        digest, parts = sha256(packed).digest(), parts_of(packed)
        self._commands: list[list[Any]] = [["part", digest, len(packed), n, part] for n, part in enumerate(parts)]
        change = ["blob", KEYS[number % len(KEYS)], digest]
        self._commands.append(["transact", [], [change], "admin", "large", "n1"])
        self._client: Client | None = None
        self._at = 0
        self.state = "uploads"
        simulation.world.after(simulation.world.random.uniform(0.5, 6.0), self._step)

    def _step(self) -> None:
        client, world = self._client, self._simulation.world
        if client is not None and client.abandoned:
            self.state = "died"
            return
        if client is None or client.settled:
            if client is not None:
                assert client.results is not None
                self._at = self._at + 1 if client.results[0][0] == 0 else 0  # from the beginning, once it has expired
            if self._at == len(self._commands):
                self.state = "done"
                return
            self._client = self._simulation.workload._submit("config", [self._commands[self._at]])
        world.after(0.05, self._step)


def proven(tables: ReadTables) -> Place:
    place = Place()
    while not place.done:
        place = prove(tables, place, 7)
    return place


def look(tables: ReadTables, known: set[bytes]) -> dict[bytes, int]:
    """All versions are whole, and values that somebody has set; how many of them have which large value."""
    references: dict[bytes, int] = {}
    for name, row in tables.scan(HISTORY):
        entry = entry_of(tables, name.partition(b"\0")[0].decode(), row)
        if isinstance(entry.value, dict):
            assert pack(entry.value) in known
            digest = sha256(pack(entry.value)).digest()
            references[digest] = references.get(digest, 0) + 1
    assert proven(tables).bad is None, proven(tables).reason
    return references


@pytest.mark.parametrize("profile", ["static", "power", "snapshot", "clocks"])
def test_no_crash_leaves_half_a_value_or_a_part_for_ever(profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONFIG_INLINE_BYTES", 60)
    monkeypatch.setattr(limits, "CONFIG_PART_BYTES", 100)
    monkeypatch.setattr(limits, "CONFIG_UPLOAD_SECONDS", 5.0)
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 6)
    known = {pack(document(number)) for number in range(UPLOADERS)}
    states: list[str] = []
    for seed in range(7_000, 7_004):
        print(f"{profile}/{seed}")
        simulation = Simulation(profile, seed)
        uploaders = [Uploader(simulation, number) for number in range(UPLOADERS)]
        outcome = simulation.run()
        assert outcome.violations == [], outcome
        for _ in range(3):  # cluster time is late at most by a clock's slew
            simulation.world.run(simulation.world.time + 4.0, lambda: False)
            simulation.workload.operation()
        simulation.heal()
        assert simulation.checker.violations == []
        states += [each.state for each in uploaders]
        found = []
        for process in simulation.processes.values():
            if process.replica is not None:
                tables = process.replica.applier.tables("config")
                references = look(tables, known)
                assert {digest for digest, _ in tables.scan(BLOBS)} == set(references), "no more and no less is kept"
                assert {key[:32] for key, _ in tables.scan(PARTS)} == set(references)
                for digest, count in references.items():
                    blob = read_blob(tables, digest)
                    assert blob is not None and blob.references == count and blob.items > 0
                assert tables.scan(UPLOADS) == []
                found.append(references)
        assert len(found) > 1 and all(each == found[0] for each in found)
    assert "done" in states and "died" in states, states
