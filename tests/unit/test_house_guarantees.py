"""docs/guarantees.md promises nothing without the command that checks it, docs/mapping.md leaves nothing of the description
out, and no command in them is made up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests import checkout
from tests.chaos.faults import KINDS
from tests.simulation.profiles import PROFILES

PAGE = checkout.ROOT / "docs" / "guarantees.md"
MAPPING = checkout.ROOT / "docs" / "mapping.md"
UNBUILT = "not built yet"
UNCHECKED = "not checked: "
"""Instead of a command, where nothing is promised."""


def commands(text: str) -> list[str]:
    """What the page names in backticks and a reader may run: tests, verbs of `./run`, `raftcluster` and its commands."""
    return [each for each in re.findall(r"`([^`]+)`", text) if re.match(r"tests/|\./run |raftcluster ", each)]


@cache
def tracked() -> set[str]:
    return {str(each) for each in checkout.files()}


@cache
def names_in(source: str) -> set[str]:
    return {
        each.name for each in ast.walk(ast.parse(source)) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def made_up(command: str) -> Iterator[str]:
    """What of a command does not exist."""
    script = (checkout.ROOT / "run").read_text()
    if command.startswith("tests/"):
        path, _, name = command.partition("::")
        if path not in tracked():
            yield path
        elif name and name not in names_in((checkout.ROOT / path).read_text()):
            yield command
    elif command.startswith("./run "):
        verb, *options = re.findall(r"'[^']*'|\S+", command.removeprefix("./run "))
        if f"\n    {verb})" not in script:
            yield f"./run {verb}"
            return
        module = re.search(rf"\n    {verb}\)[^;]*?-m (tests[.\w]*) ", script)
        main = "" if module is None else (checkout.ROOT / module[1].replace(".", "/") / "__main__.py").read_text()
        yield from (option for option in options if option.startswith("--") and f'"{option}"' not in main)
        values = dict(zip(options, [each.strip("'") for each in options[1:]], strict=False))
        if values.get("--only", KINDS[0].name) not in {kind.name for kind in KINDS}:
            yield f"--only {values['--only']}"
        if values.get("--profile", "static") not in PROFILES:
            yield f"--profile {values['--profile']}"


def unchecked(text: str) -> Iterator[str]:
    """Rows of tables with the column "checked by" that name no command there and do not say that there is none."""
    checking = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            checking = False
        elif cells[-1] == "checked by":
            checking = True
        elif checking and not line.startswith("|---") and not commands(cells[-1]) and UNCHECKED not in cells[-1]:
            yield cells[0]


def test_every_command_exists() -> None:
    found = commands(PAGE.read_text())
    assert len(found) > 60
    assert [what for command in found for what in made_up(command)] == []


def test_every_claim_names_what_checks_it() -> None:
    text = PAGE.read_text()
    assert text.count("checked by |") == 5
    assert list(unchecked(text)) == []


@pytest.mark.parametrize(
    "command",
    [
        "tests/unit/test_nothing.py",
        "tests/unit/test_verify.py::test_nothing",
        "./run nothing",
        "./run chaos --nothing",
        "./run chaos --only 'a good day'",
        "./run simulate --profile nothing",
    ],
)
def test_a_command_that_is_made_up_is_noticed(command: str) -> None:
    assert list(made_up(command))


def test_a_claim_without_a_command_is_noticed() -> None:
    table = "| a | checked by |\n|---|---|\n| claim | `./run test` |\n| wish | |\n| hope | not checked: none |\n"
    assert list(unchecked(table)) == ["wish"]
    assert list(unchecked("| a | b |\n|---|---|\n| wish | |\n")) == []


def unshown(text: str) -> Iterator[str]:
    """Rows of tables with the column "shown by" that say neither what shows them nor that they are not built."""
    for number, _, here, shown in re.findall(r"^\| ([RD]\d+[a-d]?) \| (.*) \| (.*) \| (.*) \|$", text, re.MULTILINE):
        if not (here.startswith(UNBUILT) if shown == UNBUILT else commands(shown)):
            yield number


def test_every_statement_of_the_description_is_mapped_and_nothing_is_made_up() -> None:
    text = MAPPING.read_text()
    numbers = re.findall(r"^\| ([RD]\d+[a-d]?) \|", text, re.MULTILINE)
    described = [f"R{n}{part}" for n in range(1, 37) for part in ("abcd" if n == 3 else [""])]
    assert numbers == described + [f"D{n}" for n in range(1, 12)]
    assert [what for command in commands(text) for what in made_up(command)] == []
    assert list(unshown(text)) == []


def test_a_statement_that_nothing_shows_is_noticed() -> None:
    rows = (
        "| R1 | a | b | the author says so |",
        "| R2 | a | b | not built yet |",
        "| D3 | a | not built yet | not built yet |",
    )
    assert list(unshown("\n".join(rows))) == ["R1", "R2"]
