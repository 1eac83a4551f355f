"""How this project's files are written, as far as a syntax tree shows it; and that each check can fail."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import pytest

from tests import checkout

LINES = 500
WAITS = "tests/helpers.py"  # `eventually`: the one place where a test may sleep
ESCAPES = {"skip", "skipif", "xfail", "importorskip"}

Check = Callable[[ast.Module], Iterator[int]]


def sleeps(tree: ast.Module) -> Iterator[int]:
    """Lines that wait for time instead of a condition."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and isinstance(node.value, ast.Name):
            if node.value.id == "time":
                yield node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (node.lineno for alias in node.names if alias.name == "sleep")


def escapes(tree: ast.Module) -> Iterator[int]:
    """Lines by which a test may pass without having run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ESCAPES and ast.unparse(node.value).startswith("pytest"):
            yield node.lineno


def mocks(tree: ast.Module) -> Iterator[int]:
    """Lines that import stand-ins which agree with everything."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        if any(name.startswith("unittest") for name in names):
            yield node.lineno


def undocumented(tree: ast.Module) -> Iterator[int]:
    """The module, and the public classes at its top, without a docstring."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    if tree.body and ast.get_docstring(tree) is None:
        yield 1
    yield from (node.lineno for node in classes if ast.get_docstring(node) is None)


def offences(check: Check, *folders: str, but: str = "") -> list[str]:
    found = checkout.sources(*folders)
    assert found
    return [f"{path}:{line}" for path, text in found.items() if path != but for line in check(ast.parse(text))]


def test_a_test_waits_for_a_condition() -> None:
    assert offences(sleeps, "tests", but=WAITS) == []


@pytest.mark.parametrize("check", [escapes, mocks])
def test_a_test_runs_for_real(check: Check) -> None:
    assert offences(check, "tests") == []


def test_modules_and_public_classes_say_what_they_are() -> None:
    assert offences(undocumented, *checkout.LIBRARY) == []


def test_a_file_is_about_one_thing() -> None:
    library = checkout.sources(*checkout.LIBRARY)
    assert {path: text.count("\n") for path, text in library.items() if text.count("\n") > LINES} == {}


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (sleeps, "import time\ntime.sleep(1)"),
        (sleeps, "\nfrom time import monotonic, sleep"),
        (escapes, "\n@pytest.mark.skipif(True, reason='x')\ndef test(): ..."),
        (escapes, "\npytest.importorskip('x')"),
        (mocks, "\nfrom unittest.mock import Mock"),
        (mocks, "\nimport unittest.mock"),
        (undocumented, "'''Module.'''\nclass Public:\n    x = 1"),
    ],
)
def test_each_check_can_fail(check: Check, source: str) -> None:
    assert list(check(ast.parse(source))) == [2]
