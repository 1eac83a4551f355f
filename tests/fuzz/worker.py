"""One process of the fuzzer: one surface, under coverage. `python -m tests.fuzz.worker SURFACE [libFuzzer's options]`."""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import sys

import atheris

COUNTED = 16
"""Work is counted in one execution of so many: counting costs more than all the rest."""


def main() -> None:
    """Fuzz for as long as the options say. A finding ends the process with the input in a file."""
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["raftcluster"], enable_loader_override=False):
        importlib.import_module("raftcluster")  # before anything else imports a part of it
        surface = importlib.import_module(f"tests.fuzz.surfaces.{name}")
        bounds = importlib.import_module("tests.fuzz.bounds")
    logging.disable(logging.CRITICAL)
    turns = itertools.count()

    def once(data: bytes) -> None:
        if next(turns) % COUNTED:
            surface.run(data)
        else:
            bounds.counted(surface.run, data)

    atheris.Setup([os.environ.get("RAFTCLUSTER_FUZZ_AGAIN", sys.argv[0]), *options], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
