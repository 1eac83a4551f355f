"""The twins of `Node.members`, `tokens`, `certs` and `teardown` for a process that is not the node's: see `client`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raftcluster.codec import Value


class Caller(Protocol):
    """What makes the calls: a `client.Client`."""

    def call(self, method: str, **arguments: Value) -> Value:
        """One call of the node's method of that name."""


class Members:
    """The twin of `Node.members`. Nodes are named by name or id."""

    def __init__(self, client: Caller) -> None:
        self._client = client

    def facts(self) -> dict[str, Value]:
        """What makes this cluster this cluster: id, name, product, trust realm."""
        return self._client.call("members.facts")  # type: ignore[no-any-return]

    def features(self) -> Sequence[dict[str, Value]]:
        """What the members' programs understand: `name`, whether it is `enabled`, and for whom it waits (`missing`)."""
        return self._client.call("members.features")  # type: ignore[no-any-return]

    def list(self, *, removed: bool = False) -> Sequence[dict[str, Value]]:
        """The members by name; with `removed` also those that were."""
        return self._client.call("members.list", removed=removed)  # type: ignore[no-any-return]

    def invite(
        self,
        name: str,
        ttl_s: float = 3600.0,
        addresses: Sequence[str] = (),
        *,
        reason: str = "",
        author: str = "",
    ) -> dict[str, Value]:
        """`token`, which is secret, with which the host `name` may join once, within `ttl_s` seconds, at `host`, `port`.
        The members' firewalls let in `addresses` meanwhile, by default those that the name leads to."""
        return self._client.call(  # type: ignore[no-any-return]
            "members.invite", name=name, ttl_s=ttl_s, addresses=[*addresses], reason=reason, author=author
        )

    def remove(self, name: str, *, reason: str = "", author: str = "") -> dict[str, Value]:
        """Take a member out, up or down, and return when that is done; what it was."""
        return self._client.call("members.remove", name=name, reason=reason, author=author)  # type: ignore[no-any-return]

    def replace(
        self,
        old: str,
        new: str,
        ttl_s: float = 3600.0,
        addresses: Sequence[str] = (),
        *,
        reason: str = "",
        author: str = "",
    ) -> dict[str, Value]:
        """Take `old` out and invite `new` in its place: as `remove`, then as `invite`."""
        return self._client.call(  # type: ignore[no-any-return]
            "members.replace", old=old, new=new, ttl_s=ttl_s, addresses=[*addresses], reason=reason, author=author
        )

    def move(self, name: str, host: str, port: int, *, reason: str = "", author: str = "") -> None:
        """Tell all members that `name` is at another address now."""
        self._client.call("members.move", name=name, host=host, port=port, reason=reason, author=author)


class Tokens:
    """The twin of `Node.tokens`."""

    def __init__(self, client: Caller) -> None:
        self._client = client

    def list(self) -> Sequence[dict[str, Value]]:
        """The invitations that are remembered: open, used, revoked. No secrets."""
        return self._client.call("tokens.list")  # type: ignore[no-any-return]

    def revoke(self, token_id: str, *, reason: str = "", author: str = "") -> None:
        """Make a token worthless."""
        self._client.call("tokens.revoke", token_id=token_id, reason=reason, author=author)


class Certs:
    """The twin of `Node.certs`."""

    def __init__(self, client: Caller) -> None:
        self._client = client

    def show(self) -> dict[str, Value]:
        """The certificate hierarchy in force, and what is on its way."""
        return self._client.call("certs.show")  # type: ignore[no-any-return]

    def rotate(self, *, exclude: Sequence[str] = (), reason: str = "", author: str = "") -> int:
        """Begin a new hierarchy, without these members; its number. Returns at once."""
        return self._client.call("certs.rotate", exclude=[*exclude], reason=reason, author=author)  # type: ignore[no-any-return]

    def abort(self, *, reason: str = "", author: str = "") -> int:
        """Give up the one under way, as long as it is not minted; its number."""
        return self._client.call("certs.abort", reason=reason, author=author)  # type: ignore[no-any-return]

    def wait(self, number: int, *, seconds: float = 60.0) -> None:
        """Return when this generation is in force; raise when it was given up, saying why."""
        self._client.call("certs.wait", number=number, seconds=seconds)

    def progress(self, number: int) -> str:
        """How far this generation is, in one line."""
        return self._client.call("certs.progress", number=number)  # type: ignore[no-any-return]

    def verify(self) -> dict[str, Value]:
        """What is wrong with the node's files, in `problems`."""
        return self._client.call("certs.verify")  # type: ignore[no-any-return]

    def export(self, request: bytes, *, reason: str = "", author: str = "") -> dict[str, Value]:
        """Let in the host that made this request file; what to carry back to it."""
        return self._client.call("certs.export", request=request, reason=reason, author=author)  # type: ignore[no-any-return]


class Teardown:
    """The twin of `Node.teardown`."""

    def __init__(self, client: Caller) -> None:
        self._client = client

    def plan(self, *, keep_software: bool = False) -> Sequence[dict[str, Value]]:
        """What would be done on every node."""
        return self._client.call("teardown.plan", keep_software=keep_software)  # type: ignore[no-any-return]

    def progress(self) -> dict[str, Value]:
        """How far it is."""
        return self._client.call("teardown.progress")  # type: ignore[no-any-return]
