"""Real nodes in namespaces of their own under faults; then quiet, then the final checks. As root:

    ./run chaos [--seconds S] [--long] [--nodes 3|4|5] [--seed N] [--only FAULT ...]
    ./run chaos --failover N [--nodes 3|4|5] [--seed N]     kill -9 of the leader, N times: how long nobody is answered
    ./run chaos --matrix [--nodes 3|4|5]        exact timing at all pairs of nodes, whatever happens to the leader meanwhile
    ./run chaos --kills N [--nodes 3|4|5] [--seed N]        kill -9 of the leader, N times, while checks are counted
    ./run chaos --power [--long] [--seconds S] [--seed N]   loss of power at every moment, on disks that forget

A short run (60 s at least) injects every kind of fault once; a member joins and leaves again, a node is away until only a
snapshot can help it. `--long` takes ten minutes at least and two hundred faults, some of which last for up to half a
minute. The order and the targets of the faults come from the seed; what processes and the machine make of them is their
own. `--only`, for looking into something, takes these kinds alone, again and again.

Exit code 1 when a checker finds a violation, when a kind of fault did not take place, when the leader never changed, or
when the cluster does not recover; then the data, logs and histories are kept, and it says where.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.chaos.campaign import Plan, campaign
from tests.chaos.counting import counting
from tests.chaos.failover import failover
from tests.chaos.faults import KINDS
from tests.chaos.power import power
from tests.chaos.timing import matrix

SECONDS = 60.0
LONG_SECONDS = 600.0
ISOLATED = "RAFTCLUSTER_CHAOS_ISOLATED"


def isolate() -> None:
    """Go on in a mount namespace of our own: mounts and names of namespaces end with it, however we end."""
    if ISOLATED not in os.environ:
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.chaos"]
        os.execvpe("unshare", command + sys.argv[1:], {**os.environ, ISOLATED: "1"})


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="./run chaos")
    parser.add_argument(
        "--seconds", type=float, help="how long there are faults, at least (default: 60, with --long 600)"
    )
    parser.add_argument("--long", action="store_true", help="more faults, and longer ones")
    parser.add_argument("--nodes", type=int, choices=(3, 4, 5), default=3)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of the faults (default: any)")
    names = [kind.name for kind in KINDS]
    parser.add_argument(
        "--only", action="append", default=[], metavar="FAULT", choices=names, help=", ".join(names).replace("%", "%%")
    )
    parser.add_argument("--failover", type=int, metavar="N", help="only kill leaders, N times; see `failover`")
    parser.add_argument("--matrix", action="store_true", help="only the exact timing of waits; see `timing`")
    parser.add_argument("--kills", type=int, metavar="N", help="only count, and kill leaders, N times; see `counting`")
    parser.add_argument("--power", action="store_true", help="only loss of power; see `power`")
    wanted = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("namespaces, mounts and file systems need root")
    isolate()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave every `with` on the way
    seconds = wanted.seconds or (LONG_SECONDS if wanted.long else SECONDS)
    plan = Plan(wanted.seed, wanted.nodes, seconds, wanted.long, wanted.only)
    kills = wanted.failover or wanted.kills
    length = f"{kills} leaders killed" if kills else "exact timing" if wanted.matrix else f"{seconds:g} s"
    print(f"chaos: seed {wanted.seed}, {wanted.nodes} nodes, {length}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="raftcluster-chaos-"))
    good = False
    try:
        if wanted.failover:
            good = failover(directory, wanted.seed, wanted.nodes, wanted.failover)
        elif wanted.matrix:
            good = matrix(directory, wanted.seed, wanted.nodes)
        elif wanted.kills:
            good = counting(directory, wanted.seed, wanted.nodes, wanted.kills)
        elif wanted.power:
            good = power(directory, wanted.seed, seconds)
        else:
            good = campaign(directory, plan)
    finally:
        if good:
            shutil.rmtree(directory)
        else:
            print(f"chaos: logs, histories and data are kept in {directory}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
