"""Callers' commands that travel as one operation: one id, one deadline, one answer for all."""

from __future__ import annotations

import logging
from copy import copy

from raftcluster.engine.operations import Result, error_of
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Unavailable
from raftcluster.host import Completion

log = logging.getLogger("raftcluster.node")

SAME_ID = "ask again with the same request id"


class Calls:
    """What to do with the results of an operation, and until when. Thread: tick thread only."""

    __slots__ = ("born", "callbacks", "deadline", "done", "doubtful", "ident", "named")

    def __init__(self, ident: bytes, named: bool, callbacks: list[Completion], deadline: float, born: int) -> None:
        """`callbacks` are those of the operation's commands, in order; `named` says that a caller chose the id."""
        self.ident, self.named, self.callbacks, self.deadline, self.born = ident, named, callbacks, deadline, born
        self.done = False
        self.doubtful = False
        """An earlier call of this id was given up while a copy was on its way: nobody can say that it was not applied."""

    def answer(self, results: list[Result] | None, error: RaftclusterError | None) -> None:
        """Tell every caller its result, or the same error; only the first time."""
        if self.done:
            return
        self.done = True
        callbacks, self.callbacks = self.callbacks, []  # whoever keeps us until the deadline keeps nothing of theirs
        if self.doubtful and isinstance(error, Unavailable):
            error = OutcomeUnknown(error.message, subject=error.subject, remedy=SAME_ID)
        elif results is not None and len(results) != len(callbacks):
            text = f"the id stands for {len(results)} commands"
            error = OutcomeUnknown(text, subject="request id", remedy="use an id for one command only")
        if error is not None or results is None:
            for callback in callbacks:
                tell(callback, None, copy(error))  # raised in threads of their own, each with its traceback
            return
        for callback, result in zip(callbacks, results, strict=True):
            if result[0]:
                tell(callback, None, error_of(result))
            else:
                tell(callback, result[1], None)


def tell(callback: Completion, value: object, error: RaftclusterError | None) -> None:
    """A caller's callback may do anything but harm the node."""
    try:
        callback(value, error)
    except Exception:
        log.exception("a caller's callback failed")
