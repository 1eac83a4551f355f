"""The examples run: a product's main process with its workers, SMTP and milter, and a state machine of its own on three nodes."""

from __future__ import annotations

import asyncio
import smtplib
import struct
from collections.abc import Iterator
from contextlib import suppress
from mailbox import Maildir
from pathlib import Path

import pytest

from examples.groups import Groups, show
from raftcluster.errors import Rejected
from tests.clusters import Cluster as Nodes
from tests.gateways import SECONDS, Gateway, started
from tests.helpers import eventually, free_ports
from tests.served import Cluster
from tests.smtp_server import SmtpServer

CLIENT = b"client.test\x004\x00\x19192.0.2.7\x00"


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def gateway(server: SmtpServer, tmp_path: Path) -> Iterator[Gateway]:
    class Here(Gateway):
        smtp = f"127.0.0.1:{server.port}"

    with Cluster(tmp_path, 1, Here, lab=True) as cluster:
        (node,) = cluster.nodes
        assert isinstance(node, Gateway)
        eventually(lambda: node.client.status()["leader"], SECONDS, "it leads")
        node.client.greylist.configure({"delay": 1})
        yield node


def test_smtpd_has_the_client_come_back_and_follows_the_configuration(gateway: Gateway, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    child = started("smtpd", tmp_path, str(gateway.socket), f"127.0.0.1:{port}", str(tmp_path / "mail"))
    message = b"Subject: hello\r\n\r\ntext\r\n"

    def sent() -> bool:
        refusals = smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError
        with suppress(*refusals), smtplib.SMTP("127.0.0.1", port, timeout=60) as smtp:
            smtp.sendmail("a@example.net", ["box@example.test"], message)
            return True
        return False

    try:
        with (
            smtplib.SMTP("127.0.0.1", port, timeout=60) as smtp,
            pytest.raises(smtplib.SMTPRecipientsRefused) as caught,
        ):
            smtp.sendmail("a@example.net", ["box@example.test"], message)
        code, text = caught.value.recipients["box@example.test"]
        assert code == 450 and text.startswith(b"4.2.0 Greylisted")
        eventually(sent, SECONDS, "after the delay it is taken")
        (kept,) = Maildir(tmp_path / "mail")
        assert kept["Subject"] == "hello"

        gateway.client.config.set("smtpd/largest", 10)

        def refused() -> bool:
            with smtplib.SMTP("127.0.0.1", port, timeout=60) as smtp:
                try:
                    smtp.sendmail("a@example.net", ["box@example.test"], message)
                except smtplib.SMTPDataError as error:
                    return error.smtp_code == 552
            return False

        eventually(refused, SECONDS, "the setting is in force")
        gateway.kill()
        gateway.start()
        gateway.client.config.delete("smtpd/largest")
        eventually(sent, SECONDS, "it has followed its node through a restart")
    finally:
        child.stop()


class MailServer:
    """The other side of the milter protocol, as far as it takes."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> MailServer:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert (await self.say(b"O", struct.pack("!LLL", 6, 0x1FF, 0x1FFFFF)))[:1] == b"O"
        await self.say(b"C", CLIENT)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def say(self, kind: bytes, content: bytes = b"") -> bytes:
        """One message, and the answer to it."""
        self._writer.write(struct.pack("!L", len(content) + 1) + kind + content)
        async with asyncio.timeout(60):
            (length,) = struct.unpack("!L", await self._reader.readexactly(4))
            return await self._reader.readexactly(length)

    async def mail(self, header: bytes) -> bytes:
        """The last answer of one transaction."""
        await self.say(b"M", b"<a@example.net>\0RET=HDRS\0")
        answer = await self.say(b"R", b"<box@example.test>\0ORCPT=rfc822;alias@example.test\0")
        if answer != b"c":
            self._writer.write(struct.pack("!L", 1) + b"A")
            return answer
        await self.say(b"T")
        for each in (b"To\0 spoofed@example.com\0", header + b"\0 yes\0"):
            await self.say(b"L", each)
        await self.say(b"N")
        await self.say(b"B", b".dot\r\n")
        while (answer := await self.say(b"E"))[:1] == b"h":
            async with asyncio.timeout(60):  # a header is added: the verdict comes after it
                (length,) = struct.unpack("!L", await self._reader.readexactly(4))
                return await self._reader.readexactly(length)
        return answer


def test_milter_greylists_and_quarantines_and_the_node_releases(
    gateway: Gateway, server: SmtpServer, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    child = started("milter", tmp_path, str(gateway.socket), f"127.0.0.1:{port}", str(gateway.messages))

    async def work() -> None:
        async with MailServer(port) as mta:
            deferred = await mta.mail(b"X-Other")
            assert deferred.startswith(b"y450 4.2.0 Greylisted")
            async with asyncio.timeout(SECONDS):
                while (answer := await mta.mail(b"X-Other")).startswith(b"y450"):
                    pass  # a client that cannot wait
            assert answer == b"a"
            assert await mta.mail(b"X-Suspicious-Attachment") == b"d"

    try:
        asyncio.run(work())
        (held,) = gateway.client.quarantine.list()["messages"]
        assert (held["sender"], held["first"], held["reason"]) == (b"a@example.net", b"box@example.test", "suspicious")
        gateway.client.quarantine.release(held["id"], 1)
        (session,) = server.taken
        assert b"RCPT TO:<box@example.test> ORCPT=rfc822;alias@example.test" in session.commands
        expected = b"To: spoofed@example.com\r\nX-Suspicious-Attachment: yes\r\n\r\n..dot\r\n.\r\n"
        assert session.data == expected
    finally:
        child.stop()


def test_groups_are_the_same_on_three_nodes(tmp_path: Path) -> None:
    with Nodes(tmp_path, 3, lambda: [Groups()]) as cluster:
        first, second, third = cluster.nodes.values()
        assert first.propose("groups", ["add", "staff", "a@example.org"]) is True
        assert second.propose("groups", ["add", "staff", "b@example.org"]) is True
        assert third.propose("groups", ["add", "staff", "a@example.org"]) is False
        assert second.propose("groups", ["add", "staffing", "c@example.org"]) is True
        for node in (first, second, third):
            assert show(node, "staff", "linearizable") == ["a@example.org", "b@example.org"]
        assert third.propose("groups", ["remove", "staff", "a@example.org"]) is True
        assert show(first, "staff", "linearizable") == ["b@example.org"]
        for wrong in (["add", "", "x"], ["add", "a\0b", "x"], ["rename", "a", "b"], ["add", "a", "x" * 500], None):
            with pytest.raises(Rejected):
                first.propose("groups", wrong)
        assert cluster.nodes[0].verify().verdict == "sound"
