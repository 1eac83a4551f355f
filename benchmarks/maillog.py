"""`./run bench --maillog`: what the mail log costs a check, in pairs: the same node, with and without it, one after the other.

One durable node in this process, a closed loop of checks (`table.Load`), so all of the log's work competes with the checks for one
interpreter: that is the most it can cost. The log is switched by its setting; which of a pair is first changes from pair to pair.
"""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Final, NamedTuple

import raftcluster
from benchmarks.table import Load
from raftcluster import Node
from tests.helpers import free_ports
from tests.receivers import StreamReceiver

MODES: Final = ("off", "on", "exported")


class Turn(NamedTuple):
    """What one mode did once."""

    rate: float
    """Checks per second."""
    median: float
    p99: float
    processor: float
    """Seconds of this process's time per check, all threads."""


def run(directory: Path, pairs: int, seconds: float) -> int:
    """Measure and print; 1 when entries were dropped."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    listen = ("127.0.0.1", free_ports(1)[0])
    raftcluster.init(directory / "node", cluster="maillog", node="mx1", listen=listen, lab=True)
    turns: dict[str, list[Turn]] = {mode: [] for mode in MODES}
    with StreamReceiver(free_ports(1)[0]) as receiver, Node.open(directory / "node") as node:
        load = Load(node)
        for number in range(pairs):
            for mode in MODES if number % 2 else MODES[::-1]:
                node.config.local.set("local/maillog/enabled", mode != "off")
                where = f"tcp://127.0.0.1:{receiver.port}" if mode == "exported" else ""
                node.config.local.set("local/maillog/export", where)
                turns[mode].append(_turn(load, seconds))
        load.stop()
        status = node.maillog.status()
    shutil.rmtree(directory)
    _print(turns)
    print(
        f"{status['last']} entries, {status['dropped']} dropped since the log was switched on last; "
        f"{len(receiver.messages)} exported"
    )
    return int(bool(status["dropped"]) or bool(load.errors))


def _turn(load: Load, seconds: float) -> Turn:
    began, used = time.monotonic(), time.process_time()
    took = sorted(load.measure(seconds))
    used, lasted = time.process_time() - used, time.monotonic() - began
    rate = len(took) / seconds
    return Turn(rate, took[len(took) // 2], took[int(len(took) * 0.99)], used / (rate * lasted))


def _print(turns: dict[str, list[Turn]]) -> None:
    print(
        f"{'mail log':10} {'checks/s':>9} {'median':>9} {'p99':>9} {'processor':>11} {'checks/s of a pair, beside off':>32}"
    )
    for mode, found in turns.items():
        middle = Turn(*(statistics.median(column) for column in zip(*found, strict=True)))
        ratios = sorted(each.rate / off.rate for each, off in zip(found, turns["off"], strict=True))
        print(
            f"{mode:10} {middle.rate:9.0f} {middle.median * 1e3:6.2f} ms {middle.p99 * 1e3:6.2f} ms "
            f"{middle.processor * 1e6:8.1f} us {statistics.median(ratios):18.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )
