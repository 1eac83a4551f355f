"""What this node's callers have asked and nobody has answered yet; what of it is still to be sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raftcluster.engine import operations
from raftcluster.engine.operations import Operation, Result
from raftcluster.errors import RaftclusterError

Answer = Callable[[list[Result] | None, RaftclusterError | None], None]
"""Receives the results of an operation, one a command, or why there are none."""


@dataclass(slots=True)
class Pending:
    """An operation without a result."""

    packed: bytes
    commands: int
    answers: list[Answer]
    sent_at: float | None = None
    """When a copy of it last left the outbox; None before that, when giving up means *not applied*."""


class Outbox:
    """Thread: tick thread only."""

    def __init__(self) -> None:
        self._pending: dict[bytes, Pending] = {}
        self.bytes = self.commands = 0
        """Of all that is pending."""
        self._unsent: OrderedDict[bytes, None] = OrderedDict()
        """Ids of those in `_pending` that are to be sent, in order."""

    def __len__(self) -> int:
        return len(self._pending)

    def __bool__(self) -> bool:
        """Whether anything is to be sent."""
        return bool(self._unsent)

    def __iter__(self) -> Iterator[bytes]:
        """The ids of all that is pending, as of now."""
        return iter(list(self._pending))

    def join(self, ident: bytes, answer: Answer) -> bool:
        """Wait for an operation that is under way; False when there is none of this id."""
        pending = self._pending.get(ident)
        if pending is None:
            return False
        pending.answers.append(answer)
        return True

    def add(self, operation: Operation, answer: Answer) -> None:
        """Raises `Rejected` for what cannot be sent."""
        packed = operations.encode_operation(operation)
        self._pending[operation.id] = Pending(packed, len(operation.commands), [answer])
        self.bytes += len(packed)
        self.commands += len(operation.commands)
        self._unsent[operation.id] = None

    def give_up(self, ident: bytes, answer: Answer) -> bool:
        """A caller's deadline has passed; `answer` is not called any more. True when no copy of the operation was ever sent,
        nor will be for another caller: it is not applied."""
        pending = self._pending.get(ident)
        if pending is None:
            return False
        pending.answers = [a for a in pending.answers if a != answer]
        if pending.answers:
            return False
        self._forget(ident)
        return pending.sent_at is None

    def settle(self, ident: bytes, results: list[Result]) -> None:
        """Tell whoever waits for this id."""
        if ident in self._pending:
            for answer in self._forget(ident).answers:
                answer(results, None)

    def _forget(self, ident: bytes) -> Pending:
        pending = self._pending.pop(ident)
        self.bytes -= len(pending.packed)
        self.commands -= pending.commands
        self._unsent.pop(ident, None)  # where nobody leads nothing else would take it out
        return pending

    def take(self, room: int, room_bytes: int) -> dict[bytes, Pending]:
        """What is to be sent next, at most so much of it: `sent` or `put_back` follows."""
        taken: dict[bytes, Pending] = {}
        size = 0
        while self._unsent and len(taken) < room and size < room_bytes:
            ident, _ = self._unsent.popitem(last=False)
            taken[ident] = pending = self._pending[ident]
            size += len(pending.packed)
        return taken

    def put_back(self, taken: dict[bytes, Pending]) -> None:
        """It could not be sent: it is again what is sent next."""
        for ident in reversed(taken):
            self._unsent[ident] = None
            self._unsent.move_to_end(ident, last=False)

    def send_again(self, before: float | None = None) -> None:
        """All of it, or what was last sent before that time, may be lost."""
        if before is None:
            self._unsent = OrderedDict.fromkeys(self._pending)
        else:
            old = [i for i, p in self._pending.items() if p.sent_at is not None and p.sent_at < before]
            self._unsent.update(dict.fromkeys(old))
