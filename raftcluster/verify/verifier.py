"""The asking node's part: let every member arm, propose the mark, gather the answers, compare, look closer.

    members --verify stream--> "armed" from all that can be reached
    propose ["mark"] under the mark as request id: the entry in which it is found is the index to compare at
    answers: digests by ranges, and what is damaged            -> tables equal or different
    where ranges differ, once more, at a new mark: their rows  -> the rows by name

The second round compares at a later index, and all it says is true of that index; what is damaged stays so.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Final, NamedTuple, Protocol

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import FrameError, OutcomeUnknown, RaftclusterError, Rejected, Unavailable
from raftcluster.storage.ports import TABLE_NAME
from raftcluster.verify.answer import Answer, Wanted, refusal
from raftcluster.verify.examination import MARK_BYTES, MARK_SECONDS, Examiner
from raftcluster.verify.report import NodeFinding, Report, common_index, compare_rows, compare_tables, differing

STEP_SECONDS: Final = 1.0
PROPOSE_SECONDS: Final = 10.0


class Stream(Protocol):
    """What is needed of a connection: see `transport`."""

    def send(self, value: Value) -> None: ...
    def receive(self, timeout: float) -> Value: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Named(NamedTuple):
    """A member to be asked."""

    id: str
    name: str


class Verifier:
    """One node's. Any thread."""

    def __init__(
        self,
        me: str,
        examiner: Examiner,
        members: Callable[[], Sequence[Named]],
        open_stream: Callable[[str], Stream],
        propose: Callable[[bytes, float], object],
    ) -> None:
        """`propose(mark, seconds)` has the mark's entry applied; its errors are those of a proposal."""
        self._me, self._examiner, self._members = me, examiner, members
        self._open_stream, self._propose = open_stream, propose

    def steps(self, seconds: float) -> Iterator[str | Report]:
        """Texts about how far it is, at least one a second, then the report; to stop it, close the iterator.

        Raises `Unavailable` when there is no quorum to agree on an index. A member that does not answer is named in the
        report, with the reason.
        """
        members = self._members()
        end = time.monotonic() + seconds
        first = _Round(self, members, None, end)
        yield from first.run()
        index = common_index(first.answers.values())
        answered = {node: answer for node, answer in first.answers.items() if answer.index == index}
        silent = first.silent | dict.fromkeys(
            first.answers.keys() - answered.keys(), f"it got the tables beyond entry {index} from a snapshot"
        )
        names = {each.id: each.name for each in members}
        ranges = differing(list(answered.values()))
        wanted = ranges[: limits.VERIFY_RANGES]
        second: dict[str, Answer] = {}
        if wanted:
            yield "looking into the ranges that differ"
            closer = _Round(self, [each for each in members if each.id in answered], wanted, end)
            yield from closer.run()
            at = common_index(closer.answers.values())
            second = {names[node]: answer for node, answer in closer.answers.items() if answer.index == at}
        yield Report(
            index,
            [NodeFinding.of(each.id, each.name, answered.get(each.id), silent.get(each.id, "")) for each in members],
            compare_tables(
                {names[node]: answer for node, answer in answered.items()}, [names[each] for each in silent]
            ),
            compare_rows(wanted, second, limits.VERIFY_ROWS),
            len(ranges) - len(wanted),
        )

    def verify(self, seconds: float, progress: Callable[[str], None]) -> Report:
        """The report of `steps`."""
        for step in self.steps(seconds):
            if isinstance(step, Report):
                return step
            progress(step)
        raise AssertionError("the last step is a report")

    def serve(self, stream: Stream) -> None:
        """Answer a member that asks. Blocks; on a stream thread."""
        match stream.receive(limits.HANDSHAKE_SECONDS):
            case {"mark": bytes(mark), "wanted": wanted} if len(mark) == MARK_BYTES:
                with closing(self._examiner.examine(mark, _wanted(wanted))) as frames:
                    try:
                        for frame in frames:
                            stream.send(frame)
                    except RaftclusterError as error:
                        stream.send(refusal(error))
            case _:
                raise FrameError("this asks for nothing", subject="verify")

    def frames(
        self, node: str, mark: bytes, wanted: Sequence[Wanted] | None, opened: Callable[[Stream], None]
    ) -> Generator[Value, None, None]:
        """The frames of a member's answer, this node's included; `opened` is given the connection to another one."""
        if node == self._me:
            yield from self._examiner.examine(mark, wanted)
            return
        stream = self._open_stream(node)
        try:
            opened(stream)
            stream.send({"mark": mark, "wanted": None if wanted is None else [list(each) for each in wanted]})
            while True:
                yield stream.receive(MARK_SECONDS + limits.FRAME_SECONDS)
        finally:
            stream.close()

    def propose(self, mark: bytes, end: float) -> None:
        """Have the mark's entry committed and applied here. Raises `Unavailable`."""
        try:
            self._propose(mark, max(0.0, min(PROPOSE_SECONDS, end - time.monotonic())))
        except Rejected:
            pass  # on all nodes alike, where the cluster is being destroyed; the entry is there
        except OutcomeUnknown as error:
            raise Unavailable(
                "no quorum agreed on an entry to compare at",
                subject="cluster",
                remedy="start a majority of the members; with `--offline` each can be read through by itself",
            ) from error


class _Round:
    """All members asked once."""

    def __init__(
        self, verifier: Verifier, members: Sequence[Named], wanted: Sequence[Wanted] | None, end: float
    ) -> None:
        self._verifier, self._members, self._wanted, self._end = verifier, members, wanted, end
        self._mark = os.urandom(MARK_BYTES)
        self._changed = threading.Condition()
        self._armed: set[str] = set()
        self._streams: list[Stream] = []
        self._over = False
        self._asked: dict[str, Answer] = {each.id: Answer() for each in members}
        self.answers: dict[str, Answer] = {}
        """Node -> its whole answer."""
        self.silent: dict[str, str] = {}
        """Node -> why there is none."""

    def run(self) -> Iterator[str]:
        """Ask, and tell how far it is until all have answered or the time is over."""
        try:
            for each in self._members:
                name = f"raftcluster-verify-{each.name}"
                threading.Thread(target=self._ask, args=(each,), name=name, daemon=True).start()
            armed = min(self._end, time.monotonic() + limits.VERIFY_ARM_SECONDS)
            self._wait(lambda: self._settled() >= len(self._members), armed)
            self._leave_out(lambda node: node not in self._armed, "it was not ready in time")
            if not self._armed:
                return
            self._verifier.propose(self._mark, self._end)
            while not self._wait(self._complete, min(self._end, time.monotonic() + STEP_SECONDS)):
                yield self._progress()
                if time.monotonic() >= self._end:
                    self._leave_out(lambda node: True, "its answer was not complete in time")
        finally:
            self._leave_out(lambda node: True, "the verification was ended")
            self._over = True
            for stream in list(self._streams):
                stream.abort()

    def _opened(self, stream: Stream) -> None:
        self._streams.append(stream)
        if self._over:
            stream.abort()

    def _ask(self, member: Named) -> None:
        answer = self._asked[member.id]
        try:
            with closing(self._verifier.frames(member.id, self._mark, self._wanted, self._opened)) as frames:
                for frame in frames:
                    answer.take(frame)
                    if self._over:
                        return
                    if answer.done:
                        break
                    with self._changed:
                        self._armed.add(member.id)
                        self._changed.notify_all()
            self._settle(member.id, "" if answer.done else "its answer broke off")
        except RaftclusterError as error:
            self._settle(member.id, error.message)
        except Exception as error:  # noqa: BLE001 - whatever a member sends ends its own answer
            self._settle(member.id, f"its answer is nonsense: {error!r}")

    def _settle(self, node: str, reason: str) -> None:
        with self._changed:
            if node not in self.answers and node not in self.silent:
                if reason:
                    self.silent[node] = reason
                else:
                    self.answers[node] = self._asked[node]
            self._changed.notify_all()

    def _leave_out(self, which: Callable[[str], bool], reason: str) -> None:
        for node in self._asked:
            if which(node):
                self._settle(node, reason)

    def _wait(self, condition: Callable[[], bool], end: float) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, max(0.0, end - time.monotonic()))

    def _settled(self) -> int:
        return len(self._armed | self.silent.keys())

    def _complete(self) -> bool:
        return len(self.answers) + len(self.silent) == len(self._members)

    def _progress(self) -> str:
        return ", ".join(f"{each.name}: {self._asked[each.id].count} rows" for each in self._members)


def _wanted(value: Value) -> list[Wanted] | None:
    if value is None:
        return None
    found = []
    for each in value if isinstance(value, list) and len(value) <= limits.VERIFY_RANGES else [None]:
        match each:
            case [str(table), bytes(after), bytes() | None as last] if TABLE_NAME.fullmatch(table):
                found.append(Wanted(table, after, last))
            case _:
                raise FrameError("these are no ranges", subject="verify")
    return found
