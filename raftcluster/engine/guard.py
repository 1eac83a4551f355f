"""The guard: what stands between the engine and its peers so that pysyncobj 0.3.17 becomes a safe Raft.

The engine believes that it talks to a transport; it talks to a :class:`Guard`, which rewrites, delays, trims and refuses
messages in both directions. Hazards H1-H21 and rules 1-16 are listed in docs/divergences.md; each rewriting below names
the one it mends. Nothing here does IO: messages go out through `send`, time comes from `now`.

Every guard has a name and can be switched off (`disabled`), for one purpose: a test that a named schedule then fails.

Messages are dicts. The engine's own: `append_entries`, `next_node_idx`, `request_vote`, `response_vote`, `timeout_now`.
The guard's: `term` (a deposed leader is told), `pre_vote`, `pre_vote_grant`, `read_probe`, `read_ack`. Everything else
belongs to the replica and passes by the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from raftcluster import failpoints
from raftcluster.engine import membership
from raftcluster.engine.cluster_time import ClusterTime, Known
from raftcluster.engine.election import NEVER, Election
from raftcluster.engine.guards import GUARDS, Message, Seam
from raftcluster.engine.read_index import ReadIndex
from raftcluster.errors import FrameError
from raftcluster.storage.ports import Entry


@dataclass(slots=True)
class _Answering:
    """While the engine handles one append: what its answer may claim."""

    sequence: int
    verified: int | None = None
    """The last index that this append proved equal to the leader's log; None while nothing was."""
    empty: bool = False
    """It carried no entries: a heartbeat, or a new commit index."""


class Guard:
    """One node's guard. Thread: tick thread only."""

    def __init__(
        self,
        seam: Seam,
        send: Callable[[str, Message], bool],
        now: Callable[[], float],
        time: ClusterTime,
        *,
        sticky_seconds: float,
        sign_seconds: float,
        disabled: Collection[str] = (),
    ) -> None:
        unknown = set(disabled) - set(GUARDS)
        assert not unknown, f"no such guard: {unknown}"
        self._seam, self._send, self._now, self._clock = seam, send, now, time
        self._sign_seconds = sign_seconds
        self._answered: dict[str, float] = {}
        """peer -> when an acknowledgement last left for it."""
        self._disabled = frozenset(disabled)
        self.linked: set[str] = set()
        """Peers with a link, members or not: connections are independent of the configuration."""
        self.election = Election(
            seam, send, now, self.linked, self._tell_term, sticky_seconds=sticky_seconds, sticky=self.on("sticky")
        )
        self.reads = ReadIndex(seam, send, self.linked)
        self._sequence: dict[str, int] = {}
        self._barrier: dict[str, int] = {}
        self._votes: set[tuple[str, int]] = set()
        self._answering: _Answering | None = None
        self._held: deque[tuple[int, str, Message]] = deque()
        self._late: dict[str, tuple[int, int]] = {}
        """peer -> (term, next index) acknowledged beyond this leader's durable index."""
        self._sent: dict[str, deque[tuple[int, float]]] = {}
        """peer -> (sequence, when sent) of the appends of this term that it has not answered."""
        self._confirmed: dict[str, float] = {}
        """peer -> when the newest append was sent that it has answered in this term."""
        self._confirmed_term = -1
        self.full = False
        """The disk is full: this node hears heartbeats and takes no entries, so that what waits in memory is bounded."""
        self._blocked: dict[str, int] = {}
        """peer -> first index that its full queue did not take in this round of appends."""

    def on(self, name: str) -> bool:
        return name not in self._disabled

    # ---- links

    def link_up(self, peer: str) -> None:
        self.linked.add(peer)
        self.reads.link_up(peer)

    def link_down(self, peer: str) -> None:
        self.linked.discard(peer)

    # ---- outgoing: the engine's messages

    def outgoing(self, peer: str, message: Message) -> None:
        """The engine sends. It may leave now, later (after a ticket), changed, or not at all."""
        seam, kind = self._seam, message["type"]
        if kind == "append_entries":
            if "transmission" in message:
                raise AssertionError("an entry beyond APPEND_BYTES reached the engine")  # H20: operations are bounded
            if peer in self._blocked:
                return
            self._sequence[peer] = sequence = self._sequence.get(peer, 0) + 1
            self._note_sent(peer, sequence)
            message = dict(message, seq=sequence)
            if message.pop("serialized", None) is not None:
                message["offer"] = list(seam.journal[1][1:3])  # H4-H7: an offer, never data
            elif self.on("withhold"):
                message = self._without_removal(peer, message)
        elif kind == "next_node_idx":
            message = self._answer(message)
        elif kind == "request_vote":
            self._votes.clear()
            if self.election.transfer_term == message["term"] - 1:
                message = dict(message, transfer=True)
        elif kind not in ("response_vote", "timeout_now"):
            raise AssertionError(f"the engine sent {kind}: forwarding is the replica's")  # H11, H21
        self._gated(peer, message)

    def _without_removal(self, peer: str, message: Message) -> Message:
        """Up to the entry that removes `peer`, unless it is committed. Whoever holds that entry is no voter by its own log,
        so it does not campaign, and does not vote for those who lack it: should the leader's disk lose the entry, or the
        leader die, the others could need that very vote. Who does not hold it votes as before."""
        commit = self._seam.commit_index
        for position, (command, index, _) in enumerate(message["entries"]):
            if index > commit and membership.decode(command) == membership.Change("rem", peer):
                self._blocked[peer] = index  # to be read again
                return dict(message, entries=message["entries"][:position])
        return message

    def _answer(self, message: Message) -> Message:
        """Clamp what the engine's acknowledgement claims to what this append has verified (H2, H4, H15)."""
        message = dict(message, term=self._seam.term)
        answering = self._answering
        if answering is None:
            return message
        message["seq"] = answering.sequence
        if message["success"]:
            if answering.verified is not None:
                message["next_node_idx"] = min(message["next_node_idx"], answering.verified + 1)
        elif message["reset"] and self.on("reset_hint"):
            message["next_node_idx"] = min(message["next_node_idx"], self._seam.commit_index + 1)
        return message

    def _gated(self, peer: str, message: Message) -> None:
        """Hold what claims more than is durable (rules 3 and 4); everything else leaves now (rule 9)."""
        if peer not in self.linked:
            return
        journal, kind, gate = self._seam.journal, message["type"], 0
        if kind == "request_vote":
            gate = journal.ticket if self.on("vote_request_gate") else 0
        elif kind == "response_vote":
            gate = journal.ticket if self.on("vote_grant_gate") else 0
        elif kind == "next_node_idx" and message["success"] and message["next_node_idx"] - 1 > journal.durable_index:
            if self.on("ack_gate"):
                gate = journal.ticket
                if self.on("ack_copy") and not self._answered_lately(peer):
                    self._leave(peer, dict(message, next_node_idx=journal.durable_index + 1))
        answering = self._answering
        if kind == "next_node_idx" and message["success"] and answering is not None and answering.empty:
            if self._answered_lately(peer):
                return  # it says nothing new, and as a sign of life one per heartbeat is enough
        if gate > journal.done:
            self._held.append((gate, peer, message))
        else:
            self._leave(peer, message)

    def _answered_lately(self, peer: str) -> bool:
        return self._now() - self._answered.get(peer, NEVER) < self._sign_seconds

    def _leave(self, peer: str, message: Message) -> None:
        """Stamp what is read at the last moment (rule 21), and send."""
        kind = message["type"]
        if kind == "append_entries":
            failpoints.reach("append_entries.send.before")
            time = self._clock.now()
            if time is not None:
                age = self.staleness()
                message = dict(message, time=time) | (
                    {} if age == float("inf") else {"fresh": max(0.0, time - 1000 * age)}
                )
        elif kind == "next_node_idx":
            self._answered[peer] = self._now()
            known = self._clock.known()
            message = dict(message, wall=self._clock.wall(), time=None if known is None else list(known))
        elif kind in ("request_vote", "response_vote"):
            failpoints.reach("vote.persist.after")
        taken = self._send(peer, message)
        if kind == "append_entries":
            failpoints.reach("append_entries.send.after")
            if not taken and message.get("entries"):
                self._blocked[peer] = message["entries"][0][1]

    def round_done(self) -> None:
        """The engine has sent its appends: what a full queue refused will be read again (no flow control of its own)."""
        for peer, index in self._blocked.items():
            self._seam.set_next_index(peer, index)
        self._blocked.clear()

    def durable(self) -> None:
        """A ticket became durable: release what waited for it, count what was clamped."""
        self._count_late()
        failpoints.reach("log.durable")
        done = self._seam.journal.done
        held, self._held = self._held, deque()
        for gate, peer, message in held:
            if gate > done:
                self._held.append((gate, peer, message))
            elif peer in self.linked:
                self._leave(peer, message)

    def _count_late(self) -> None:
        seam = self._seam
        if not seam.is_leader or not self.on("late_ack"):
            self._late.clear()
            return
        durable = seam.journal.durable_index
        for peer, (term, index) in list(self._late.items()):
            if term != seam.term or seam.match_index(peer) is None:
                del self._late[peer]
                continue
            seam.raise_match(peer, min(index - 1, durable))
            if index - 1 <= durable:
                del self._late[peer]

    # ---- incoming

    def incoming(self, peer: str, message: Message) -> Message | None:
        """A peer's message. Returns an offer of a snapshot that the replica should fetch, else None."""
        if peer not in self.linked:
            return None
        seam, kind = self._seam, message["type"]
        if kind == "append_entries":
            return self._append(peer, message)
        if kind == "next_node_idx":
            self._acknowledged(peer, message)
        elif kind == "request_vote":
            self.election.vote_requested(peer, message)
        elif kind == "response_vote":
            if self.on("vote_check"):
                vote = (peer, message["term"])
                if peer not in seam.others or vote[1] != seam.term or vote in self._votes:
                    return None
                self._votes.add(vote)
            seam.hand(peer, message)
        elif kind == "timeout_now":
            if message["term"] == seam.term and peer in seam.others and peer == seam.leader:
                self.election.transfer_term = seam.term
                seam.hand(peer, message)
        elif kind == "term":
            if message["term"] > seam.term:  # step down, without any chance to grant a vote
                seam.hand(
                    peer, {"type": "request_vote", "term": message["term"], "last_log_term": -1, "last_log_index": 0}
                )
        elif kind == "pre_vote":
            self.election.asked(peer, message)
        elif kind == "pre_vote_grant":
            self.election.granted(peer, message)
        elif kind == "read_probe":
            self.reads.probed(peer, message)
        elif kind == "read_ack":
            self.reads.acknowledged(peer, message)
        return None

    def _tell_term(self, peer: str) -> None:
        if self.on("tell_term"):
            self._send(peer, {"type": "term", "term": self._seam.term})

    def _append(self, peer: str, message: Message) -> Message | None:
        seam = self._seam
        if message["term"] < seam.term:
            self._tell_term(peer)
            return None
        if message["term"] == seam.term and seam.leader not in (None, peer):
            raise FrameError(f"term {seam.term} has a leader: {seam.leader}", subject=peer)
        self.election.leader_heard = self._now()
        time = message.get("time")
        if time is not None:
            self._clock.heard(message["term"], float(time))
        answering = _Answering(int(message.get("seq", 0)))
        if "offer" in message:
            index, term = message["offer"]
            if not self.on("snapshot_clamp"):
                answering.verified = index
                self._hand_append(peer, message, seam.journal.last, [], message["commit_index"], answering)
                return {"index": index, "term": term}
            self._nothing_new(peer, message, answering, seam.commit_index)
            return {"index": index, "term": term} if index > seam.commit_index else None
        self._entries(peer, message, answering)
        return None

    def _entries(self, peer: str, message: Message, answering: _Answering) -> None:
        """Hand over only what the log does not hold yet (H2), and remember up to where it is proven equal."""
        seam, journal = self._seam, self._seam.journal
        answering.empty = not message["entries"]
        entries: list[Entry] = [(bytes(c), int(i), int(t)) for c, i, t in message["entries"]]
        previous, commit = message.get("prevLogIdx"), message["commit_index"]
        if previous is None:
            return  # the leader has cut its log behind us: an offer follows
        previous_term = message["prevLogTerm"]
        if self.full and entries:
            self._nothing_new(peer, message, answering, seam.commit_index)
            return
        if not self.on("trim"):
            answering.verified = previous + len(entries)
            self._hand_append(peer, message, (b"", previous, previous_term), entries, commit, answering)
            return
        if previous < journal.first_index:  # we have cut behind `previous`: that prefix is committed here
            skip = journal.first_index - previous
            if previous + len(entries) <= journal.first_index:
                self._nothing_new(peer, message, answering, seam.commit_index)
                return
            entries = entries[skip:]
            _, previous, previous_term = journal[0]
        held = journal.get(previous)
        if held is None or held[2] != previous_term:  # the engine answers with a reset, `_answer` mends the hint
            self._hand_append(peer, message, (b"", previous, previous_term), entries, commit, answering)
            return
        known = 0
        while known < len(entries):
            mine = journal.get(entries[known][1])
            if mine is None or mine[2] != entries[known][2]:
                break
            known += 1
        if known == len(entries):
            end = previous + len(entries)
            self._nothing_new(peer, message, answering, end)
            return
        if entries[known][1] <= seam.commit_index:  # no leader of ours: nothing is changed, and its link is closed
            raise FrameError(f"entry {entries[known][1]} is another one than the committed", subject=peer)
        if known:
            _, previous, previous_term = entries[known - 1]
        entries = entries[known:]
        answering.verified = entries[-1][1]
        self._hand_append(
            peer, message, (b"", previous, previous_term), entries, min(commit, answering.verified), answering
        )

    def _nothing_new(self, peer: str, message: Message, answering: _Answering, verified: int) -> None:
        """A heartbeat that touches nothing; reply and commit are clamped to `verified`."""
        answering.verified = verified
        commit = min(message["commit_index"], verified)
        self._hand_append(peer, message, self._seam.journal.last, [], commit, answering)

    def _hand_append(
        self, peer: str, message: Message, previous: Entry, entries: list[Entry], commit: int, answering: _Answering
    ) -> None:
        self._answering = answering
        try:
            self._seam.hand(
                peer,
                {
                    "type": "append_entries",
                    "term": message["term"],
                    "commit_index": commit,
                    "entries": entries,
                    "prevLogIdx": previous[1],
                    "prevLogTerm": previous[2],
                },
            )
        finally:
            self._answering = None

    def _acknowledged(self, peer: str, message: Message) -> None:
        seam = self._seam
        if not seam.is_leader or (message.get("term") != seam.term and self.on("ack_term")):
            return
        self._note_answered(peer, int(message.get("seq", 0)))
        wall = message.get("wall")
        if wall is not None:
            known = message.get("time")
            self._clock.answered(
                peer, seam.term, float(wall), None if known is None else Known(float(known[0]), int(known[1]))
            )
        index, durable = message["next_node_idx"], seam.journal.durable_index
        last = seam.journal.last[1]
        if index - 1 > last:
            return  # nobody can hold entries of this term that its leader has not written
        if message["success"] and index - 1 > durable and self.on("self_clamp"):
            term, seen = self._late.get(peer, (seam.term, 0))
            self._late[peer] = (seam.term, max(index, seen if term == seam.term else 0))
            message = dict(message, next_node_idx=durable + 1)
        if message["reset"] and self.on("barrier"):
            if message.get("seq", 0) <= self._barrier.get(peer, 0):
                if not message["success"]:
                    message = dict(message, reset=False)  # still a sign of life
            else:
                self._barrier[peer] = self._sequence.get(peer, 0)
        before = seam.next_index(peer)
        if before is None:
            return
        seam.hand(peer, message)
        after = seam.next_index(peer)
        if not message["reset"] and after is not None and after < before:
            seam.set_next_index(peer, before)  # H2: a late acknowledgement does not move nextIndex back

    # ---- since when this leader may be none any more

    def _note_sent(self, peer: str, sequence: int) -> None:
        if self._confirmed_term != self._seam.term:
            self._confirmed_term = self._seam.term
            self._sent, self._confirmed = {}, {}
        self._sent.setdefault(peer, deque(maxlen=64)).append((sequence, self._now()))

    def _note_answered(self, peer: str, sequence: int) -> None:
        """Whoever answers an append of this term was in no later one when it came, which was after it was sent."""
        sent = self._sent.get(peer)
        while self._confirmed_term == self._seam.term and sent and sent[0][0] <= sequence:
            self._confirmed[peer] = sent.popleft()[1]

    def staleness(self) -> float:
        """How old what this leader has committed may be, in seconds: since a quorum last knew no other leader. Infinite
        when it does not lead, or does not know yet what its predecessors have committed."""
        seam = self._seam
        committed = seam.journal.get(seam.commit_index)
        if not seam.is_leader or committed is None or committed[2] != seam.term:
            return float("inf")
        now = self._now()
        confirmed = self._confirmed if self._confirmed_term == seam.term else {}
        times = sorted([now, *(confirmed.get(p, NEVER) for p in seam.others)], reverse=True)
        return now - times[len(times) // 2]

    def resign(self) -> None:
        """At a leader that cannot write: ask whoever has most to campaign at once, whether or not it has all."""
        seam = self._seam
        have = [
            (max(seam.match_index(p) or 0, self._late.get(p, (0, 1))[1] - 1), p)
            for p in seam.others
            if p in self.linked
        ]
        if have:
            self._send(max(have)[1], {"type": "timeout_now", "term": seam.term})
