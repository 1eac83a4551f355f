"""A node that was away for longer than the log reaches gets the tables over a connection of its own."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from raftcluster.storage.digest import digest
from tests.clusters import Cluster
from tests.helpers import eventually

ENTRIES = 600  # more than twice `LOG_KEEP_ENTRIES`


def test_a_node_that_slept_catches_up_from_a_snapshot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Cluster(tmp_path, 3) as cluster:
        sleeper = next(number for number in cluster.nodes if number != cluster.leader())
        last = cluster.nodes[sleeper].status()["last_index"]
        cluster.stop(sleeper)
        writer = cluster.nodes[cluster.leader()]
        for number in range(ENTRIES):
            writer.config.set(f"away/{number % 50}", number)
        eventually(
            lambda: all(
                s["last_index"] - s["log_entries"] > last for s in (n.status() for n in cluster.nodes.values())
            ),
            what="the log is cut beyond what the sleeper has",
        )
        with caplog.at_level(logging.INFO, "raftcluster.node"):
            cluster.start(sleeper)
            eventually(cluster.settled, what="all have the same")
        assert any("rows as of entry" in record.message for record in caplog.records), "no snapshot was sent"
        assert not (cluster.path(sleeper) / "snapshot.part").exists()
        assert cluster.nodes[sleeper].config.get("away/49") == ENTRIES - 1

        def same() -> bool:
            """The same tables at the same index on every disk."""
            found = []
            for node in cluster.nodes.values():
                snapshot = node._store.snapshot()
                assert snapshot is not None
                found.append((snapshot.index, digest(snapshot)))
            return all(each == found[0] for each in found)

        eventually(same, what="equal hashes of all tables at one index")
