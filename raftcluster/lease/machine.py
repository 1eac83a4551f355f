"""Leases: each name has one holder at a time, in cluster time.

Tables
    leases    name -> [token, node id, node name, since, expires, kept until, released]
    expiries  end (8, big endian) + name -> "": when the row of `leases` is of no use any more
    state     "token" -> the last fencing token; "count" -> rows of `leases`

Commands
    ["acquire", name, node id, node name, term ms, at least ms] -> [token, expires]; `LeaseHeld`
    ["renew", name, token, term ms]                             -> expires; `LeaseLost`
    ["release", name, token]                                    -> whether it was held

A token is greater than all that were given before it, of any name, so it stays one when rows are gone. A lease is held while time < expires; released early it is kept from others until `kept until`.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.lease.rules import LeaseHeld, LeaseLost, check_holder, check_name, check_times
from raftcluster.machine import ReadTables, Tables

NAME: Final = "lease"
LEASES: Final = "leases"
EXPIRIES: Final = "expiries"
STATE: Final = "state"
SWEEP: Final = 100  # rows that one tick removes

_TOKEN: Final = b"token"
_COUNT: Final = b"count"
_NUMBER: Final = Struct(">Q")


class Tenure(NamedTuple):
    """Who holds, or held, a lease. Times are cluster time in milliseconds."""

    name: str
    token: int
    """The fencing token: greater than that of every earlier holder."""
    node_id: str
    node: str
    since: int
    expires: int
    kept_until: int
    """Nobody else gets it before, even if it was released."""
    released: bool

    @property
    def ends(self) -> int:
        """From when on somebody else may have it."""
        return self.kept_until if self.released else max(self.expires, self.kept_until)


class LeaseMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 1
    tables = (LEASES, EXPIRIES, STATE)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        match command:
            case ["acquire", name, node_id, node, term, at_least]:
                check_name(name)
                check_holder(node_id, node)
                check_times(term, at_least)
                return _acquire(tables, time, name, node_id, node, term, at_least)
            case ["renew", name, token, term]:
                check_name(name)
                check_times(term, 0)
                return _renew(tables, time, name, token, term)
            case ["release", name, token]:
                check_name(name)
                return _release(tables, time, name, token)
            case _:
                raise Rejected("malformed or unknown lease command", subject=NAME)

    def tick(self, tables: Tables, time: int) -> None:
        """Forget what has ended."""
        due = tables.scan(EXPIRIES, stop=_NUMBER.pack(time + 1), limit=SWEEP)
        for key, _ in due:
            tables.delete(EXPIRIES, key)
            tables.delete(LEASES, key[_NUMBER.size :])
        if due:
            _set(tables, _COUNT, _get(tables, _COUNT) - len(due))

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """See `raftcluster.machine.Inspectable`."""
        if table == LEASES:
            check_name(key.decode())
            found = Tenure(key.decode(), *codec.unpack(value))
            check_holder(found.node_id, found.node)
            numbers = (found.token, found.since, found.expires, found.kept_until)
            if not all(type(each) is int for each in numbers) or type(found.released) is not bool:
                raise ValueError("the lease's fields are of other kinds")
        elif table == EXPIRIES:
            check_name(key[_NUMBER.size :].decode())
            if value:
                raise ValueError("the row has a value")
        elif key not in (_TOKEN, _COUNT) or len(value) != _NUMBER.size:
            raise ValueError("there is no such number")


def read_lease(tables: ReadTables, name: str) -> Tenure | None:
    """The last holder of `name` that is remembered."""
    row = tables.get(LEASES, name.encode())
    return None if row is None else Tenure(name, *codec.unpack(row))


def read_leases(tables: ReadTables, after: str, limit: int) -> list[Tenure]:
    """Up to `limit` leases with names after `after`, in order; some may have ended."""
    rows = tables.scan(LEASES, after.encode() + b"\0" if after else b"", limit=limit)
    return [Tenure(name.decode(), *codec.unpack(row)) for name, row in rows]


def _acquire(tables: Tables, time: int, name: str, node_id: str, node: str, term: int, at_least: int) -> list[int]:
    held = read_lease(tables, name)
    if held is not None and time < held.ends:
        raise LeaseHeld(
            f"{name} is {'kept from others' if held.released else 'held'} by {held.node} "
            f"for {(held.ends - time + 999) // 1000} s yet",
            subject=name,
            remedy="wait, or leave the work to the holder",
        )
    if held is None and _get(tables, _COUNT) >= limits.LEASES:
        raise Rejected(f"there are {limits.LEASES} leases already", subject=name, remedy="release some")
    token = _get(tables, _TOKEN) + 1
    _set(tables, _TOKEN, token)
    if held is None:
        _set(tables, _COUNT, _get(tables, _COUNT) + 1)
    _put(tables, held, Tenure(name, token, node_id, node, time, time + term, time + at_least, False))
    return [token, time + term]


def _renew(tables: Tables, time: int, name: str, token: Value, term: int) -> int:
    held = _owned(tables, time, name, token)
    if held is None:
        raise LeaseLost(f"{name} is not held under token {token!a:.40}", subject=name, remedy="acquire it anew")
    renewed = held._replace(expires=max(held.expires, time + term))
    _put(tables, held, renewed)
    return renewed.expires


def _release(tables: Tables, time: int, name: str, token: Value) -> bool:
    held = _owned(tables, time, name, token)
    if held is None:
        return False
    _put(tables, held, held._replace(released=True))
    return True


def _owned(tables: Tables, time: int, name: str, token: Value) -> Tenure | None:
    held = read_lease(tables, name)
    if held is None or held.released or time >= held.expires or type(token) is not int or held.token != token:
        return None
    return held


def _put(tables: Tables, old: Tenure | None, new: Tenure) -> None:
    name = new.name.encode()
    if old is not None:
        tables.delete(EXPIRIES, _NUMBER.pack(old.ends) + name)
    tables.put(EXPIRIES, _NUMBER.pack(new.ends) + name, b"")
    tables.put(LEASES, name, codec.pack(list(new[1:])))


def _get(tables: ReadTables, key: bytes) -> int:
    row = tables.get(STATE, key)
    return 0 if row is None else int(_NUMBER.unpack(row)[0])


def _set(tables: Tables, key: bytes, number: int) -> None:
    tables.put(STATE, key, _NUMBER.pack(number))
