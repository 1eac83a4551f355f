"""What clients have earned at this node alone, while triplets are not shared: see `clients`, and `alone` for the rest.

Kept in the node's own store, under the key of the client's network: a `Client`, which begins with what the cluster knew of it. Instead
of its place it says when the node began to keep it: what was forgotten later is of no use any more, however often it was seen since by
a node that was cut off. When triplets are shared again it goes to the cluster behind them, and is removed here.

Thread: `alone`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from struct import error as cut_short
from typing import Final, Protocol

from raftcluster.greylist.clients import CLIENTS_MAX, Client, inspect_client

log = logging.getLogger("raftcluster.greylist")

PREFIX: Final = b"greylist-clients/"


class Rows(Protocol):
    """The node's own store: `storage.local.LocalStore`."""

    @property
    def begun(self) -> bool: ...

    def get(self, key: bytes) -> bytes | None: ...

    def keys(self, prefix: bytes) -> list[bytes]: ...

    def write(self, rows: Mapping[bytes, bytes | None]) -> None: ...


class Earned:
    """See the head of the file. Every method may raise what its rows raise."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._keys: dict[bytes, None] | None = None if rows.begun else {}
        """Of what is kept; None: not looked yet."""
        self._walk: list[bytes] = []

    @property
    def kept(self) -> bool:
        """Whether something is, or may be, kept."""
        return self._keys is None or bool(self._keys)

    def of(self, keys: Iterable[bytes]) -> dict[bytes, Client]:
        """What is kept of these clients."""
        known = self._known()
        rows = {key: row for key in keys if key in known and (row := self._rows.get(PREFIX + key)) is not None}
        return {key: client for key, row in rows.items() if (client := _sound(key, row)) is not None}

    def room(self, key: bytes) -> bool:
        """Whether this client may be kept."""
        return key in self._known() or len(self._known()) < CLIENTS_MAX

    def packed(self, clients: Mapping[bytes, Client]) -> dict[bytes, bytes]:
        """The rows to be written for these."""
        return {PREFIX + key: client.pack() for key, client in clients.items()}

    def written(self, keys: Iterable[bytes]) -> None:
        """Their rows were."""
        self._known().update(dict.fromkeys(keys))

    def batch(self, most: int) -> dict[bytes, bytes]:
        """Up to so many rows by key."""
        return self._whole(list(islice(self._known(), most)))

    def remove(self, batch: Mapping[bytes, bytes]) -> None:
        """Forget these, but for those that were written again."""
        same = [key for key, row in batch.items() if self._rows.get(PREFIX + key) == row]
        self._rows.write({PREFIX + key: None for key in same})
        for key in same:
            self._known().pop(key, None)

    def clean(self, now: int, most: int) -> None:
        """Look at up to so many, and remove those that have expired."""
        if not self._walk:
            self._walk = list(self._known())
        keys = self._walk[-most:]
        del self._walk[-most:]
        expired = {key: row for key, row in self._whole(keys).items() if Client.unpack(row).expires <= now}
        if expired:
            self.remove(expired)

    def _whole(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The rows of these. One that is damaged is none, and is removed."""
        rows = {key: row for key in keys if (row := self._rows.get(PREFIX + key)) is not None}
        damaged = {key: row for key, row in rows.items() if _sound(key, row) is None}
        for key in damaged:
            log.error("what this node kept of the client %s is damaged, and dropped", key.hex())
            del rows[key]
        if damaged:
            self.remove(damaged)
        return rows

    def _known(self) -> dict[bytes, None]:
        if self._keys is None:
            self._keys = dict.fromkeys(key[len(PREFIX) :] for key in self._rows.keys(PREFIX))
        return self._keys


def _sound(key: bytes, row: bytes) -> Client | None:
    """What a row says; None when it is damaged."""
    try:
        inspect_client(key, row)
    except (ValueError, cut_short):
        return None
    return Client.unpack(row)
