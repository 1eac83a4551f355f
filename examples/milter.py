"""A milter as a worker process: greylisting at RCPT, and suspicious messages into the quarantine instead of the mailbox.

python examples/milter.py SOCKET HOST:PORT FOLDER

SOCKET is the node's worker socket, HOST:PORT is where Postfix finds the milter (`smtpd_milters = inet:HOST:PORT`), FOLDER is where
the product keeps messages (see examples/mail_gateway.py). The milter protocol is spoken by kilter.protocol.
"""

import asyncio
import hashlib
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from kilter.protocol import messages as milter
from kilter.protocol.buffer import SimpleBuffer
from kilter.protocol.core import FilterMessage, FilterProtocol, MTAMessage

from raftcluster import Envelope, RaftclusterError, Worker

MARK = b"X-Suspicious-Attachment"
BUFFER_BYTES = 1 << 20


class Mail:
    """One SMTP connection: the envelope as it grows, then the message."""

    def __init__(self, worker: Worker, folder: Path) -> None:
        self._worker, self._folder = worker, folder
        self._client = "127.0.0.1"
        self._begin(Envelope(""))

    def _begin(self, envelope: Envelope) -> None:
        self._envelope, self._message, self._header = envelope, bytearray(), ""
        self._instance = secrets.token_hex(8)

    async def answers(self, event: MTAMessage) -> AsyncIterator[FilterMessage]:
        """What the mail server is told."""
        match event:
            case milter.Negotiate():
                wanted = milter.ProtocolFlags.NO_HELO | milter.ProtocolFlags.HEADER_LEADING_SPACE
                yield milter.Negotiate(6, milter.ActionFlags.ADD_HEADERS, wanted & event.protocol_flags)
                return
            case milter.Connect() if event.address is not None:
                self._client = str(event.address)
            case milter.EnvelopeFrom():
                given = parameters(event.arguments)
                ret, envid = given.get("RET", ""), given.get("ENVID", "")
                self._begin(Envelope(path(event.sender), ret=ret, envid=envid, smtputf8="SMTPUTF8" in given))
            case milter.EnvelopeRecipient():
                yield await self._recipient(path(event.recipient), parameters(event.arguments))
                return
            case milter.Header():
                value = bytes(event.value).replace(b"\n", b"\r\n")
                self._message += event.name.encode("latin-1") + b":" + value + b"\r\n"
            case milter.EndOfHeaders():
                self._message += b"\r\n"
            case milter.Body():
                self._message += event.content
            case milter.EndOfMessage():
                self._message += event.content
                if MARK in self._message:
                    yield await self._quarantine(bytes(self._message))
                    return
                if self._header:
                    name, _, text = self._header.partition(":")
                    yield milter.AddHeader(name, text.encode())
                yield milter.Accept()
                return
        yield milter.Continue()

    async def _recipient(self, address: bytes, given: dict[str, str]) -> FilterMessage:
        verdict = await self._worker.greylist.acheck(
            client=self._client, sender=self._envelope.sender, recipient=address, instance=self._instance
        )
        if verdict.action == "defer":
            return milter.ReplyCode(f"450 4.2.0 {verdict.text}\0".encode())
        self._header = verdict.header or self._header
        self._envelope.rcpt(address, orcpt=given.get("ORCPT", ""), notify=given.get("NOTIFY", ""))
        return milter.Continue()

    async def _quarantine(self, message: bytes) -> FilterMessage:
        """The product keeps the message, the cluster its envelope; without either the client keeps both."""
        try:
            ident = str(await self._worker.acall("quarantine.new_id"))
            (self._folder / f"{ident}.eml").write_bytes(message)
            digest = hashlib.sha256(message).digest()
            about = {"digest": digest, "size": len(message), "reference": f"{ident}.eml", "reason": "suspicious"}
            await self._worker.quarantine.acapture(self._envelope, **about, id=ident)  # type: ignore[arg-type]
        except (RaftclusterError, OSError) as error:
            return milter.ReplyCode(f"451 4.3.0 try again later: {type(error).__name__}\0".encode())
        return milter.Discard()


def path(given: bytes | memoryview) -> bytes:
    """An address without its brackets."""
    return bytes(given).removeprefix(b"<").removesuffix(b">")


def parameters(arguments: list[bytes | memoryview]) -> dict[str, str]:
    """The parameters of MAIL or RCPT, by name in capitals."""
    pairs = (bytes(each).decode("utf-8", "replace").partition("=") for each in arguments)
    return {name.upper(): value for name, _, value in pairs}


async def converse(mail: Mail, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of the mail server."""
    protocol, buffer = FilterProtocol(), SimpleBuffer(BUFFER_BYTES)
    while data := await reader.read(buffer.available):
        buffer[:] = data
        for event in protocol.read_from(buffer):
            if isinstance(event, milter.Close):
                break
            async for answer in mail.answers(event):
                if isinstance(answer, milter.Continue) and not protocol.needs_response(event):
                    continue
                out = SimpleBuffer(BUFFER_BYTES)
                protocol.write_to(out, answer)
                writer.write(bytes(out[:]))
    writer.close()


async def main(socket: str, host: str, port: int, folder: Path) -> None:
    with Worker(socket) as worker:
        server = await asyncio.start_server(lambda r, w: converse(Mail(worker, folder), r, w), host, port)
        print("milter at {}:{}".format(*server.sockets[0].getsockname()[:2]), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    where, _, number = sys.argv[2].rpartition(":")
    asyncio.run(main(sys.argv[1], where, int(number), Path(sys.argv[3])))
