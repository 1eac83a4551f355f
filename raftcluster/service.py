"""A node with everything around it that a mail host needs: policy server, control and worker socket. What `serve` runs."""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Self

from raftcluster import heap, limits
from raftcluster.codec import Value
from raftcluster.control.server import ControlServer
from raftcluster.errors import Unavailable
from raftcluster.node import Node
from raftcluster.policy.server import LISTEN, PolicyServer, parse_listen
from raftcluster.workers.server import WorkerServer

log = logging.getLogger("raftcluster.service")

CONTROL: Final = "control.sock"
LOOK_SECONDS: Final = 0.5
READY_SECONDS: Final = 10.0


class Service:
    """Use it as a context manager: entering starts everything, leaving stops everything.

    Entering waits for a leader, but not for long: without a quorum the policy server answers as the administrator chose
    for that. `status` can be asked from the beginning.
    `workers` is the path of a socket for worker processes, which `workers_group` (name or id) may open, too; see `Worker`.
    `settings` are those of `Node.open`. Raises what `Node.open` raises, `AddressInUse`, `MissingPrivilege`; `Rejected` at once when
    `policy` is no address.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        policy: str | None = LISTEN,
        deadline: float = limits.CALL_SECONDS,
        workers: str | os.PathLike[str] | None = None,
        workers_group: str | int | None = None,
        **settings: Any,
    ) -> None:
        if policy is not None:
            parse_listen(policy)
        self._path = Path(path)
        self._listen, self._deadline, self._settings = policy, deadline, settings
        self._workers, self._group = workers, workers_group
        self._worker_server: WorkerServer | None = None
        self._stop: SimpleQueue[bool] = SimpleQueue()
        self._running = ExitStack()
        self._policy: PolicyServer | None = None

    def __enter__(self) -> Self:
        heap.lean()
        with ExitStack() as starting:
            starting.enter_context(heap.rare_collections())
            self.node = node = Node.open(self._path, **{"ready_seconds": 0, **self._settings})
            starting.callback(node.close)
            control = ControlServer(node, self._path / CONTROL, self._status)
            control.start()
            starting.callback(control.close)
            if self._workers is not None:
                self._worker_server = serving = WorkerServer(node, self._workers, group=self._group)
                serving.start()
                starting.callback(serving.close)
            if self._listen is not None:
                self._until_ready()
                server = PolicyServer(node.greylist, self._listen, deadline=self._deadline)
                server.start()
                starting.callback(server.close)
                self._policy = server
            self._running = starting.pop_all()
        log.info("node %s (%s) runs in %s", node.name, node.id, self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        log.info("stopping")
        self._running.close()

    @property
    def postfix_line(self) -> str | None:
        """What Postfix's main.cf needs, None without a policy server."""
        return self._policy.postfix_line() if self._policy else None

    def stop(self) -> None:
        """End `wait`. May be called from a signal handler."""
        self._stop.put(True)

    def wait(self) -> None:
        """Return when `stop` was called or the node was destroyed with its cluster. Raises what made the node fail."""
        asked = False
        while not asked and not self.node.closed:
            if self.node.failure is not None:
                raise self.node.failure
            with suppress(Empty):
                asked = self._stop.get(timeout=LOOK_SECONDS)

    def _until_ready(self) -> None:
        """Postfix is let in when the node can decide; after `READY_SECONDS` in any case, it is told of no quorum then."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end and self._stop.empty():
            with suppress(Unavailable):
                self.node.wait_ready(LOOK_SECONDS)
                return
        log.warning("no quorum yet: Postfix is answered without the cluster until there is one")

    def _status(self) -> dict[str, Value]:
        added: dict[str, Value] = {"policy": {}}
        if self._policy is not None:
            added["policy"] = {"address": self._policy.address, **self._policy.stats()}
        if self._worker_server is not None:
            added["workers"] = {"path": self._worker_server.path, **self._worker_server.stats()}
        return added
