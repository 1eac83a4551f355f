"""Every input that the fuzzer has found worth keeping, again; and that the surfaces can fail."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftcluster.engine import wire
from raftcluster.policy.protocol import Parser
from tests.fuzz import bounds, corpus
from tests.fuzz.commands import Node


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nothing of what hostile input makes a node say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def surface(name: str) -> Callable[[bytes], object]:
    """The function of bytes that a surface is."""
    run: Callable[[bytes], object] = importlib.import_module(f"tests.fuzz.surfaces.{name}").run
    return run


@pytest.mark.parametrize("name", corpus.SURFACES)
def test_what_was_found_is_replayed_within_its_bounds(name: str) -> None:
    run, inputs = surface(name), corpus.inputs(name)
    assert len(corpus.kept(name)) > 5
    run(inputs[0])  # what is imported and cached the first time is no cost of an input
    tracemalloc.start()
    try:
        for data in inputs:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            bounds.counted(run, data)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < bounds.MEMORY_BYTES + bounds.MEMORY_PER_BYTE * len(data), data.hex()
    finally:
        tracemalloc.stop()


def test_the_corpus_is_small() -> None:
    files = [file for name in corpus.SURFACES for file in corpus.kept(name)]
    assert all(file.stat().st_size <= corpus.FILE_BYTES for file in files)
    assert {folder.name for folder in corpus.CORPUS.iterdir()} == set(corpus.SURFACES)


def test_machines_do_not_depend_on_the_order_of_hashes() -> None:
    """The same commands in two processes whose sets and dicts of text are ordered otherwise."""
    command = [sys.executable, "-m", "tests.fuzz.corpus"]
    told = [
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] and len(told[0].splitlines()) > 50


def endless(data: bytes) -> None:
    while True:
        len(data)


def test_an_input_that_costs_too_much_is_found() -> None:
    with pytest.raises(bounds.TooMuch, match="more than"):
        bounds.counted(endless, b"x")
    assert bounds.counted(bytes.hex, b"x") < 10


def broken_check(message: Any, term: int) -> str:
    return str(message.get("type")) if isinstance(message, dict) else ""


def forgetful(self: Node) -> None:
    """A restart that loses what was written behind."""
    self.disk.tables.pop("config.values", None)
    opened(self)


opened = Node.open


DEFECTS: dict[str, tuple[str, object, str, object]] = {
    "messages that nobody checks": ("messages", wire, "check", broken_check),
    "requests of any length": ("policy", Parser, "_bound", lambda self, size: None),
    "a node that differs after its restart": ("config", Node, "open", forgetful),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    surface_name, owner, attribute, broken = DEFECTS[name]
    run = surface(surface_name)
    monkeypatch.setattr(owner, attribute, broken)
    found = 0
    for data in [*corpus.inputs(surface_name), b"\x00" + b"x" * 70_000]:
        try:
            run(data)
        except Exception:  # noqa: BLE001 - whatever it meets is the finding
            found += 1
    assert found
