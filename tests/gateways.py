"""The example product (examples/) on hosts of the loopback: main processes that may be killed, workers beside them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from raftcluster.errors import RaftclusterError
from raftcluster.workers.client import Worker
from tests.checkout import ROOT
from tests.children import Child
from tests.served import Served

KEY = b"of the product, 32 bytes or more"
SECONDS = 60.0


class Gateway(Served):
    """examples/mail_gateway.py; the folder of the messages is `messages` beside its directory, `smtp` is where they go."""

    smtp = "127.0.0.1:1"

    @property
    def messages(self) -> Path:
        return self.directory.parent / "messages"

    @property
    def socket(self) -> Path:
        return self.directory / "workers.sock"

    def command(self) -> list[str]:
        self.messages.mkdir(exist_ok=True)
        (self.messages / "key").write_bytes(KEY)
        return example("mail_gateway", str(self.directory), str(self.messages), self.smtp)

    def worker(self) -> Worker:
        """Ask it as a worker process does."""
        return Worker(self.socket, timeout=SECONDS, patience=SECONDS)

    def _serves(self) -> bool:
        assert self.child.alive()
        with suppress(RaftclusterError):
            return bool(self.client.status()["workers"])
        return False


def example(name: str, *arguments: str) -> list[str]:
    """The command line that runs an example."""
    return [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]


def started(name: str, folder: Path, *arguments: str) -> Child:
    """An example that runs, and says so on its first line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = Child(name, example(name, *arguments), folder / f"{name}.log", env=environment, pipes=True)
    assert child.line(SECONDS).startswith(f"{name} at ")
    return child
