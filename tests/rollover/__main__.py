"""What does it cost the mail when certificates are replaced? Real processes, real TLS, real disks; needs no root.

    ./run rollover [--nodes 3] [--checks 600] [--quiet 5] [--rounds 5] [--json FILE]

Every node is asked at the same rate. In each round one more node joins, is removed again, joins once more -- another one, whose program
starts on this machine only then -- is removed, and all certificates are replaced; before and after each of these it is quiet for
a while, which is the baseline. Of a rollover there are few checks, and a single pause of the machine decides the slowest hundredth of
them: hence several rounds, counted together. Exit code 1 when a check failed, was answered without the cluster, or was counted
wrongly. The times are those of this machine, on which all nodes, the joining host and the callers run; the processor time
that a member takes for it, beyond that for as many checks when it is quiet, depends least on what else runs there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.rollover.life import Stretch, live


def main() -> int:
    """Print a table; the exit code."""
    parser = argparse.ArgumentParser(prog="./run rollover", description=__doc__.split("\n\n")[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--checks", type=float, default=600.0, help="a second, over all nodes")
    parser.add_argument(
        "--quiet", type=float, default=5.0, help="seconds of the baseline, before and after each rollover"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollover-") as folder:
        life = live(
            Path(folder),
            size=chosen.nodes,
            per_second=chosen.checks,
            quiet_s=chosen.quiet,
            rounds=chosen.rounds,
            cold=True,
        )
    print(f"{life.nodes} nodes, generation {life.generation} at the end")
    print(
        f"{'':<30}{'times':>6}{'s':>6}{'checks':>8}{'per s':>7}{'p50':>7}{'p99':>7}{'max ms':>8}{'cpu ms':>8}  rollover s"
    )
    for each in life.stretches:
        print(_row(each, life.stretches[0]))
    print(
        "p99, in brackets: as a multiple of the quiet time's; cpu ms: what a member takes for it once, without the checks"
    )
    print(f"errors {len(life.errors)}, degraded {len(life.degraded)}, counted wrongly {sum(life.wrong.values())}")
    for line in [*life.errors, *life.degraded][:10]:
        print(f"  {line}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(asdict(life), indent=2) + "\n")
    return 1 if life.errors or life.degraded or any(life.wrong.values()) else 0


def _row(each: Stretch, quiet: Stretch) -> str:
    more_ms = (each.cpu_ms - quiet.cpu_ms * each.checks / quiet.checks) / each.times
    figures = f"{each.times:>6}{each.seconds:>6.2f}{each.checks:>8}{each.per_second:>7.0f}{each.p50_ms:>7}{each.p99_ms:>7}{each.slowest_ms:>8}"
    if not each.rollover_s:
        return f"{each.name:<30}{figures}"
    took = f"{statistics.median(each.rollover_s):.2f}, at most {max(each.rollover_s):.2f}"
    return f"{each.name:<30}{figures}{more_ms:>8.0f}  {took}  ({each.p99_ms / quiet.p99_ms:.1f} x)"


if __name__ == "__main__":
    sys.exit(main())
