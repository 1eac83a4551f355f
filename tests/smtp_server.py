"""A small SMTP server that keeps every line as it came, and answers as it is told."""

from __future__ import annotations

import asyncio
import smtplib
from collections.abc import Callable
from dataclasses import dataclass, field

from raftcluster.loop import LoopThread

EXTENSIONS = ("SIZE", "DSN", "8BITMIME", "SMTPUTF8")


@dataclass
class Session:
    """One connection."""

    commands: list[bytes] = field(default_factory=list)
    """Without their line ends."""
    data: bytes = b""
    """All that came between DATA and the line with the dot, as it was on the wire."""


class SmtpServer:
    """On a port of the loopback. `answers` maps the begin of a command ("RCPT", "." for the end of the message) to what is said to
    it; "" hangs up instead. `before` maps it to what is called before it is answered. Use as a context manager."""

    def __init__(self, *extensions: str) -> None:
        self.extensions = extensions or EXTENSIONS
        self.answers: dict[str, str] = {}
        self.sessions: list[Session] = []
        self.before: dict[str, Callable[[], object]] = {}
        self._thread = LoopThread("smtp-server")
        self._server = self._thread.run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def connect(self) -> smtplib.SMTP:
        """As `SmtpDelivery` wants it."""
        return smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.test", timeout=60)

    @property
    def taken(self) -> list[Session]:
        """Those whose message came to its end."""
        return [each for each in self.sessions if each.data.endswith(b"\r\n.\r\n")]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = Session()
        self.sessions.append(session)
        try:
            writer.write(b"220 test\r\n")
            while line := await reader.readline():
                session.commands.append(line.removesuffix(b"\r\n"))
                verb = line.split()[0].decode().upper()
                await asyncio.to_thread(self.before.get(verb, _nothing))
                if verb == "EHLO":
                    said = "\r\n".join(f"250-{each}" for each in ("test", *self.extensions)) + "\r\n250 HELP"
                elif verb == "DATA":
                    said = self.answers.get(verb, "354 go on")
                    if said.startswith("354"):
                        writer.write(said.encode() + b"\r\n")
                        while not session.data.endswith(b"\r\n.\r\n") and (line := await reader.readline()):
                            session.data += line
                        if not line:
                            return
                        await asyncio.to_thread(self.before.get(".", _nothing))
                        said = self.answers.get(".", "250 2.0.0 taken")
                else:
                    said = self.answers.get(verb, "250 fine" if verb != "QUIT" else "221 bye")
                if not said:
                    return
                writer.write(said.encode() + b"\r\n")
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()

    def __enter__(self) -> SmtpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.run(self._close())
        self._thread.close()

    async def _close(self) -> None:
        self._server.close()


def _nothing() -> None:
    """Before most commands."""
