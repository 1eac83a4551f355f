"""Fuzz the surfaces for some seconds each: `./run fuzz`. Exit code 1 when something was found.

The fuzzer starts from the surface's own seeds and from what earlier runs have found (`corpus/`). With `--keep` the
smallest set of inputs with the same coverage goes back there; they are replayed by every run of the tests.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import bounds
from tests.fuzz.corpus import CORPUS, SURFACES, inputs, store

SECONDS = 16
LENGTH_BYTES = 1_024
MEMORY_MB = 1_024
STATUS = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/(\S+)", re.MULTILINE)
MARGIN_SECONDS = 120
"""Imports, and reading the inputs that there are already."""


class Outcome(NamedTuple):
    """What became of one surface."""

    surface: str
    executions: int
    coverage: int
    features: int
    inputs: int
    finding: Path | None
    text: str


def fuzz(surface: str, seconds: int, seed: int, folder: Path) -> Outcome:
    """Run the fuzzer on one surface. What it finds is in `folder`, which also holds the inputs that it ended with."""
    found = folder / surface
    found.mkdir()
    for number, data in enumerate(inputs(surface)):
        (found / f"{number:04d}").write_bytes(data)
    command = [
        *(sys.executable, "-m", "tests.fuzz.worker", surface, str(found)),
        *(f"-max_total_time={seconds}", f"-seed={seed}", f"-max_len={LENGTH_BYTES}", f"-artifact_prefix={folder}/"),
        *(f"-rss_limit_mb={MEMORY_MB}", "-timeout=60", "-verbosity=1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + MARGIN_SECONDS, check=False)
    text = done.stdout + done.stderr
    last = [match.groups() for match in STATUS.finditer(text)][-1:] or [("0", "0", "0", "0", "")]
    finding = next(iter(sorted(folder.glob("*-*"))), None)
    if done.returncode and finding is None:
        raise SystemExit(f"{surface}: the fuzzer itself failed\n{text[-4000:]}")
    executions, coverage, features, kept = (int(number) for number in last[0][:4])
    told = done.stdout[done.stdout.find("=== Uncaught") :] if "=== Uncaught" in done.stdout else text[-3_000:]
    return Outcome(surface, executions, coverage, features, kept, finding, told)


def report(outcome: Outcome) -> None:
    """A line for a surface; for a finding what it was, and how to repeat it."""
    print(
        f"{outcome.surface:10} {outcome.executions:>9} executions   coverage {outcome.coverage:>5}   "
        f"features {outcome.features:>6}   inputs {outcome.inputs:>4}",
        flush=True,
    )
    if outcome.finding is not None:
        kept = Path("fuzz-finding") / f"{outcome.surface}-{outcome.finding.name}"
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(outcome.finding.read_bytes())
        print(outcome.text[:6_000])
        print(f"repeat it with: ./run fuzz --replay {kept} --target {outcome.surface}")


def replay(surface: str, file: Path) -> None:
    """One input, with the traceback of what it meets."""
    calls = bounds.counted(importlib.import_module(f"tests.fuzz.surfaces.{surface}").run, file.read_bytes())
    print(f"{file}: nothing found in {calls} calls")


def main() -> int:
    """Parse, run, report."""
    parser = argparse.ArgumentParser("./run fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target (default %(default)s)")
    parser.add_argument("--target", action="append", choices=SURFACES, help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (default %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the inputs that reach something new in the corpus")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input on one target, and nothing else")
    asked = parser.parse_args()
    if asked.replay:
        if not asked.target:
            parser.error("--replay needs --target")
        replay(asked.target[0], asked.replay)
        return 0
    print(f"seed {asked.seed}, {asked.seconds} s for each target", flush=True)
    findings = executions = 0
    for surface in asked.target or SURFACES:
        with tempfile.TemporaryDirectory() as name:
            outcome = fuzz(surface, asked.seconds, asked.seed, Path(name))
            report(outcome)
            findings += outcome.finding is not None
            executions += outcome.executions
            if asked.keep and outcome.finding is None:
                added = store(surface, Path(name) / surface)
                print(f"{'':10} {added} inputs in {CORPUS / surface}")
    print(f"{executions} executions, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
