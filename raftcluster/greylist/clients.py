"""Clients that have earned it: networks whose triplets have passed after a wait so often that they wait no more.

Tables
    clients   key of the network (16) -> `Client`
    allowed   sequence (8) -> key of the network: in the order in which they were allowed, for nodes to read on in

A client's row is written when a triplet of it passes for the first time, at most once an hour, and when a mail of it
passes at once. A check finds out about its client only when the node that asks believes that it is allowed (a flag of the
command); so the check of a stranger reads nothing of this. What the node believes is a hint, the row decides.

A row ends one life after it was last written; its key is in the greylist's expiry index like a record's.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import Final, NamedTuple

from raftcluster.greylist.rules import KEY_BYTES
from raftcluster.machine import ReadTables, Tables

CLIENTS: Final = "clients"
ALLOWED: Final = "allowed"
STATE: Final = "state"
COUNTS: Final = b"clients"

HOUR_MS: Final = 3_600_000  # within which one pass of a client counts
PASSES_MAX: Final = 2**16 - 1
ALLOWED_MAX: Final = 100_000  # every node holds their keys in memory, some 10 MB
CLIENTS_MAX: Final = 100_000  # that a node counts by itself, while triplets are not shared

_CLIENT: Final = Struct(">QQQQHQ")
_SEQUENCE: Final = Struct(">Q")
_COUNTS: Final = Struct(">QQQ")
_KEYS_KEPT: Final = 16_384


class Client(NamedTuple):
    """Times in milliseconds of cluster time."""

    last: int
    """When the row was written last."""
    expires: int
    counted: int
    """When a pass was counted last."""
    sequence: int
    """Its place in `allowed`; 0: it is not there. Of what a node keeps alone: since when."""
    passes: int
    """First passes of its triplets that were counted."""
    served: int
    """Mails that passed at once."""
    network: bytes
    """Empty under `privacy`."""

    def pack(self) -> bytes:
        """The bytes of the table row."""
        return _CLIENT.pack(*self[:-1]) + self.network

    @classmethod
    def unpack(cls, row: bytes) -> Client:
        """What `pack` packed."""
        last, expires, counted, sequence, passes, served = _CLIENT.unpack_from(row)
        return cls(last, expires, counted, sequence, passes, served, row[_CLIENT.size :])

    def allowed(self, time: int, needed: int) -> bool:
        """Whether its mail passes at once, where `needed` passes allow it (0: nothing does)."""
        return 0 < needed <= self.passes and self.sequence > 0 and time < self.expires

    def served_at(self, time: int, life: int) -> Client:
        """A mail of it passes at once."""
        return self._replace(last=time, expires=max(self.expires, time + life), served=self.served + 1)


def counted(old: Client | None, network: bytes, time: int, life: int) -> Client | None:
    """A triplet of this client passes for the first time: what is known of it then; None when this pass does not count."""
    if old is None or time >= old.expires:
        return Client(time, time + life, time, 0, 1, 0, network)
    if time - old.counted < HOUR_MS:
        return None
    passes = min(old.passes + 1, PASSES_MAX)
    return old._replace(last=time, expires=max(old.expires, time + life), counted=time, passes=passes, network=network)


def join(one: Client, other: Client) -> Client:
    """Two copies as one: the greatest of each. Commutative, associative, idempotent."""
    return Client(
        max(one.last, other.last),
        max(one.expires, other.expires),
        max(one.counted, other.counted),
        max(one.sequence, other.sequence),
        max(one.passes, other.passes),
        max(one.served, other.served),
        max(one.network, other.network),
    )


@lru_cache(maxsize=_KEYS_KEPT)
def client_key(network: bytes) -> bytes:
    """The key of a network; no triplet has it."""
    return blake2b(network, digest_size=KEY_BYTES, person=b"client").digest()


def count(tables: Tables, key: bytes, network: bytes, time: int, life: int, needed: int) -> int | None:
    """A triplet of this client passes for the first time. The row's end, when it is new and belongs into the index."""
    row = tables.get(CLIENTS, key)
    old = None if row is None else Client.unpack(row)
    client = counted(old, network, time, life)
    if client is None:
        return None
    if old is not None and time >= old.expires:
        _withdraw(tables, old)
    if client.passes >= needed and client.sequence:  # it had to wait: nodes were told otherwise while more were needed
        _withdraw(tables, client)
        client = client._replace(sequence=0)
    _keep(tables, key, client, needed, row is None)
    return client.expires if row is None else None


def _keep(tables: Tables, key: bytes, client: Client, needed: int, new: bool) -> None:
    """Write its row, and give it a place among those who are allowed when it is."""
    sequence, held, allowed = before = _counts(tables)
    if 0 < needed <= client.passes and client.sequence == 0 and allowed < ALLOWED_MAX:
        sequence, allowed = sequence + 1, allowed + 1
        client = client._replace(sequence=sequence)
        tables.put(ALLOWED, _SEQUENCE.pack(sequence), key)
    after = (sequence, held + new, allowed)
    if after != before:
        tables.put(STATE, COUNTS, _COUNTS.pack(*after))
    tables.put(CLIENTS, key, client.pack())


def bring(tables: Tables, key: bytes, client: Client, time: int, life: int, needed: int) -> int | None:
    """Join what a node has counted by itself with what there is. The row's end, when it is new and belongs into the index."""
    row = tables.get(CLIENTS, key)
    old = None if row is None else Client.unpack(row)
    client = client._replace(
        last=min(client.last, time),
        counted=min(client.counted, time),
        expires=min(client.expires, time + life),
        sequence=0,
    )
    if old is not None and time < old.expires:
        client = join(old, client)
        if client.sequence and old.passes < needed <= client.passes:  # as in `count`: nodes have been told otherwise
            _withdraw(tables, client)
            client = client._replace(sequence=0)
    elif old is not None:
        _withdraw(tables, old)
    _keep(tables, key, client, needed, row is None)
    return client.expires if row is None else None


def serve(tables: Tables, key: bytes, time: int, life: int, needed: int) -> bool:
    """Whether a mail of this client passes at once; if so it is counted and the client's life extended."""
    row = tables.get(CLIENTS, key)
    if row is None:
        return False
    client = Client.unpack(row)
    if not client.allowed(time, needed):
        return False
    tables.put(CLIENTS, key, client.served_at(time, life).pack())
    return True


def forget(tables: Tables, key: bytes, row: bytes, time: int) -> None:
    """The client is a stranger from now on. Its row stays, without the network, until the index comes to it."""
    client = Client.unpack(row)
    _withdraw(tables, client)
    tables.put(CLIENTS, key, Client(time, time, time, 0, 0, 0, b"").pack())


def remove(tables: Tables, key: bytes, row: bytes) -> None:
    """The index has come to a client that has expired."""
    client = Client.unpack(row)
    _withdraw(tables, client)
    sequence, held, allowed = _counts(tables)
    tables.put(STATE, COUNTS, _COUNTS.pack(sequence, held - 1, allowed))
    tables.delete(CLIENTS, key)


def read_client(tables: ReadTables, network: bytes) -> Client | None:
    """The client of this network, alive or not."""
    row = tables.get(CLIENTS, client_key(network))
    return None if row is None else Client.unpack(row)


def read_allowed(tables: ReadTables, after: int, limit: int) -> tuple[list[bytes], int]:
    """Up to `limit` keys that were allowed behind the place `after`, and the last one's place."""
    rows = tables.scan(ALLOWED, _SEQUENCE.pack(after + 1), limit=limit)
    return [key for _, key in rows], _SEQUENCE.unpack(rows[-1][0])[0] if rows else after


def read_client_counts(tables: ReadTables) -> tuple[int, int]:
    """How many clients are known, and how many of them are allowed; expired ones that were not looked at yet included."""
    _, held, allowed = _counts(tables)
    return held, allowed


def inspect_client(key: bytes, value: bytes) -> None:
    """See `inspection`."""
    client = Client.unpack(value)
    if len(key) != KEY_BYTES or not client.counted <= client.last <= client.expires:
        raise ValueError("the client's times are out of order")
    if client.network and client_key(client.network) != key:
        raise ValueError("the client is not that of its network")


def inspect_allowed(key: bytes, value: bytes) -> None:
    """See `inspection`."""
    if len(key) != _SEQUENCE.size or len(value) != KEY_BYTES:
        raise ValueError("the row holds no client's key")


def _withdraw(tables: Tables, client: Client) -> None:
    if client.sequence:
        sequence, held, allowed = _counts(tables)
        tables.delete(ALLOWED, _SEQUENCE.pack(client.sequence))
        tables.put(STATE, COUNTS, _COUNTS.pack(sequence, held, allowed - 1))


def _counts(tables: ReadTables) -> tuple[int, int, int]:
    """The last place in `allowed`, clients, allowed ones."""
    row = tables.get(STATE, COUNTS)
    return (0, 0, 0) if row is None else _COUNTS.unpack(row)
