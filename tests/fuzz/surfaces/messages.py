"""Messages of members to a node that follows, leads or is alone: forged terms, indexes, votes, snapshots, and nonsense."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.codec import pack, unpack
from raftcluster.engine import membership, operations, wire
from raftcluster.engine.guards import Message
from raftcluster.engine.operations import Operation
from raftcluster.engine.recovery import Anchor
from tests.fuzz.source import EDGES, Source
from tests.fuzz.surfaces.log import command
from tests.fuzz.victim import ME, PEERS, Victim

KINDS = sorted(wire._REQUIRED)
ACTIONS = 30


def seeds() -> Iterable[bytes]:
    for role in range(4):
        for salt in range(4):
            yield bytes([role]) + bytes((salt * 31 + n * (salt + 3) + role) % 256 for n in range(120))
    for kind in range(len(KINDS)):
        yield bytes([kind % 4]) + bytes([0, 0, kind, 4, 2, 5, 2]) * 8


def run(data: bytes) -> None:
    """Only `FrameError` for what is nonsense; afterwards the node's promises hold, and it goes on."""
    source = Source(data)
    victim = Victim()
    _role(victim, source.below(4))
    for _ in range(ACTIONS):
        if not source.more:
            break
        _act(victim, source)
        victim.check()
    victim.turn(3.0)
    victim.check()


def _role(victim: Victim, role: int) -> None:
    """0: just started; 1: follows a; 2: leads; 3: follows a, with a log that was cut."""
    if role in (1, 3):
        entries = [[operations.NO_OP, index, 1] for index in range(2, 2 + 8)]
        victim.deliver("a", _append(1, 1, 0, entries, 9))
        victim.turn(0.1)
        if role == 3:
            victim.replica.checkpoint_now()
            victim.settle()
    elif role == 2:
        victim.lead()
    victim.check()


def _append(term: int, previous: int, previous_term: int, entries: list[Any], commit: int) -> Message:
    fields = {"term": term, "commit_index": commit, "seq": 1, "entries": entries}
    return {"type": "append_entries", "prevLogIdx": previous, "prevLogTerm": previous_term, **fields}


def _act(victim: Victim, source: Source) -> None:
    action = source.below(16)
    peer = source.choice(PEERS)
    replica = victim.replica
    if action < 10:
        victim.deliver(peer, _message(victim, source))
    elif action == 10:
        victim.turn(source.choice((0.0, 0.06, 0.5, 2.0)))
    elif action == 11:
        victim.link(peer)
    elif action == 12:
        victim.unlink(peer)
    elif action == 13:
        _bring(victim, source)
    elif action == 14:
        ident = source.byte().to_bytes(16, "big")
        replica.submit(
            Operation("config", ident, 0, [["set", "k", source.value(2), "", "", "b", None]]), lambda *_: None
        )
        replica.queries.ask(lambda: None, lambda error: None, within=source.choice((None, 1.0)))
    else:
        what = source.below(4)
        if what == 0:
            replica.checkpoint_now()
        elif what == 1:
            replica.leadership.transfer(source.choice((None, "a", "d")))
        elif what == 2:
            replica.change_voters(
                membership.Change(source.choice(("add", "rem")), source.choice(("a", "b", "d"))), lambda done: None
            )
        elif replica.engine.is_leader:
            victim.acknowledge()
        victim.settle()


def _bring(victim: Victim, source: Source) -> None:
    """The snapshot that was asked for: none, or one that its sender may have forged."""
    if victim.fetching is None:
        return
    victim.fetching = None
    replica = victim.replica
    if source.flag(4):
        replica.snapshot_done(False)
    else:
        index = max(2, replica.engine.commit_index + 1 + source.below(9))
        term = source.choice((replica.engine.term, 0, 1, 2**40))
        voters = source.choice((("a", "b", "c"), (), ("a", "a"), ("x" * 300, "")))
        stamp = source.choice((0, 10**12, 2**47))
        anchor = Anchor(index, term, command(source), source.below(3), voters, stamp).encode()
        rows = [(bytes([row]), source.take(4)) for row in range(source.below(3))]
        tables = [(source.choice(("config.values", "greylist.records", "other.rows")), rows)] if rows else []
        replica.store.install(index, anchor, tables, replica.snapshot_done)
    victim.settle()


def _message(victim: Victim, source: Source) -> Any:
    """A message of a known type whose fields are near the truth, at an edge, or nonsense."""
    if source.flag(32):
        return _wired(source.value())
    kind = source.choice(KINDS)
    near = _near(victim)
    fields = dict.fromkeys((*wire._REQUIRED[kind], *(f for f in wire._OPTIONAL.get(kind, {}) if source.flag())))
    message: Message = {"type": kind} | {field: _field(victim, field, near, source) for field in fields}
    if kind == "append_entries" and "offer" not in message:
        previous = message.get("prevLogIdx")
        held = victim.replica.journal.get(previous) if type(previous) is int else None
        if source.flag(8) or held is None:
            message.setdefault("entries", [])
        else:
            message["prevLogTerm"] = held[2] if source.byte() < 200 else source.choice(near)
            count, term = source.below(4), message["term"]
            message["entries"] = [[command(source), held[1] + 1 + n, term] for n in range(count)]
    if source.flag(32):
        message[source.choice(("type", "term", "else"))] = source.value(2)
    return _wired(message)


def _near(victim: Victim) -> list[int]:
    engine, journal = victim.replica.engine, victim.replica.journal
    centres = (engine.term, journal.last[1], engine.commit_index, journal.first_index)
    return [*sorted({max(0, centre + by) for centre in centres for by in (-1, 0, 1)}), engine.term, engine.term + 1]


def _field(victim: Victim, field: str, near: list[int], source: Source) -> Any:
    if source.flag(24):
        return source.value(2)
    if field == "entries":
        return [[command(source), source.choice(near), source.choice(near)] for _ in range(source.below(3))]
    if field == "operations":
        operation = ["config", source.byte().to_bytes(16, "big"), 0, [source.value(2)]]
        return [pack(_wired(operation)), source.take(4)][: source.below(3)]
    if field in ("reset", "success", "transfer"):
        return source.flag()
    if field == "offer":
        return [source.choice(near) + source.below(30), source.choice(near)]
    if field in ("time", "fresh", "wall"):
        if field == "time" and source.flag():
            return [source.choice((0.0, 1e12, 2.0**47)), source.choice((-1, 0, 1, victim.replica.engine.term))]
        return source.choice((0.0, 1e12, victim.now * 1000, 2.0**47))
    if field == "target":
        return source.choice((None, ME, *PEERS))
    if field == "number":
        return victim.replica.queries._number if source.flag() else source.choice(near)
    return source.choice(near) if source.byte() < 220 else source.choice(EDGES)


def _wired(value: Any) -> Any:
    """As it arrives: what msgpack cannot say is on no wire."""
    try:
        return unpack(pack(value))
    except (OverflowError, ValueError):
        return {}
