"""The notifications as a program sees them: `node.notifications`.

    node.notifications.publish("error", "the signature update failed", key="signatures", payload={"code": 7})
    for each in node.notifications.subscribe("pager"):
        page(each.severity, each.text)

Guarantee. What `publish` has returned is on a majority's disks. A subscription hands out everything that lives, in order, at
least once: without a crash exactly once, after one at most the last `batch` again. Bounds: `limits.NOTIFICATIONS` are kept,
and each as long as its `ttl`; who falls further behind is told (`FellBehind`).

Errors: changes raise `Unavailable`, `OutcomeUnknown` (with a key it is safe to publish again), `Rejected`.
Thread: every method may be called from any thread, but never from a node's callback: they wait. Those that begin with `a` are
for asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.host import Consistency, Host
from raftcluster.iteration import Followers
from raftcluster.notifications.machine import (
    NAME,
    Notification,
    Page,
    read_cursor,
    read_dropped,
    read_last,
    read_page,
)
from raftcluster.notifications.rules import (
    check_consumer,
    check_payload,
    check_position,
    check_severity,
    check_text,
    check_ttl,
)
from raftcluster.notifications.subscription import AsyncSubscription, Stream, Subscription
from raftcluster.twins import twin


class Notifications:
    """See the head of the file. `deadline` and `ttl` are in seconds."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._followers = Followers()
        host.on_apply(NAME, self._followers.signal)

    def publish(
        self,
        severity: str,
        text: str,
        *,
        key: str = "",
        payload: Value = None,
        ttl: float = limits.NOTIFICATION_SECONDS,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """Tell the whole cluster; the position in the stream. `severity` is info, warning, error or critical.

        As long as one with the same `key` is neither acknowledged nor expired there is no second: that one's position.
        """
        command = self._publication(severity, text, key, payload, ttl)
        position: int = self._host.propose(NAME, command, deadline=deadline)[0]
        return position

    async def apublish(
        self,
        severity: str,
        text: str,
        *,
        key: str = "",
        payload: Value = None,
        ttl: float = limits.NOTIFICATION_SECONDS,
        deadline: float = limits.CALL_SECONDS,
    ) -> int:
        """`publish` from asyncio."""
        command = self._publication(severity, text, key, payload, ttl)
        position: int = (await self._host.apropose(NAME, command, deadline=deadline))[0]
        return position

    def acknowledge(self, position: int, *, author: str = "", deadline: float = limits.CALL_SECONDS) -> bool:
        """Say for the whole cluster that somebody has seen to it; False when somebody had before. `Rejected` when it is gone."""
        check_position(position)
        answer = self._host.propose(NAME, ["acknowledge", position, author, self._host.name], deadline=deadline)
        return bool(answer[0])

    async def aacknowledge(self, position: int, *, author: str = "", deadline: float = limits.CALL_SECONDS) -> bool:
        """`acknowledge` from asyncio."""
        check_position(position)
        answer = await self._host.apropose(NAME, ["acknowledge", position, author, self._host.name], deadline=deadline)
        return bool(answer[0])

    def list(
        self, *, after: int = 0, acknowledged: bool = False, consistency: Consistency = "local"
    ) -> list[Notification]:
        """What is open, oldest first, after this position; with `acknowledged` also what was seen to."""
        found: list[Notification] = []
        query = partial(self._host.query, NAME, consistency=consistency)
        after = max(after, query(lambda tables, _: read_dropped(tables)))
        while True:
            page: Page | None = query(partial(read_page, after=after, limit=limits.SCAN_ROWS))
            if page is None or page.reached == after:  # dropped meanwhile, or the end
                return found
            found += [each for each in page.items if acknowledged or each.acknowledged is None]
            after = page.reached

    async def alist(
        self, *, after: int = 0, acknowledged: bool = False, consistency: Consistency = "local"
    ) -> Sequence[Notification]:
        """`list` from asyncio."""
        return await asyncio.to_thread(self.list, after=after, acknowledged=acknowledged, consistency=consistency)

    def subscribe(self, consumer: str | None = None, *, since: int | None = None, batch: int = 1) -> Subscription:
        """Everything from where `consumer` was, whichever node it was on; a new one begins after position `since`.

        Without `since` a new consumer begins with what is kept. One process at a time reads for a consumer (`node.lease`
        sees to it): of two, both get everything. With None nothing is remembered. `batch` is how many may be handed out
        again after a crash; each of them saves a write. Waits for a quorum when there is a consumer.
        """
        return self._followers.add(Subscription(self._stream(consumer, since, batch)))

    def asubscribe(self, consumer: str | None = None, *, since: int | None = None, batch: int = 1) -> AsyncSubscription:
        """`subscribe` for `async for`, in a running loop. It finds its place with `async with` or the first step."""
        return self._followers.add(AsyncSubscription(self._stream(consumer, since, batch)))

    def cursor(self, consumer: str, *, consistency: Consistency = "linearizable") -> int | None:
        """Up to which position `consumer` has handled everything; None when it is not known."""
        check_consumer(consumer)
        return self._host.query(NAME, lambda t, _: read_cursor(t, consumer), consistency=consistency)

    acursor = twin(cursor)

    def advance(self, consumer: str, position: int) -> None:
        """`consumer` has handled everything up to `position`; it never goes back. For who reads without a subscription."""
        check_consumer(consumer)
        check_position(position)
        self._host.propose(NAME, ["advance", consumer, position])

    aadvance = twin(advance)

    def seek(self, consumer: str, position: int) -> None:
        """Have the next subscription of `consumer` begin after `position`, wherever it was."""
        check_consumer(consumer)
        check_position(position)
        self._host.propose(NAME, ["seek", consumer, position])

    aseek = twin(seek)

    def forget(self, consumer: str) -> bool:
        """Remember nothing of `consumer` any more; whether it was known."""
        check_consumer(consumer)
        return bool(self._host.propose(NAME, ["forget", consumer]))

    aforget = twin(forget)

    def last(self, *, consistency: Consistency = "local") -> int:
        """The newest position; 0 when there was none."""
        return self._host.query(NAME, lambda tables, _: read_last(tables), consistency=consistency)

    alast = twin(last)

    def close(self) -> None:
        """End all subscriptions. Idempotent; `Node.close` does it."""
        self._followers.close()

    def _publication(self, severity: str, text: str, key: str, payload: Value, ttl: float) -> Value:
        check_severity(severity)
        check_text("text", text, limits.NOTIFICATION_TEXT_BYTES, empty=False)
        check_text("key", key, limits.NOTIFICATION_KEY_BYTES)
        check_payload(payload)
        ttl_ms = int(ttl * 1000) if abs(ttl) < limits.TIME_MS else 0
        check_ttl(ttl_ms)
        return ["publish", severity, text, key, payload, ttl_ms, self._host.name]

    def _stream(self, consumer: str | None, since: int | None, batch: int) -> Stream:
        if batch < 1:
            raise Rejected(f"a batch of {batch}", subject="batch", remedy="1 or more")
        if since is not None:
            check_position(since)
        advance = None
        if consumer is not None:
            check_consumer(consumer)
            advance = partial(self.advance, consumer)

        def begin() -> int:
            start = None if consumer is None else self.cursor(consumer)
            if start is None:
                start = self._host.query(NAME, lambda tables, _: read_dropped(tables)) if since is None else since
            return start

        def confirm(position: int) -> None:
            if position > self.last() and position > (last := self.last(consistency="linearizable")):
                raise Rejected(
                    f"there is no position {position} yet", subject="position", remedy=f"the newest is {last}"
                )

        return Stream(self._page, advance, begin, confirm, batch)

    def _page(self, after: int, limit: int) -> Page | None:
        return self._host.query(NAME, partial(read_page, after=after, limit=limit))
