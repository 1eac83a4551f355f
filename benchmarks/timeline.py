"""`./run bench --timeline`: how long each check took, while what happens to a cluster happens: a node stands still, comes back
with a snapshot, leads, is killed; a member joins and all certificates are replaced.

Three `serve` processes; checks at the two nodes that nothing happens to, over Postfix's protocol.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any, Final

from raftcluster import limits
from tests.helpers import eventually
from tests.rollover.load import Load
from tests.served import SECONDS, Cluster, Served, retried

CHECKS_A_SECOND: Final = 500.0
STEP_SECONDS: Final = 5.0


def run(directory: Path, file: Path | None) -> dict[str, Any]:
    """What happened when (seconds), and of each check when it was asked (seconds) and how long it took (ms). Kept in `file`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    marks: list[tuple[float, str]] = []
    with Cluster(directory, 4) as cluster:
        for _ in range(2):
            cluster.grow()
        eventually(cluster.settled, SECONDS, "quiet")
        *asked, third = cluster.nodes
        with Load(asked, CHECKS_A_SECOND, directory) as load:
            begun = time.monotonic()

            def mark(what: str) -> None:
                marks.append((round(time.monotonic() - begun, 3), what))
                print(f"{marks[-1][0]:7.2f} s  {what}", flush=True)

            _happen(cluster, asked[0], third, mark)
            load.end()
        assert not load.errors and not load.degraded(), (load.errors, load.degraded()[:3])
    shutil.rmtree(directory)
    checks = [(round(each.at - begun, 3), round(each.seconds * 1000, 2)) for each in load.answers]
    found = {"marks": marks, "checks": sorted(checks)}
    if file is not None:
        file.write_text(json.dumps(found))
    return found


def _happen(cluster: Cluster, first: Served, third: Served, mark: Any) -> None:
    _pass()
    retried(lambda: first.client.transfer(first.name), "leadership")
    mark("a node stands still")
    third.pause()
    applied = first.client.status()["applied_index"]
    eventually(lambda: first.client.status()["applied_index"] > applied + 2 * limits.LOG_KEEP_ENTRIES, SECONDS, "load")
    mark("it is back, and gets a snapshot")
    third.resume()
    eventually(cluster.settled_but_for_load, SECONDS, "it has caught up")
    _pass()
    mark("leadership is moved to it")
    retried(lambda: first.client.transfer(third.name), "leadership")
    _pass()
    mark("it is killed")
    third.kill()
    _pass()
    mark("it is started again")
    third.start()
    _pass()
    mark("a member joins: all certificates anew")
    cluster.grow()
    _pass()
    mark("the end")


def _pass() -> None:
    threading.Event().wait(STEP_SECONDS)
