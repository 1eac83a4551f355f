"""What tests of nodes in one process may share."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.cluster import dismantling, lifecycle, reconcile
from raftcluster.cluster.api import Members
from raftcluster.cluster.reconcile import Reconciler
from raftcluster.seeking import Seeker


@pytest.fixture(autouse=True, scope="session")
def looks_often() -> Iterator[None]:
    """Nodes of one process look every fifth of a second at what the cluster's record wants of them. What nothing wakes them for
    waits for that look: the last step of each generation, of which every cluster that is made has some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raftcluster.node.Reconciler", partial(Reconciler, interval_s=0.2))
        yield


PATIENCE_SECONDS = 30.0
USUAL_SECONDS = limits.CALL_SECONDS
PROMPT = ("raftcluster.policy.", "raftcluster.service", "raftcluster.runtime")
"""Whoever is told in time here, is told so with the product's deadline: Postfix, and who asks a tick thread something."""


def with_the_usual_deadline() -> set[Callable[..., Any]]:
    """The calls of the API that wait for `CALL_SECONDS` when their caller names no deadline."""
    for room in ("raftcluster.node", "raftcluster.workers.client"):
        import_module(room)  # with all that they use
    modules = [m for name, m in sys.modules.items() if name.startswith("raftcluster.") and not name.startswith(PROMPT)]
    kinds = [kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)]
    calls = {call for kind in kinds for _, call in inspect.getmembers(kind, inspect.isfunction)}
    return {
        call
        for call in calls
        if call.__module__.startswith("raftcluster.")
        and not call.__module__.startswith(PROMPT)
        and (call.__kwdefaults__ or {}).get("deadline") == limits.CALL_SECONDS
    }


@pytest.fixture(autouse=True, scope="module")
def waits_long() -> Iterator[None]:
    """A call without a deadline waits for half a minute: on a machine with other work a change of leader may take longer than
    `CALL_SECONDS`, and is no finding. Tests of deadlines name theirs."""
    with pytest.MonkeyPatch.context() as patch:
        for call in with_the_usual_deadline():
            patch.setitem(call.__kwdefaults__, "deadline", PATIENCE_SECONDS)  # type: ignore[arg-type]
        for call in (Members.remove, Members.replace, Members.move):
            patch.setitem(call.__kwdefaults__, "wait_s", 2 * PATIENCE_SECONDS)  # type: ignore[arg-type]
        patch.setattr(limits, "CALL_SECONDS", PATIENCE_SECONDS)
        yield


@pytest.fixture
def soon_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those that are about calls which nobody answers: from now on they wait as in the product, or shorter."""
    for call in with_the_usual_deadline():
        monkeypatch.setitem(call.__kwdefaults__, "deadline", USUAL_SECONDS)  # type: ignore[arg-type]
    for call in (Members.remove, Members.replace, Members.move):
        monkeypatch.setitem(call.__kwdefaults__, "wait_s", USUAL_SECONDS)  # type: ignore[arg-type]
    monkeypatch.setattr(limits, "CALL_SECONDS", USUAL_SECONDS)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those that are about nodes that were away, in one process: there is no network between them that could be slow. They wait
    shorter for each other, and cut off they ask strangers what they have slept through, or for a tombstone, sooner -- all from one
    address. `./run e2e` waits as long as the product does."""
    monkeypatch.setattr(lifecycle, "LONELY_SECONDS", 1.0)
    monkeypatch.setattr(reconcile, "ASK_SECONDS", 1.0)
    monkeypatch.setattr(reconcile, "PROPOSE_SECONDS", 1.0)
    monkeypatch.setattr(dismantling, "FAREWELL_SECONDS", 1.0)
    monkeypatch.setattr(limits, "JOIN_PER_SECOND", 50.0)
    monkeypatch.setattr("raftcluster.node.Seeker", partial(Seeker, interval_s=0.5))
