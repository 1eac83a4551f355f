"""`python -m benchmarks`: durable greylist checks, ours and its rivals, interleaved in one run."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rich.console import Console

from benchmarks import curve, maillog, plot, report, scale, table, timeline
from benchmarks.load import Cell, Peer, Sample, interleave
from benchmarks.peers.etcd import Etcd
from benchmarks.peers.ours import Ours
from benchmarks.peers.postgres import Postgres
from benchmarks.peers.postgrey import Postgrey
from benchmarks.peers.redis import Redis
from tests import counted_work

DIRECTORY = Path(__file__).parent.parent / "build" / "bench"
PEERS: dict[str, Callable[[Path], Peer]] = {
    "ours": Ours,
    "etcd": Etcd,
    "redis": Redis,
    "postgres": Postgres,
    "postgrey": Postgrey,
}
USUAL = "ours,etcd"
WIDTH_WITHOUT_TERMINAL = 140


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time of a cell (default %(default)s)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="time before it (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="times that all cells are measured (default %(default)s)")
    parser.add_argument("--peers", help=f"which of {','.join(PEERS)} (default {USUAL})")
    parser.add_argument("--full", action="store_true", help="all peers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="data goes there: choose a real disk")
    parser.add_argument("--limit", type=int, help="the run is given up after so many seconds (600, with --full 1800)")
    parser.add_argument(
        "--table",
        type=int,
        nargs="?",
        const=1_000_000,
        metavar="TRIPLETS",
        help="instead: what clean-up and statistics cost a check with so many (default %(const)s); a turn has 5 x --seconds",
    )
    parser.add_argument(
        "--maillog",
        type=int,
        nargs="?",
        const=10,
        metavar="PAIRS",
        help="instead: what the mail log costs a check, in so many pairs (default %(const)s) of --seconds each",
    )
    parser.add_argument(
        "--scale",
        type=int,
        nargs="?",
        const=1_000_000,
        metavar="TRIPLETS",
        help="instead: a table of so many (default %(const)s), more nodes, nodes that are lost; of ours, etcd and Redis, or "
        "of --peers; a cell has 5 x --seconds",
    )
    parser.add_argument(
        "--curve",
        action="store_true",
        help="instead: what a new key costs the disk, by the size of its table and of the generations of runs",
    )
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of the curve's keys (any)")
    parser.add_argument(
        "--counted", action="store_true", help="instead: entries, fsyncs, messages and bytes of 1,000 checks"
    )
    parser.add_argument(
        "--timeline", action="store_true", help="instead: each check's time while a cluster's life goes on"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="instead: a plot of what a run has written, see --from"
    )
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE.json", help="what --plot shows")
    options = parser.parse_args()
    if options.peers is None:
        options.peers = ",".join(PEERS) if options.full or options.scale else USUAL
    if options.limit is None:
        options.limit = 1800 if options.full else 600
    return options


def _give_up(number: int, frame: FrameType | None) -> None:
    raise SystemExit(f"the run was ended by signal {signal.Signals(number).name}")


def main() -> None:
    options = _arguments()
    if options.plot:
        plot.draw(json.loads(options.source.read_text()), options.plot)
        return
    if options.timeline:
        timeline.run(options.directory / "timeline", options.json)
        return
    if options.counted:
        options.directory.mkdir(parents=True, exist_ok=True)
        counted_work.show(options.directory)
        return
    if options.scale:
        found = scale.run(options.directory / "scale", options.scale, 5 * options.seconds, options.peers.split(","))
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
        return
    if options.curve:
        points = curve.run(options.directory / "curve", options.seed)
        if options.json:
            options.json.write_text(json.dumps(points, indent=1))
        return
    if options.table:
        raise SystemExit(table.run(options.directory, options.table, 5 * options.seconds))
    if options.maillog:
        raise SystemExit(maillog.run(options.directory / "maillog", options.maillog, options.seconds))
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, _give_up)
    signal.alarm(options.limit)
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL, highlight=False)
    options.directory.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=options.directory)).resolve()
    work.chmod(0o711)  # servers that refuse to run as root have to reach theirs
    peers: dict[str, Peer] = {name: PEERS[name](work / name) for name in options.peers.split(",")}
    plan = {"seconds": options.seconds, "warm_up": options.warm_up, "rounds": options.rounds}

    def progress(what: str, sample: Sample) -> None:
        errors = f", {sample.errors} errors" if sample.errors else ""
        console.print(f"{what}: {sample.rate:,.0f}/s, p50 {sample.p50_ms:.3g} ms, p99 {sample.p99_ms:.3g} ms{errors}")

    try:
        environment = report.machine(work)
        for peer in peers.values():
            peer.start()
        rows = [row for peer in peers.values() for row in peer.rows()]
        cells: list[Cell] = interleave(rows, options.rounds, options.seconds, options.warm_up, progress)
        descriptions = {name: peer.describe() for name, peer in peers.items()}
    finally:
        for peer in peers.values():
            peer.stop()
        shutil.rmtree(work)
    report.show(console, cells, environment, descriptions, plan)
    if options.json:
        options.json.write_text(
            json.dumps(report.as_json(cells, environment, descriptions, plan), indent=1, default=dict)
        )


if __name__ == "__main__":
    main()
