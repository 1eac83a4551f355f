"""The greylist's part of the node's API from another process: see `control.client`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.greylist.exchange import Format
from raftcluster.greylist.transfer import exported, loaded

if TYPE_CHECKING:
    from raftcluster.control.client import Client


class Greylist:
    """The twin of `Node.greylist`, as far as an administrator needs it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.lists = Lists(client)
        self.records = Records(client)

    def explain(self, client: str, sender: str, recipient: str, *, client_name: str | None = None) -> dict[str, Value]:
        """What would be answered for this triplet now, and why."""
        mail: dict[str, Value] = {"client": client, "sender": sender, "recipient": recipient}
        return self._client.call("greylist.explain", **mail, client_name=client_name)  # type: ignore[no-any-return]

    def stats(self) -> dict[str, Value]:
        """Records, decisions per node, and this node's degraded answers."""
        return self._client.call("greylist.stats")  # type: ignore[no-any-return]

    def settings(self) -> dict[str, Value]:
        """The settings of the cluster."""
        return self._client.call("greylist.settings")  # type: ignore[no-any-return]

    def configure(self, changes: Mapping[str, Value], *, reason: str = "", author: str = "") -> int:
        """Change settings in the whole cluster, together or not at all; the new revision."""
        return self._client.call("greylist.configure", changes=dict(changes), reason=reason, author=author)  # type: ignore[no-any-return]


class Lists:
    """The twin of `Node.greylist.lists`. Effects are allow, greylist, opt-in, opt-out; kinds client, client-name, sender,
    sender-domain, recipient, recipient-domain."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def add(
        self,
        effect: str,
        kind: str,
        pattern: str,
        *,
        comment: str = "",
        author: str = "",
        reason: str = "",
        lifetime: float | None = None,
        replace: bool = False,
    ) -> int:
        """Add an entry that lives for `lifetime` seconds, or for ever; the lists' new revision."""
        entry: dict[str, Value] = {"effect": effect, "kind": kind, "pattern": pattern, "comment": comment}
        return self._client.call(  # type: ignore[no-any-return]
            "greylist.lists.add", **entry, author=author, reason=reason, lifetime=lifetime, replace=replace
        )

    def add_all(
        self, entries: Sequence[Mapping[str, Value]], *, author: str = "", reason: str = "", replace: bool = False
    ) -> int:
        """Add up to 500 entries, all or none; the lists' new revision."""
        wanted = [dict(entry) for entry in entries]
        return self._client.call(  # type: ignore[no-any-return]
            "greylist.lists.add_all", entries=wanted, author=author, reason=reason, replace=replace
        )

    def remove(self, effect: str, kind: str, pattern: str, *, author: str = "", reason: str = "") -> int:
        """Remove an entry; the lists' new revision."""
        entry: dict[str, Value] = {"effect": effect, "kind": kind, "pattern": pattern}
        return self._client.call("greylist.lists.remove", **entry, author=author, reason=reason)  # type: ignore[no-any-return]

    def show(self, after: str = "", limit: int = limits.SCAN_ROWS) -> dict[str, Value]:
        """A page of `entries`, and where the `next` one begins."""
        return self._client.call("greylist.lists.show", after=after, limit=limit)  # type: ignore[no-any-return]

    def test(
        self, client: str, sender: str, recipient: str, *, client_name: str | None = None, opted_in_only: bool = False
    ) -> dict[str, Value]:
        """Which entry decides about such a mail, and why each other does not."""
        mail: dict[str, Value] = {"client": client, "sender": sender, "recipient": recipient}
        return self._client.call(  # type: ignore[no-any-return]
            "greylist.lists.test", **mail, client_name=client_name, opted_in_only=opted_in_only
        )


class Records:
    """The twin of `Node.greylist.records`. Files are read and written by **this** process."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def show(self, *, after: str = "", limit: int = limits.SCAN_ROWS, **named: str | None) -> dict[str, Value]:
        """A page of living `records`, and where the `next` one begins; `named` by client, sender, sender_domain, recipient,
        recipient_domain."""
        return self._client.call("greylist.records.show", after=after, limit=limit, **named)  # type: ignore[no-any-return]

    def forget(self, *, author: str = "", reason: str = "", **named: str | None) -> dict[str, Value]:
        """Forget the records that are named as for `show`; how many they were."""
        return self._client.call("greylist.records.forget", author=author, reason=reason, **named)  # type: ignore[no-any-return]

    def export(self, form: Format = "jsonl") -> Iterator[str]:
        """The lines of a file with all living records."""

        def page(after: str) -> dict[str, Value]:
            return self._client.call("greylist.records.page", after=after)  # type: ignore[no-any-return]

        return exported(self._client.call("greylist.records.header"), page, form)

    def load(self, path: str | os.PathLike[str], *, author: str = "", reason: str = "") -> dict[str, Value]:
        """Import a file that `export` wrote, once all of it is found to be good."""

        def put(rows: list[list[Value]], why: list[Value] | None) -> list[int]:
            return self._client.call("greylist.records.put", rows=rows, why=why)  # type: ignore[no-any-return]

        return loaded(path, self._client.call("greylist.records.header"), put, author, reason)
