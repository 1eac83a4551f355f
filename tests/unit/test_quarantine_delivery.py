"""What an SMTP server hears when a message is released: the captured envelope, the message byte for byte, and nothing else."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcluster.errors import OutcomeUnknown
from raftcluster.quarantine.delivery import SmtpDelivery
from raftcluster.quarantine.envelope import Envelope
from raftcluster.quarantine.rules import DeliveryFailed
from tests.smtp_server import SmtpServer

MESSAGE = b"To: other@example.com\r\nCc: x@example.com\r\n\r\n.\r\n..two\r\n.three\r\nno dot.\r\n"
LONG = 60.0


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


def envelope(sender: str = "a@example.net") -> Envelope:
    made = Envelope(sender, ret="hdrs", envid="QQ+3D1")
    made.rcpt("first@example.org")
    made.rcpt(b'"odd one"@example.org', orcpt="rfc822;list+40example.org", notify="FAILURE,DELAY")
    return made


def deliver(server: SmtpServer, made: Envelope, number: int, message: bytes = MESSAGE, left: float = LONG) -> str:
    return SmtpDelivery(server.connect)(made, made.recipients[number - 1], message, lambda: left)


def test_one_recipient_hears_of_the_message_as_it_came(server: SmtpServer) -> None:
    assert deliver(server, envelope(), 2) == "250 2.0.0 taken"
    (session,) = server.sessions
    assert session.commands[1:3] == [
        b"MAIL FROM:<a@example.net> SIZE=%d RET=HDRS ENVID=QQ+3D1" % len(MESSAGE),
        b'RCPT TO:<"odd one"@example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;list+40example.org',
    ]
    assert session.data.replace(b"\r\n..", b"\r\n.") == MESSAGE + b".\r\n"
    assert session.data.count(b"\r\n..") == 3, "dots are doubled"


def test_the_null_sender_and_a_server_that_offers_nothing() -> None:
    with SmtpServer("HELP") as server:
        deliver(server, envelope(""), 2)
        assert server.sessions[0].commands[1:3] == [b"MAIL FROM:<>", b'RCPT TO:<"odd one"@example.org>']


def test_addresses_and_lines_beyond_ascii_need_a_server_that_takes_them(server: SmtpServer) -> None:
    made = Envelope("bücher@example.net")
    made.rcpt(b"latin\xe9@example.org", orcpt="utf-8;bücher@example.org")
    deliver(server, made, 1, "Subject: ü\r\n\r\n".encode())
    mail, rcpt = server.sessions[0].commands[1:3]
    assert mail == "MAIL FROM:<bücher@example.net> SIZE=15 SMTPUTF8 BODY=8BITMIME".encode()
    assert rcpt == b"RCPT TO:<latin\xe9@example.org> ORCPT=utf-8;" + "bücher@example.org".encode()
    with SmtpServer("SIZE") as plain:
        with pytest.raises(DeliveryFailed, match="SMTPUTF8"):
            deliver(plain, made, 1)
        with pytest.raises(DeliveryFailed, match="8BITMIME"):
            deliver(plain, envelope(), 1, b"\xff\r\n")
        assert all(each.commands[1:] in ([], [b"QUIT"]) for each in plain.sessions)


@pytest.mark.parametrize("message", [b"", b"no end", b"a\n.\nb\r\n", b"a\rb\r\n", b"a\r\n.\n\r\n"])
def test_lines_that_smtp_cannot_carry_are_refused_unsent(server: SmtpServer, message: bytes) -> None:
    with pytest.raises(DeliveryFailed, match=r"CRLF|last line"):
        deliver(server, envelope(), 1, message)
    assert server.sessions == []


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("MAIL", "550 5.7.1 no"),
        ("RCPT", "450 4.2.0 later"),
        ("RCPT", ""),
        ("DATA", "451 no"),
        (".", "554 5.7.1 spam"),
        (".", "452 4.3.1 full"),
        ("MAIL", "353 what"),
    ],
)
def test_what_the_server_does_not_take_has_failed(server: SmtpServer, command: str, answer: str) -> None:
    server.answers[command] = answer
    with pytest.raises(DeliveryFailed, match=answer[:3] or "not taken"):
        deliver(server, envelope(), 1)
    assert server.taken == [] or command == "."


def test_silence_after_the_last_line_leaves_it_open(server: SmtpServer) -> None:
    server.answers["."] = ""
    with pytest.raises(OutcomeUnknown, match="did not say"):
        deliver(server, envelope(), 1)


def test_when_its_time_is_over_the_last_line_is_not_sent(server: SmtpServer) -> None:
    with pytest.raises(DeliveryFailed, match="took too long"):
        deliver(server, envelope(), 1, left=0.0)
    assert server.taken == []


def test_no_server_at_all() -> None:
    def refuse() -> smtplib.SMTP:
        raise ConnectionRefusedError("nobody there")

    made = envelope()
    with pytest.raises(DeliveryFailed, match="nobody there"):
        SmtpDelivery(refuse)(made, made.recipients[0], MESSAGE, lambda: LONG)


LINES = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\r", b".").replace(b"\n", b".")), min_size=1)


@settings(max_examples=30)
@given(LINES)
def test_every_message_comes_out_as_it_went_in(lines: list[bytes]) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    with SmtpServer() as server:
        deliver(server, envelope(), 1, message)
        stuffed = server.sessions[0].data.removesuffix(b".\r\n")
        heard = [line.removeprefix(b".") for line in stuffed.split(b"\r\n")]
        assert b"\r\n".join(heard) == message
