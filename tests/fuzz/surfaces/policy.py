"""What a policy client sends: the protocol, the question in it, the greylist's answer, and the line that Postfix gets."""

from __future__ import annotations

from collections.abc import Iterable

from raftcluster import limits
from raftcluster.errors import FrameError, RaftclusterError, Rejected
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.greylist.verdict import Verdict
from raftcluster.policy.decision import action, question
from raftcluster.policy.protocol import REQUEST_BYTES, Attributes, Parser, response
from tests.fuzz.source import Source
from tests.local_host import LocalHost

RCPT = b"request=smtpd_access_policy\nprotocol_state=RCPT\n"


def seeds() -> Iterable[bytes]:
    for client, sender, recipient in (
        (b"192.0.2.7", b"prvs=1234abcdef=user@example.org", b"a@b"),
        (b"2001:db8::7%eth0", b"SRS0=hash=day=dom=user@fwd", b"list+user=dom@d"),
        (b"::ffff:192.0.2.7", b"<>", b"\xff\xfe@b"),
        (b"unknown", b"bounce-4711-user@d", b"x" * 100 + b"@b\x00"),
        (b"1.2.3", b"srs1=h=fwd1==h=d=dom=user@x", b""),
    ):
        yield (
            b"\x05"
            + RCPT
            + b"client_address=%s\nsender=%s\nrecipient=%s\ninstance=a.1\n\n" % (client, sender, recipient)
        )
    yield b"\x00request=junk\n\n\n\n=\n\n"
    yield b"\x02" + b"a=b\n" * 110 + b"\n"


def run(data: bytes) -> None:
    """However the bytes are cut: the same requests, or the same disconnection; and one answer to each request."""
    source = Source(data)
    step = 1 + source.byte()
    body = source.rest()
    whole, trouble = _parse([body])
    cut, trouble_cut = _parse([body[at : at + step] for at in range(0, len(body), step)])
    assert (whole, trouble) == (cut, trouble_cut)
    greylist = Greylist(LocalHost([GreylistMachine(), ListsMachine()]))
    for attributes in whole:
        _answer(greylist, attributes)


def _answer(greylist: Greylist, attributes: Attributes) -> None:
    asked = question(attributes)
    if asked is None:
        return
    answers: list[tuple[Verdict | None, RaftclusterError | None]] = []
    try:
        greylist.submit(
            lambda verdict, error: answers.append((verdict, error)),
            client=asked.client,
            sender=asked.sender,
            recipient=asked.recipient,
            instance=asked.instance,
        )
    except Rejected:
        return
    ((verdict, error),) = answers
    assert verdict is not None and error is None
    line = response(action(verdict))
    assert line.endswith(b"\n\n") and line.count(b"\n") == 2


def _parse(pieces: Iterable[bytes]) -> tuple[list[Attributes], str]:
    parser, found = Parser(), list[Attributes]()
    try:
        for piece in pieces:
            parser.feed(piece)
            while (attributes := parser.next()) is not None:
                assert attributes and "" not in attributes and len(attributes) <= limits.POLICY_ATTRIBUTES
                found.append(attributes)
            assert len(parser._buffer) <= REQUEST_BYTES
    except FrameError as error:
        return found, str(error)
    return found, ""
