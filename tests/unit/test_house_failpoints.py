"""Every failpoint exists once in the library, and a test has a process die there."""

from __future__ import annotations

import ast
from collections import Counter

from raftcluster import failpoints
from tests import checkout
from tests.integration.test_failpoints import CASES
from tests.integration.test_failpoints_destroy import CRASHED_AT


def reached() -> Counter[str]:
    """How often each name is reached in the library's sources. AssertionError when one is not written out."""
    found: Counter[str] = Counter()
    for path, text in checkout.sources(*checkout.LIBRARY).items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reach":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"
                found[str(node.args[0].value)] += 1
    return found


def test_every_failpoint_is_somewhere_and_in_one_place() -> None:
    assert reached() == Counter(dict.fromkeys(failpoints.NAMES, 1))


def test_every_failpoint_is_crashed_at() -> None:
    assert {case.name for case in CASES} | CRASHED_AT == set(failpoints.NAMES)
