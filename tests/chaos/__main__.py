"""Real processes under faults: three hosts, real commands, writers at every node; then quiet, then the final checks.

    ./run chaos [--seconds 60] [--seed N]

Every few seconds one fault: a node is killed, stopped (SIGSTOP) or cut off, leadership is moved, or all nodes are killed
at once. The choices come from the seed; what the machine does with them is its own, so a seed repeats the faults and not
the run. Exit code 1, with what was wrong, when

* an acknowledged write is missing, differs, or shares its revision with another one,
* a write that was answered "not applied" is there,
* a writer's later write has an earlier revision,
* two nodes led one term, or
* the nodes do not come to agree within a minute after the last fault.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.faults import Faults
from tests.chaos.history import Observer, Writer, disagreements, violations
from tests.chaos.victim import Victim
from tests.e2e.hosts import Hosts
from tests.helpers import eventually

PAUSE_SECONDS = (2.0, 6.0)  # between two faults
AGREE_SECONDS = 60.0


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="./run chaos")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long there are faults (default: 60)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of the faults (default: any)")
    wanted = parser.parse_args()
    print(f"chaos: seed {wanted.seed}, {wanted.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="raftcluster-chaos-") as directory, Hosts(3) as hosts:
        victims = [Victim(hosts, number, Path(directory)) for number in hosts.numbers]
        try:
            found = _run(hosts, victims, wanted.seconds, random.Random(wanted.seed))
        except AssertionError:
            for victim in victims:
                print(f"--- {victim.name}\n{victim.tail()}", file=sys.stderr)
            raise
        finally:
            for victim in victims:
                victim.stop()
    for line in found:
        print(f"VIOLATED: {line}")
    return 1 if found else 0


def _run(hosts: Hosts, victims: list[Victim], seconds: float, chance: random.Random) -> list[str]:
    victims[0].init()
    victims[0].serve()
    for victim in victims[1:]:
        victim.join(victims[0])
        victim.serve()
    eventually(lambda: all(len(victim.status()["voters"]) == 3 for victim in victims), AGREE_SECONDS, "three voters")
    writers = [Writer(victim) for victim in victims]
    observer = Observer(victims)
    faults = Faults(hosts, victims, chance)
    for thread in (*writers, observer):
        thread.start()
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            writers[0].stopped.wait(chance.uniform(*PAUSE_SECONDS))
            faults.strike()
        eventually(lambda: not disagreements(victims), AGREE_SECONDS, "the nodes agree after the last fault")
    finally:
        for thread in (*writers, observer):
            thread.stopped.set()
        for thread in (*writers, observer):
            thread.join()
    eventually(lambda: not disagreements(victims), AGREE_SECONDS, "the nodes agree when nothing is written")
    print(f"faults: {faults.told()}")
    print("writes:", ", ".join(f"{writer.name}: {writer.told()}" for writer in writers))
    print(f"terms: {len(observer.leaders)}")
    return [*violations(victims, writers), *observer.violations()]


if __name__ == "__main__":
    sys.exit(main())
