"""What a node keeps of a triplet alone, and what it needs to know of the cluster's tables to decide by that: see `alone`."""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

from raftcluster.codec import Value
from raftcluster.greylist.clients import Client, client_key, read_client
from raftcluster.greylist.clients import join as join_clients
from raftcluster.greylist.forgetting import Forgotten
from raftcluster.greylist.machine import read_record, read_settings_row
from raftcluster.greylist.record import Record, join
from raftcluster.greylist.request import Request
from raftcluster.machine import ReadTables

_BEGAN: Final = Struct(">Q")


class Kept(NamedTuple):
    """One record that this node keeps alone; `began` in milliseconds of cluster time."""

    began: int
    record: Record

    def pack(self) -> bytes:
        """The bytes of the row."""
        return _BEGAN.pack(self.began) + self.record.pack()

    @classmethod
    def unpack(cls, row: bytes) -> Kept:
        """What `pack` packed."""
        return cls(_BEGAN.unpack_from(row)[0], Record.unpack(row[_BEGAN.size :]))

    def joined(self, key: bytes, applied: Record | None, forgotten: Forgotten, now: int) -> tuple[int, Record | None]:
        """Since when it is kept, and what is known with what the node has applied of the cluster's; nothing but that, from now on,
        if this has expired or was forgotten."""
        living = applied if applied is not None and now < applied.expires else None
        if now >= self.record.expires or forgotten.covers(key, self.record.first, self.record.triplet):
            return now, living
        return self.began, self.record if living is None else join(living, self.record)


class Overtaken(NamedTuple):
    """Instead of an answer: the check was made under older settings than those in force, which are these."""

    revision: int
    values: dict[str, Value]
    """What differs from the defaults."""


class Seen(NamedTuple):
    """What some checks need of what the node has applied, all of one moment."""

    settings: Overtaken
    records: dict[bytes, tuple[int, Record | None]]
    """Per triplet: see `Kept.joined`."""
    clients: dict[bytes, tuple[int, Client]]
    """Living ones, by key, and since when this node keeps them: those that were asked about with a hint, and, while triplets are
    not shared, all."""
    now: int


def see(
    requests: list[Request], kept: Mapping[bytes, Kept], earned: Mapping[bytes, Client], tables: ReadTables, now: int
) -> Seen:
    """For a query of the host. `kept` and `earned` are what this node keeps of these."""
    records, clients = dict[bytes, tuple[int, Record | None]](), dict[bytes, tuple[int, Client]]()
    forgotten = Forgotten(tables, now)
    for request in requests:
        key = request.key
        if request.hinted or request.current.counts:
            named = client_key(request.network)
            since, client = living_client(tables, request.network, earned.get(named), forgotten, now)
            if client is not None:
                clients[named] = since, client
        if key not in records:
            applied, alone = read_record(tables, key), kept.get(key)
            if alone is not None:
                records[key] = alone.joined(key, applied, forgotten, now)
            else:
                records[key] = now, applied if applied is not None and now < applied.expires else None
    return Seen(Overtaken(*read_settings_row(tables)), records, clients, now)


def living_client(
    tables: ReadTables, network: bytes, own: Client | None, forgotten: Forgotten, now: int
) -> tuple[int, Client | None]:
    """Since when this node keeps the client of this network, and what is known of it: by the cluster, joined with what this node has
    counted itself; if this has expired or was forgotten, it begins with what the cluster knew when it wrote it last."""
    client = read_client(tables, network)
    if client is not None and now >= client.expires:
        client = None
    if own is None or now >= own.expires or forgotten.covers_client(own.sequence, own.network):
        return (now if client is None else client.last), client
    since = max(1, own.sequence)  # earlier versions wrote 0 there
    return since, own if client is None else join_clients(client, own)
