"""A feature is enabled while a node runs whose program does not understand it: it stops before anything of that feature comes."""

from __future__ import annotations

from pathlib import Path

import pytest

import raftcluster
from raftcluster import Node
from raftcluster.errors import DataVersion
from tests.helpers import eventually, free_ports

FEATURE = "testing.next"


def test_a_node_stops_when_what_it_does_not_understand_is_enabled(tmp_path: Path) -> None:
    """It went on and applied what it did not understand, when it had been set back to an older version after its newer one had
    reported: the last member's report enables, and nobody asked this node again before its next start."""
    path, port = tmp_path / "mx0", free_ports(1)[0]
    raftcluster.init(path, cluster="mail", node="mx0", listen=("127.0.0.1", port), product="mta/1.0")
    with Node.open(path, product="mta/1.0") as node:
        node.submit("cluster", ["report", node.facts["node_id"], "mta/1.1", [FEATURE]], lambda *_: None)
        failure = eventually(lambda: node.failure, what="it stops")
        assert isinstance(failure, DataVersion) and FEATURE in str(failure)
        with pytest.raises(DataVersion):
            node.config.set("mail.hostname", "after")
    with Node.open(path, product="mta/1.1", features=[FEATURE]) as node:
        eventually(lambda: [each.enabled for each in node.members.features()] == [True])
