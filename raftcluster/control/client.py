"""The node's API from another process, over its control socket. The CLI uses nothing else of a running node.

    client = Client("/var/lib/raftcluster/control.sock")
    client.config.set("antispam/threshold", 5, reason="holiday wave")
    for status in client.watch_status():
        ...

Errors are those of the node: the same class, code and text as if the call had been made in its process. Every method may
be called from any thread, each call is a connection of its own; they block, so from asyncio use `asyncio.to_thread`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Final

from raftcluster import limits
from raftcluster.backup.file import save
from raftcluster.backup.summary import verify
from raftcluster.codec import Value
from raftcluster.control.exchange import Exchange
from raftcluster.control.greylisting import Greylist
from raftcluster.control.members import Certs, Members, Teardown, Tokens
from raftcluster.errors import FrameError, OutcomeUnknown, Rejected, Unavailable

ANSWER_SECONDS: Final = 120.0  # calls have deadlines of their own, at the node; this one is for a node that hangs


RETRY_SECONDS: Final = 0.2


class Client:
    """A node's API. `path` is its control socket, `control.sock` in its data directory."""

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = ANSWER_SECONDS) -> None:
        self.path = os.fspath(path)
        self.timeout = timeout
        self.greylist = Greylist(self)
        self.config = Config(self)
        self.lease = Leases(self)
        self.notifications = Notifications(self)
        self.quarantine = Quarantine(self)
        self.members = Members(self)
        self.tokens = Tokens(self)
        self.certs = Certs(self)
        self.teardown = Teardown(self)

    def status(self) -> dict[str, Value]:
        """What the node knows of itself and of the others. Answers without a quorum too."""
        return self.call("status")  # type: ignore[no-any-return]

    def watch_status(self, every: float = 1.0) -> Iterator[dict[str, Value]]:
        """`status` again and again, `every` seconds."""
        return self.stream("status.watch", every=every)

    def audit(self, limit: int = 100) -> Sequence[dict[str, Value]]:
        """The newest changes of configuration, greylist settings, members and certificates, newest first: who made them, when
        (cluster time in milliseconds), from where and why."""
        return self.call("audit", limit=limit)  # type: ignore[no-any-return]

    def transfer(self, node: str | None = None, *, reason: str = "", author: str = "") -> str:
        """Hand leadership over, to `node` (name or id) or to whoever is furthest; the new leader's id."""
        return self.call("transfer", node=node, reason=reason, author=author)  # type: ignore[no-any-return]

    def backup(self, path: str | os.PathLike[str], *, local: bool = False) -> dict[str, Value]:
        """Write the state of the whole cluster to the new file `path`, read it back and say what is in it; with `local` what
        the node has applied, also without a quorum. The file is written by **this** process. Raises what `Node.backup` does.
        """
        try:
            save(path, self.stream("backup", local=local))
        except OutcomeUnknown as error:
            raise Unavailable(
                "the node hung up during the backup; no file is left", subject=self.path, remedy="try again"
            ) from error
        return asdict(verify(path))

    def verify(
        self, *, deadline: float = limits.VERIFY_SECONDS, progress: Callable[[str], None] = lambda text: None
    ) -> dict[str, Value]:
        """Compare all tables of all members, and read through what each has stored: the fields of `verify.report.Report`,
        `verdict` and `error`. See `Node.verify`."""
        report = None
        for step in self.stream("verify", deadline=deadline):
            if "progress" in step:
                progress(step["progress"])
            else:
                report = step["report"]
        if report is None:
            raise FrameError("the node's answer has no report", subject=self.path)
        return report  # type: ignore[no-any-return]

    def logs(self, since: float | None = None, *, follow: bool = False) -> Iterator[dict[str, Value]]:
        """The mail logs of all members, merged by time, in batches: `entries`, each a node's name and a dict as docs/logs.md has it,
        and `notices`, a node's name and why it does not answer (empty: it does again). See `Node.logs`."""
        return self.stream("logs", since=since, follow=follow)

    def destroy(
        self, confirm: str, *, every_node: bool = False, keep_software: bool = False, reason: str = "", author: str = ""
    ) -> str:
        """Decide to dismantle the cluster named `confirm`; the id of the event that every node records."""
        asked = {"confirm": confirm, "every_node": every_node, "keep_software": keep_software}
        return self.call("destroy", **asked, reason=reason, author=author)  # type: ignore[no-any-return]

    def bury(self, tombstone: bytes) -> str:
        """Tear the node down, as the tombstone proves that its cluster was destroyed; the event's id."""
        return self.call("bury", tombstone=tombstone)  # type: ignore[no-any-return]

    def call(self, method: str, **arguments: Value) -> Value:
        """One call. Raises what the node raises; `NotRunning`, `MissingPrivilege`; `OutcomeUnknown` when it hung up."""
        with Exchange(self.path, self.timeout, method, arguments) as exchange:
            return exchange.receive()[1]

    def stream(self, method: str, **arguments: Value) -> Iterator[Value]:
        """The items of a streaming call, until the node ends it or the iterator is closed."""
        with Exchange(self.path, self.timeout, method, arguments) as exchange:
            while (received := exchange.receive(wait=True))[0] == "item":
                yield received[1]


class Config:
    """The twin of `Node.config`. Revisions are the cluster's, times are cluster time in milliseconds."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, key: str, default: Value = None) -> Value:
        """What `key` is on the node: its override, else the cluster's value, else `default`."""
        return self._client.call("config.get", key=key, default=default)

    def effective(self, key: str, node: str | None = None) -> dict[str, Value] | None:
        """What applies on `node` (by default the one that is asked), or None; `key` tells an override from the cluster's."""
        return self._client.call("config.effective", key=key, node=node)  # type: ignore[no-any-return]

    def entry(self, key: str) -> dict[str, Value] | None:
        """The cluster's value, revision, author, reason and time of `key`, or None when it is not set."""
        return self._client.call("config.entry", key=key)  # type: ignore[no-any-return]

    def set(
        self,
        key: str,
        value: Value,
        *,
        node: str | None = None,
        reason: str = "",
        author: str = "",
        expect_revision: int | None = None,
    ) -> int:
        """Set `key` in the whole cluster, or on `node` only, and return the new revision. See `Node.config.set`."""
        asked = {"node": node, "reason": reason, "author": author, "expect_revision": expect_revision}
        return self._client.call("config.set", key=key, value=value, **asked)  # type: ignore[no-any-return]

    def delete(self, key: str, *, node: str | None = None, reason: str = "", author: str = "") -> int:
        """Unset `key` in the whole cluster, or `node`'s override, and return the new revision."""
        return self._client.call("config.delete", key=key, node=node, reason=reason, author=author)  # type: ignore[no-any-return]

    def transact(
        self,
        conditions: Sequence[Sequence[Value]],
        changes: Sequence[Sequence[Value]],
        *,
        reason: str = "",
        author: str = "",
    ) -> int:
        """Make all changes, or none, and return their revision. See `Node.config.transact`."""
        asked = {"conditions": [*conditions], "changes": [*changes], "reason": reason, "author": author}
        return self._client.call("config.transact", **asked)  # type: ignore[no-any-return]

    def log(self, prefix: str = "", *, limit: int = 100, before: int | None = None) -> list[dict[str, Value]]:
        """The newest changes of keys with `prefix`, newest first."""
        return list(self._client.stream("config.log", prefix=prefix, limit=limit, before=before))

    def revision_at(self, moment: float) -> int:
        """The newest revision that was made until `moment`, seconds since the epoch."""
        return self._client.call("config.revision_at", moment=moment)  # type: ignore[no-any-return]

    def at(self, revision: int, prefix: str = "") -> dict[str, dict[str, Value]]:
        """What was set at `revision`, by key."""
        found = self._client.stream("config.at", revision=revision, prefix=prefix)
        return {each["key"]: each for each in found}

    def diff(self, first: int, second: int | None = None, prefix: str = "") -> list[dict[str, Value]]:
        """The keys whose values differ between two revisions: `key`, `before` and `after`."""
        return list(self._client.stream("config.diff", first=first, second=second, prefix=prefix))

    def rollback(self, revision: int, prefix: str = "", *, reason: str = "", author: str = "") -> int:
        """Make all keys with `prefix` what they were at `revision`; the new revision, 0 when they are that."""
        asked = {"revision": revision, "prefix": prefix, "reason": reason, "author": author}
        return self._client.call("config.rollback", **asked)  # type: ignore[no-any-return]

    def verify(self) -> dict[str, Value]:
        """Whether the configuration's past is what it was: `first`, `last`, `digest`, `bad`, `reason`."""
        return self._client.call("config.verify")  # type: ignore[no-any-return]

    def schemas(self) -> list[dict[str, Value]]:
        """What the embedding product has registered: `prefix`, `version`, `document`."""
        return self._client.call("config.schemas")  # type: ignore[no-any-return]

    def reports(self) -> list[dict[str, Value]]:
        """How far each node has applied the configuration, and why no farther."""
        return self._client.call("config.reports")  # type: ignore[no-any-return]

    def set_local(self, key: str, value: Value) -> None:
        """Set a key below `local/` on the node that is asked. See `Node.config.local`."""
        self._client.call("config.local.set", key=key, value=value)

    def delete_local(self, key: str) -> None:
        """Unset a key below `local/` on the node that is asked."""
        self._client.call("config.local.delete", key=key)

    def history(self, key: str) -> list[dict[str, Value]]:
        """Every kept revision of `key`, the newest first."""
        return list(self._client.stream("config.history", key=key))

    def keys(self, prefix: str = "") -> list[str]:
        """The keys that are set and begin with `prefix`."""
        return self._client.call("config.keys", prefix=prefix)  # type: ignore[no-any-return]

    def watch(self, prefix: str = "", since: int | None = None) -> Iterator[dict[str, Value]]:
        """Every change from revision `since` on, then every change as it comes."""
        return self._client.stream("config.watch", prefix=prefix, since=since)


class Leases:
    """The twin of `Node.lease`, as far as an administrator needs it: a lease is held by a process, not by a command."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> Sequence[dict[str, Value]]:
        """Who holds what, by name. Times are cluster time in milliseconds."""
        return self._client.call("lease.list")  # type: ignore[no-any-return]


class Notifications:
    """The twin of `Node.notifications`, as far as an administrator needs it. Times are cluster time in milliseconds."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, *, acknowledged: bool = False) -> Sequence[dict[str, Value]]:
        """What is open, oldest first; with `acknowledged` also what somebody has seen to."""
        return self._client.call("notifications.list", acknowledged=acknowledged)  # type: ignore[no-any-return]

    def publish(
        self,
        severity: str,
        text: str,
        *,
        key: str = "",
        payload: Value = None,
        ttl: float = limits.NOTIFICATION_SECONDS,
    ) -> int:
        """Tell the whole cluster; the position. See `Node.notifications.publish`."""
        return self._client.call(  # type: ignore[no-any-return]
            "notifications.publish", severity=severity, text=text, key=key, payload=payload, ttl=ttl
        )

    def acknowledge(self, position: int, *, author: str = "") -> bool:
        """Say for the whole cluster that somebody has seen to it; False when somebody had before."""
        return self._client.call("notifications.acknowledge", position=position, author=author)  # type: ignore[no-any-return]

    def follow(
        self, since: int | None = None, *, consumer: str | None = None, batch: int = 1
    ) -> Iterator[dict[str, Value]]:
        """What comes after position `since` (default: all that is kept), then each as it comes.

        With `consumer` from where that one was, whichever node it was on; `since` is for a new one. Asking for the next says
        that the one before is handled, and after each `batch` of them the cluster is told before more is handed out: so a
        consumer that crashes gets at most `batch` of them again, and one that does not gets each once.
        """
        if consumer is None:
            yield from self._client.stream("notifications.follow", since=since)
            return
        if batch < 1:
            raise Rejected(f"a batch of {batch}", subject="batch", remedy="1 or more")
        known = self.cursor(consumer)
        follow = self._client.stream("notifications.follow", since=since if known is None else known)
        for handled, each in enumerate(follow, 1):
            yield each
            if handled % batch == 0:
                self.advance(consumer, each["position"])

    def cursor(self, consumer: str) -> int | None:
        """Up to which position `consumer` has handled everything; None when it is not known."""
        return self._client.call("notifications.cursor", consumer=consumer)  # type: ignore[no-any-return]

    def advance(self, consumer: str, position: int) -> None:
        """`consumer` has handled everything up to `position`. It may be said again: see `Node.notifications.advance`."""
        end = time.monotonic() + self._client.timeout
        while True:
            try:
                self._client.call("notifications.advance", consumer=consumer, position=position)
            except (Unavailable, OutcomeUnknown):
                if time.monotonic() >= end:
                    raise
                time.sleep(RETRY_SECONDS)
                continue
            return

    def seek(self, consumer: str, position: int) -> None:
        """Have `consumer` go on after `position`, wherever it was."""
        self._client.call("notifications.seek", consumer=consumer, position=position)

    def forget(self, consumer: str) -> bool:
        """Remember nothing of `consumer` any more; whether it was known."""
        return self._client.call("notifications.forget", consumer=consumer)  # type: ignore[no-any-return]


class Quarantine:
    """The twin of `Node.quarantine`, as far as an administrator needs it. Times are cluster time in milliseconds, addresses bytes."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, after: str = "", limit: int = limits.QUARANTINE_PAGE) -> dict[str, Value]:
        """A page of `messages`, and after which id the `next` one begins."""
        return self._client.call("quarantine.list", after=after, limit=limit)  # type: ignore[no-any-return]

    def show(self, id: str) -> dict[str, Value]:
        """All that is known of one message, with its `recipients` and how far each is."""
        return self._client.call("quarantine.show", id=id)  # type: ignore[no-any-return]

    def release(
        self, id: str, number: int, *, author: str = "", claim: float = limits.QUARANTINE_CLAIM_SECONDS
    ) -> dict[str, Value]:
        """Have the node deliver the message to its recipient of this number; how that ended. See `Node.quarantine.release`."""
        return self._client.call("quarantine.release", id=id, number=number, author=author, claim=claim)  # type: ignore[no-any-return]

    def discard(self, id: str, *, author: str = "") -> bool:
        """Forget a message, for ever; whether it was there."""
        return self._client.call("quarantine.discard", id=id, author=author)  # type: ignore[no-any-return]

    def usage(self) -> dict[str, int]:
        """How many messages are kept, in how many bytes, and how many may be."""
        return self._client.call("quarantine.usage")  # type: ignore[no-any-return]
