"""An SMTP server of one's own (aiosmtpd) as a worker process: greylisting at RCPT, a maildir behind it.

python examples/smtpd.py SOCKET HOST:PORT MAILDIR

SOCKET is the node's worker socket, see examples/mail_gateway.py. How large a message may be is a setting of the cluster:
`raftcluster config set smtpd/largest 1000000` is in force here at once, and in every other worker on every host.
"""

import asyncio
import sys
import threading
from mailbox import Maildir
from uuid import uuid4

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from raftcluster import RaftclusterError, Worker

LARGEST_BYTES = 10_000_000


class Handler:
    """What aiosmtpd asks. On its event loop."""

    def __init__(self, worker: Worker, maildir: Maildir) -> None:
        self._worker, self._maildir = worker, maildir
        self.largest = LARGEST_BYTES

    def follow(self) -> None:
        """A thread of its own: have the setting, whatever it becomes."""
        try:
            since = self._worker.call("config.revision")
            self.largest = self._worker.config.get("smtpd/largest", LARGEST_BYTES)
            for change in self._worker.config.watch("smtpd/largest", since=since):
                self.largest = LARGEST_BYTES if change["deleted"] else change["value"]
        except RaftclusterError as error:
            print(f"the setting is not followed any more: {error}", file=sys.stderr)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """One more transaction."""
        envelope.mail_from, envelope.instance = address, uuid4().hex  # type: ignore[attr-defined]
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take the recipient, or have the client come back."""
        verdict = await self._worker.greylist.acheck(
            client=session.peer[0],  # type: ignore[index]
            sender=envelope.mail_from or "",
            recipient=address,
            instance=envelope.instance,  # type: ignore[attr-defined]
            authenticated=bool(session.authenticated),
        )
        if verdict.action == "defer":
            return f"450 4.2.0 {verdict.text}"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep the message."""
        content = envelope.content if isinstance(envelope.content, bytes) else b""
        if len(content) > self.largest:
            return f"552 5.3.4 at most {self.largest} bytes are taken here"
        await asyncio.to_thread(self._maildir.add, content)
        return "250 2.0.0 kept"


def main(socket: str, host: str, port: int, maildir: str) -> None:
    with Worker(socket) as worker:
        handler = Handler(worker, Maildir(maildir))
        threading.Thread(target=handler.follow, daemon=True).start()
        controller = Controller(handler, host, port)
        controller.start()
        print(f"smtpd at {host}:{port}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    where, _, number = sys.argv[2].rpartition(":")
    main(sys.argv[1], where, int(number), sys.argv[3])
