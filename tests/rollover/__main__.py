"""What does it cost the mail when certificates are replaced? Real processes, real TLS, real disks; needs no root.

    ./run rollover [--nodes 3] [--checks 600] [--quiet 10] [--json FILE]

Every node is asked at the same rate; one more node joins, is removed again, and all certificates are replaced. Exit code 1
when a check failed, was answered without the cluster, or was counted wrongly. The times are those of this machine, on which
the callers run, too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.rollover.life import live


def main() -> int:
    """Print a table; the exit code."""
    parser = argparse.ArgumentParser(prog="./run rollover", description=__doc__.split("\n\n")[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--checks", type=float, default=600.0, help="a second, over all nodes")
    parser.add_argument("--quiet", type=float, default=10.0, help="seconds of the baseline")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollover-") as folder:
        life = live(Path(folder), size=chosen.nodes, per_second=chosen.checks, quiet_s=chosen.quiet)
    print(f"{life.nodes} nodes, generation {life.generation} at the end")
    print(f"{'':<8}{'seconds':>9}{'checks':>8}{'a second':>10}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}  rollover s")
    base = life.stretches[0].p99_ms
    for each in life.stretches:
        took = ", ".join(f"{seconds:.2f}" for seconds in each.rollover_s)
        figures = f"{each.seconds:>9}{each.checks:>8}{each.per_second:>10}{each.p50_ms:>8}{each.p99_ms:>8}{each.slowest_ms:>8}"
        print(f"{each.name:<8}{figures}  {took}  (p99 {each.p99_ms / base if base else 0:.1f} x)")
    print(f"errors {len(life.errors)}, degraded {len(life.degraded)}, counted wrongly {sum(life.wrong.values())}")
    for line in [*life.errors, *life.degraded][:10]:
        print(f"  {line}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(asdict(life), indent=2) + "\n")
    return 1 if life.errors or life.degraded or any(life.wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
