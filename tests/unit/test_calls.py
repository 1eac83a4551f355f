"""Callers whose commands travel as one operation are told apart again, whatever comes of it."""

from __future__ import annotations

from typing import Any

from raftcluster.calls import Calls
from raftcluster.engine.operations import DONE, FAILED, REJECTED, UNKNOWN
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Rejected, Unavailable

IDENT = b"0123456789abcdef"


class Callers:
    """So many of them, and what each was told."""

    def __init__(self, count: int, *, named: bool = False) -> None:
        self.told: list[list[tuple[Any, RaftclusterError | None]]] = [[] for _ in range(count)]
        self.calls = Calls(IDENT, named, [self._callback(told) for told in self.told], 1.0, 0)

    @staticmethod
    def _callback(told: list[tuple[Any, RaftclusterError | None]]) -> Any:
        return lambda value, error: told.append((value, error))


def test_each_caller_gets_the_result_of_its_own_command() -> None:
    callers = Callers(4)
    refused = [REJECTED, "too-bad", "no", "it", "never"]
    callers.calls.answer([[DONE, 1], refused, [FAILED, "KeyError"], [UNKNOWN]], None)
    assert [len(told) for told in callers.told] == [1, 1, 1, 1]
    assert callers.told[0] == [(1, None)]
    kinds = [(type(error), error and error.code) for ((_, error),) in callers.told]
    assert kinds == [
        (type(None), None),
        (Rejected, "too-bad"),
        (Rejected, "rejected"),
        (OutcomeUnknown, "outcome-unknown"),
    ]


def test_an_error_that_all_share_is_an_object_of_each() -> None:
    """They raise it in threads of their own, and a traceback belongs to one of them."""
    callers = Callers(3)
    callers.calls.answer(None, Unavailable("nobody leads", subject="cluster", remedy="ask again"))
    errors = [error for ((_, error),) in callers.told]
    assert len({id(error) for error in errors}) == 3
    assert {(type(e), str(e), getattr(e, "subject", "")) for e in errors} == {
        (Unavailable, "nobody leads (ask again)", "cluster")
    }


def test_only_the_first_answer_counts_and_nothing_is_kept_of_it() -> None:
    callers = Callers(2)
    callers.calls.answer([[DONE, b"a"], [DONE, b"b"]], None)
    callers.calls.answer(None, Unavailable("late"))
    assert callers.told == [[(b"a", None)], [(b"b", None)]]
    assert callers.calls.done and callers.calls.callbacks == []


def test_a_caller_that_fails_takes_nothing_from_the_others() -> None:
    told: list[Any] = []

    def broken(value: Any, error: RaftclusterError | None) -> None:
        raise RuntimeError("the caller's own")

    calls = Calls(IDENT, False, [broken, lambda value, error: told.append(value)], 1.0, 0)
    calls.answer([[DONE, 1], [DONE, 2]], None)
    assert told == [2]


def test_an_id_that_stood_for_other_commands_tells_nobody_a_wrong_result() -> None:
    callers = Callers(1, named=True)
    callers.calls.answer([[DONE, 1], [DONE, 2]], None)
    assert isinstance(callers.told[0][0][1], OutcomeUnknown)


def test_a_call_in_doubt_is_never_told_that_nothing_was_applied() -> None:
    callers = Callers(1, named=True)
    callers.calls.doubtful = True
    callers.calls.answer(None, Unavailable("no leader took it"))
    assert isinstance(callers.told[0][0][1], OutcomeUnknown)
