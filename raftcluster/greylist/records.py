"""The greylist's records for an administrator: `node.greylist.records`.

Reading goes page by page and sees each record as it is at that moment. What changes records is a command of the cluster,
bounded, recorded with who, when, where and why. Thread: every method may be called from any thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, Final

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected, Unavailable
from raftcluster.greylist import exchange
from raftcluster.greylist.acts import Act, read_acts
from raftcluster.greylist.exchange import Format
from raftcluster.greylist.expiry import RECORDS
from raftcluster.greylist.forgetting import read_tombstone
from raftcluster.greylist.lists.rules import normal_pattern
from raftcluster.greylist.machine import NAME, read_settings_row
from raftcluster.greylist.record import HEAD, NODE
from raftcluster.greylist.rules import key_of, network_of, normal_recipient, normal_sender, pack_triplet
from raftcluster.greylist.selection import KINDS, TRIPLET, Selection
from raftcluster.greylist.settings import Settings
from raftcluster.greylist.transfer import exported, loaded
from raftcluster.host import Consistency, Host
from raftcluster.machine import ReadTables
from raftcluster.twins import twin

LOOK_ROWS: Final = 250  # read at once: checks wait so long, about a millisecond
PAGE_BYTES: Final = 1 * limits.MIB  # of packed records in a page
SWEEP_SECONDS: Final = 60.0  # that `forget` waits for its end by default: 1 M records take some seconds


class Records:
    """See the head of the file. `deadline` in seconds."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def show(
        self,
        /,
        *,
        after: str = "",
        limit: int = limits.SCAN_ROWS,
        consistency: Consistency = "local",
        **named: str | None,
    ) -> dict[str, Value]:
        """A page of up to `limit` living records: `records`, and `next`, to be given as `after` for the next page; empty behind
        the last one.

        `named` may be client (an address or network), sender, sender_domain, recipient, recipient_domain: all must hold. The
        order is that of the keys, which are hashes. Raises `Rejected`.
        """
        if not 0 < limit <= limits.SCAN_ROWS:
            raise Rejected(f"a page has 1 to {limits.SCAN_ROWS} records, not {limit}", subject="limit")
        selection = _selection(named) if any(named.values()) else None
        found: list[dict[str, Value]] = []
        while True:
            page = self.page(after=after, limit=limit - len(found), consistency=consistency, selection=selection)
            found += [exchange.shown(key, row) for key, row in page["rows"]]
            after = page["next"]
            if not after or len(found) == limit:
                return {"records": found, "next": after}

    ashow = twin(show)

    def page(
        self,
        *,
        after: str = "",
        limit: int = limits.SCAN_ROWS,
        consistency: Consistency = "local",
        selection: Selection | None = None,
    ) -> dict[str, Value]:
        """Up to `limit` living records as they are kept, `rows` of key and record, and `next`; one look at some rows of the
        table, so there may be none and a `next` all the same."""
        start = _key(after) + b"\0" if after else b""

        def read(tables: ReadTables, now: int) -> dict[str, Value]:
            found: list[list[bytes]] = []
            size, last = 0, ""
            rows = tables.scan(RECORDS, start, limit=LOOK_ROWS)
            for key, row in rows:
                last = key.hex()
                _, _, expires, _, nodes = HEAD.unpack_from(row)
                if now < expires and (
                    selection is None or selection.matches(key, row[HEAD.size + nodes * NODE.size :])
                ):
                    found.append([key, row])
                    size += len(row)
                    if len(found) >= limit or size >= PAGE_BYTES:
                        return {"rows": found, "next": last}
            return {"rows": found, "next": last if len(rows) == LOOK_ROWS else ""}

        return self._host.query(NAME, read, consistency=consistency)

    apage = twin(page)

    def forget(
        self, /, *, author: str = "", reason: str = "", deadline: float = SWEEP_SECONDS, **named: str | None
    ) -> dict[str, Value]:
        """Forget the records that are named as for `show`; with an address as client, sender and recipient that one triplet.

        `forgotten` counts them. A client that is named alone is no longer allowed by itself, either. Copies that a node keeps
        for itself are forgotten when it brings them. Raises `Rejected`; `Unavailable` when it did not begin, or goes on by
        itself behind the deadline; `OutcomeUnknown`.
        """
        end = time.monotonic() + deadline
        selection = self._meant(named)
        command = ["forget", selection.named, author, self._host.name, reason]
        key, done = self._host.propose(NAME, command, deadline=min(deadline, limits.CALL_SECONDS))
        while True:
            stone = self._host.query(NAME, lambda tables, _: read_tombstone(tables, key))
            if done or stone is None or stone.place is None:
                return {"forgotten": 0 if stone is None else stone.forgot, "named": str(selection)}
            if time.monotonic() >= end:
                raise Unavailable(
                    "not all is forgotten yet", subject=str(selection), remedy="it goes on by itself with the mail"
                )
            self._host.propose(NAME, ["sweep"], deadline=limits.CALL_SECONDS)

    aforget = twin(forget)

    def header(self) -> dict[str, Value]:
        """What an export begins with."""

        def read(tables: ReadTables, now: int) -> dict[str, Value]:
            settings = Settings.of(read_settings_row(tables)[1])
            return {"node": self._host.name, "time": now, "network4": settings.network4, "network6": settings.network6}

        return self._host.query(NAME, read)

    aheader = twin(header)

    def export(self, form: Format = "jsonl") -> Iterator[str]:
        """The lines of a file with all living records: see `exchange`."""
        return exported(self.header(), self.page, form)

    def load(self, path: str | os.PathLike[str], *, author: str = "", reason: str = "") -> dict[str, Value]:
        """Import a file that `export` wrote: see `loaded`."""
        return loaded(path, self.header(), self.put, author, reason)

    aload = twin(load)

    def put(self, rows: list[list[Value]], why: list[Value] | None = None) -> list[int]:
        """Join records with those that there are, up to 500 of [key, 0, record]: how many were joined, had expired, were
        forgotten. `why`, with the first ones of a file: [what it is, author, reason]."""
        told = None if why is None else [why[0], why[1], self._host.name, why[2]]
        return self._host.propose(NAME, ["import", rows, told])  # type: ignore[no-any-return]

    aput = twin(put)

    def acts(self, *, after: int = 0, limit: int = limits.SCAN_ROWS) -> list[Act]:
        """Up to `limit` of what was forgotten and imported, behind the number `after`: who, when, from where, why."""
        return self._host.query(NAME, lambda tables, _: read_acts(tables, after, limit))

    aacts = twin(acts)

    def _meant(self, named: dict[str, str | None]) -> Selection:
        client, sender, recipient = (named.get(name) for name in ("client", "sender", "recipient"))
        others = any(
            value is not None for name, value in named.items() if name not in ("client", "sender", "recipient")
        )
        if client is None or sender is None or recipient is None or others or "/" in client:
            return _selection(named)
        settings = Settings.of(self._host.query(NAME, lambda tables, _: read_settings_row(tables)[1]))
        network = network_of(client, settings.network4, settings.network6)
        key = key_of(pack_triplet(network, normal_sender(sender), normal_recipient(recipient)))
        return Selection({TRIPLET: key})


def _selection(named: dict[str, Any]) -> Selection:
    patterns = {name.replace("_", "-"): pattern for name, pattern in named.items() if pattern is not None}
    for kind in patterns:
        if kind not in KINDS:
            raise Rejected(f"records are not named by {kind:.40}", subject=kind, remedy=f"by {', '.join(KINDS)}")
    return Selection({kind: normal_pattern(kind, pattern) for kind, pattern in patterns.items()})


def _key(after: str) -> bytes:
    try:
        return bytes.fromhex(after)
    except ValueError:
        raise Rejected(f"{after!r:.40} is no place in the records", subject="after") from None
