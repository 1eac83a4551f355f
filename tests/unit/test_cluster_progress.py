"""What an administrator reads while certificates are replaced."""

from __future__ import annotations

from raftcluster.cluster.progress import progress
from tests.cluster_world import three


def test_it_says_how_far_it_is_and_whom_it_waits_for() -> None:
    log = three()
    names = {each.node_id: each.name for each in log.view.live().values()}
    number = log.view.newest + 1
    assert progress(log.view, number) == f"generation {number}: not under way"
    log.apply("rotate", "x", [], False)
    log.apply("csr", number, "n1", b"csr-n1")
    waits = f"waiting for {names['n2']}, {names['n3']}"
    assert progress(log.view, number) == f"generation {number}: requests 1/3, {waits}"
    for node in ("n2", "n3"):
        log.apply("csr", number, node, f"csr-{node}".encode())
    assert progress(log.view, number) == f"generation {number}: requests 3/3"
    log.mint()
    log.trust("n1")
    assert progress(log.view, number) == f"generation {number}: minted, trusted 1/3, {waits}"
    log.trust("n2", "n3")
    log.apply("switch", number) if log.pending().phase == "trust" else None
    log.switch("n1")
    assert progress(log.view, number) == f"generation {number}: minted, switched 1/3, {waits}"
    log.switch("n2", "n3")
    log.apply("retire", number)
    assert progress(log.view, number) == f"generation {number}: in force"
