"""The checks at the end of ./run chaos see what they are there to see."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.chaos.history import Observer, Writer, disagreements, violations
from tests.chaos.victim import Victim

Held = dict[str, int]  # key -> revision; the value is the key


def node(name: str, held: Held, *, leader: str = "one", term: int = 1) -> Victim:
    """What a node that holds `held` would answer."""

    def entry(key: str) -> Any:
        return {"revision": held[key], "value": key} if key in held else None

    config = SimpleNamespace(entry=entry, keys=lambda prefix: sorted(held))
    status = {"id": name, "leader": leader, "term": term}
    return cast(Victim, SimpleNamespace(name=name, client=SimpleNamespace(config=config), status=lambda: status))


def writer(acknowledged: Held, *refused: str) -> Writer:
    done = Writer(node("one", {}))
    done.acknowledged, done.refused = acknowledged, set(refused)
    return done


@pytest.mark.parametrize(
    ("held", "told", "found"),
    [
        ({"a": 1, "b": 2}, writer({"a": 1, "b": 2}), []),
        ({"a": 1, "unknown": 2}, writer({"a": 1}), []),
        ({}, writer({}), ["nothing was acknowledged at all"]),
        ({"a": 1}, writer({"a": 1, "b": 2}), ["one lost b, acknowledged at revision 2"]),
        ({"a": 3}, writer({"a": 1}), ["one holds {'revision': 3, 'value': 'a'} for a, acknowledged at revision 1"]),
        ({"a": 1, "b": 2}, writer({"a": 1}, "b"), ["one holds b, which was refused"]),
        ({"a": 1, "b": 1}, writer({"a": 1, "b": 1}), ["two acknowledged writes have one revision"]),
        ({"a": 2, "b": 1}, writer({"a": 2, "b": 1}), ["writer at one: revisions went back"]),
    ],
)
def test_violations(held: Held, told: Writer, found: list[str]) -> None:
    assert list(violations([node("one", held)], [told])) == found


def test_nodes_agree_when_leader_and_keys_are_the_same() -> None:
    assert disagreements([node("one", {"a": 1}), node("two", {"a": 1})]) == []
    assert disagreements([node("one", {"a": 1}), node("two", {})]) == ["the nodes hold different keys"]
    assert len(disagreements([node("one", {}), node("two", {}, leader="two")])) == 1


def test_a_term_has_one_leader() -> None:
    observer = Observer([])
    observer.leaders = {1: {"one"}, 2: {"one", "two"}}
    assert observer.violations() == ["term 2 was led by ['one', 'two']"]
