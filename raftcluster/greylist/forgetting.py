"""Forgetting: what it does at once, what it does bit by bit, and what keeps the forgotten from coming back.

    forgotten  kind (1) + hash (16) -> [what was named, before, until, place, forgot]
    state      "forgotten" -> how many rows there are, of triplets and of others; "sweep" -> keys that have a place, in order

A row is a *tombstone*: what was first seen before `before` is forgotten, also in copies that a node kept for itself and
brings later; it is kept `until` one life has passed, for no copy is older (`merging`). One triplet is forgotten at once. What is
named by patterns takes a walk over all records: the row's *place* is where it has come to, None when it is done. Each
entry walks some rows on, so it ends whoever asked for it; whoever waits for it drives it with `sweep` commands.

A forgotten record stays in its row as one that has expired, without addresses and counts, until the expiry index comes to
it: so the index holds every record exactly once, and the triplet may begin anew in the same row.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.greylist import clients
from raftcluster.greylist.clients import CLIENTS, Client
from raftcluster.greylist.expiry import RECORDS, STATE
from raftcluster.greylist.record import FRESH, HEAD, NODE, NODE_BYTES
from raftcluster.greylist.selection import Selection
from raftcluster.machine import ReadTables, Tables

FORGOTTEN: Final = "forgotten"

TRIPLETS_MAX: Final = 10_000  # triplets that are remembered as forgotten: 600 KB
OTHERS_MAX: Final = 200  # the same of what is named by patterns: each is asked about every copy that a node brings
SWEEP_ROWS: Final = 1_000  # that one command walks: some milliseconds
ENTRY_ROWS: Final = 64  # that each entry walks besides

_COUNTS: Final = Struct(">QQ")
_HELD: Final = b"forgotten"
_SWEEP: Final = b"sweep"
_TRIPLET: Final = b"t"
_OTHER: Final = b"s"


class Tombstone(NamedTuple):
    """Times in milliseconds of cluster time."""

    selection: Selection
    before: int
    """What was first seen before it is forgotten."""
    until: int
    place: list[Value] | None
    """[table, key] of the walk's next row; None: it has ended, or there is none."""
    forgot: int
    """How many records were forgotten."""

    def pack(self) -> bytes:
        """The bytes of the table row."""
        return codec.pack([self.selection.named, *self[1:]])

    @classmethod
    def unpack(cls, row: bytes) -> Tombstone:
        """What `pack` packed."""
        named, before, until, place, forgot = codec.unpack(row)
        return cls(Selection(named, kept=True), before, until, place, forgot)


def forget(tables: Tables, selection: Selection, time: int, life: int) -> tuple[bytes, Tombstone]:
    """Forget what is named, or begin to: the tombstone and its key. Raises `Rejected` when too much is remembered."""
    key = tombstone_key(selection)
    if tables.get(FORGOTTEN, key) is None:
        _make_room(tables, key[:1], time)
    if selection.key is not None:
        forgot = _forget_record(tables, selection.key, tables.get(RECORDS, selection.key), time)
        stone = Tombstone(selection, time + 1, time + life, None, forgot)
    else:
        stone = Tombstone(selection, time, time + life, [RECORDS, b""], 0)
        pending = _pending(tables)
        if key not in pending:
            tables.put(STATE, _SWEEP, codec.pack([*pending, key]))
    tables.put(FORGOTTEN, key, stone.pack())
    return key, stone


def sweep(tables: Tables, time: int, budget: int) -> None:
    """Walk up to `budget` rows on for the oldest tombstone whose walk has not ended."""
    row = tables.get(STATE, _SWEEP)
    if row is None:
        return
    pending: list[bytes] = codec.unpack(row)
    key = pending[0]
    found = tables.get(FORGOTTEN, key)
    assert found is not None, "a tombstone that walks is not removed"
    stone = Tombstone.unpack(found)
    assert stone.place is not None
    table, start = stone.place
    rows = tables.scan(table, start, limit=budget)
    forgotten = 0
    for at, value in rows:
        if table == RECORDS:
            first, _, expires, _, nodes = HEAD.unpack_from(value)
            triplet = value[HEAD.size + nodes * NODE.size :]
            if first < stone.before and time < expires and stone.selection.matches(at, triplet):
                forgotten += _forget_record(tables, at, value, time)
        elif stone.selection.matches_network(Client.unpack(value).network):
            clients.forget(tables, at, value, time)
    place: list[Value] | None = [table, rows[-1][0] + b"\0"] if len(rows) == budget else None
    if place is None and table == RECORDS and stone.selection.clients_only:
        place = [CLIENTS, b""]
    tables.put(FORGOTTEN, key, stone._replace(place=place, forgot=stone.forgot + forgotten).pack())
    if place is None:
        if len(pending) > 1:
            tables.put(STATE, _SWEEP, codec.pack(pending[1:]))
        else:
            tables.delete(STATE, _SWEEP)


def tombstone_key(selection: Selection) -> bytes:
    """The key of the row about what is named."""
    if selection.key is not None:
        return _TRIPLET + selection.key
    return _OTHER + blake2b(codec.pack(selection.named), digest_size=16).digest()


def read_tombstone(tables: ReadTables, key: bytes) -> Tombstone | None:
    """The row with this key, also when its time is over."""
    row = tables.get(FORGOTTEN, key)
    return None if row is None else Tombstone.unpack(row)


class Forgotten:
    """The tombstones that hold at one moment, to be asked about many records."""

    def __init__(self, tables: ReadTables, time: int) -> None:
        self._tables, self._time = tables, time
        stones = [Tombstone.unpack(row) for _, row in tables.scan(FORGOTTEN, _OTHER, _TRIPLET, limit=OTHERS_MAX)]
        self._others = [stone for stone in stones if time < stone.until]

    def covers(self, key: bytes, first: int, triplet: bytes) -> bool:
        """Whether a record that was first seen then is forgotten. What holds no addresses, and so cannot be told from what is
        meant, is."""
        stone = read_tombstone(self._tables, _TRIPLET + key)
        if stone is not None and time_holds(stone, self._time) and first < stone.before:
            return True
        return any(
            first < other.before and (not triplet or other.selection.matches(key, triplet)) for other in self._others
        )

    def covers_client(self, since: int, network: bytes) -> bool:
        """Whether a client that a node keeps alone since then is forgotten. Without its network, under `privacy`, nobody can tell."""
        named = [stone for stone in self._others if stone.selection.clients_only and since < stone.before]
        return any(not network or stone.selection.matches_network(network) for stone in named)


def time_holds(stone: Tombstone, time: int) -> bool:
    """Whether the tombstone is still one."""
    return time < stone.until


def inspect_forgotten(key: bytes, value: bytes) -> None:
    """See `inspection`."""
    stone = Tombstone.unpack(value)
    if tombstone_key(stone.selection) != key:
        raise ValueError("the tombstone is not that of what it names")
    if stone.place is not None and stone.place[0] not in (RECORDS, CLIENTS):
        raise ValueError("the walk is nowhere")


def _forget_record(tables: Tables, key: bytes, row: bytes | None, time: int) -> int:
    """Make a living record one that has expired; how many it were."""
    if row is None or HEAD.unpack_from(row)[2] <= time:
        return 0
    tables.put(RECORDS, key, FRESH.pack(time, time, time, False, 1, bytes(NODE_BYTES), 0, 0))
    return 1


def _make_room(tables: Tables, kind: bytes, time: int) -> None:
    """Count one more tombstone of this kind; those whose time is over go when there are too many."""
    held = list(_COUNTS.unpack(tables.get(STATE, _HELD) or bytes(_COUNTS.size)))
    at, most = (0, TRIPLETS_MAX) if kind == _TRIPLET else (1, OTHERS_MAX)
    if held[at] >= most:
        for key, row in tables.scan(FORGOTTEN, kind, bytes([kind[0] + 1]), limit=most):
            stone = Tombstone.unpack(row)
            if not time_holds(stone, time) and stone.place is None:
                tables.delete(FORGOTTEN, key)
                held[at] -= 1
    if held[at] >= most:
        raise Rejected(
            f"{most} forgotten {'triplets' if at == 0 else 'patterns'} are remembered already",
            subject="forgotten",
            remedy="name more by one pattern" if at == 0 else "wait until the oldest has been remembered for one life",
        )
    held[at] += 1
    tables.put(STATE, _HELD, _COUNTS.pack(*held))


def _pending(tables: ReadTables) -> list[bytes]:
    row = tables.get(STATE, _SWEEP)
    return [] if row is None else codec.unpack(row)
