"""The policy protocol's parser: any cutting gives the same requests, hostile bytes are bounded and break the connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.errors import FrameError
from raftcluster.policy.protocol import REQUEST_BYTES, Parser, response

POSTFIX = b"""request=smtpd_access_policy
protocol_state=RCPT
protocol_name=ESMTP
client_address=192.0.2.7
client_name=mail.example.net
reverse_client_name=mail.example.net
helo_name=mail.example.net
sender=
recipient=b@example.org
instance=1f2e.65a1b2c3.0
sasl_username=
size=1024
policy_context=

"""


def parse(pieces: list[bytes]) -> tuple[list[dict[str, str]], str | None]:
    """What a connection that sends `pieces` means: its requests, and the text of what broke it."""
    parser, requests = Parser(), []
    for piece in pieces:
        parser.feed(piece)
        try:
            while (request := parser.next()) is not None:
                requests.append(dict(request))
        except FrameError as error:
            return requests, error.message
    return requests, None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


def test_what_postfix_sends() -> None:
    (request,), trouble = parse([POSTFIX])
    assert trouble is None
    assert request["sender"] == "" and request["recipient"] == "b@example.org" and request["protocol_state"] == "RCPT"
    assert len(request) == 13


def test_a_connection_carries_many_requests_and_knows_when_one_is_unfinished() -> None:
    parser = Parser()
    assert not parser.unfinished
    parser.feed(POSTFIX * 3 + b"request=")
    assert [parser.next() is not None for _ in range(4)] == [True, True, True, False]
    assert parser.unfinished


line = st.builds(lambda name, value: name + b"=" + value, st.binary(max_size=6), st.binary(max_size=12))
stream = st.lists(st.one_of(line, st.just(b""), st.binary(max_size=8), st.just(POSTFIX)), max_size=12).map(b"\n".join)


@given(stream, st.lists(st.integers(0, 10_000), max_size=20))
def test_any_cutting_gives_the_same_requests(data: bytes, places: list[int]) -> None:
    whole = parse([data])
    assert parse(cut(data, places)) == whole
    assert parse([bytes([byte]) for byte in data]) == whole


names = st.text(st.characters(exclude_characters="=\n", exclude_categories=["Cs"]), min_size=1)
values = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))


@given(st.dictionaries(names, values, min_size=1), st.lists(st.integers(0, 10_000), max_size=5))
def test_every_text_value_comes_out_as_it_was_sent(attributes: dict[str, str], places: list[int]) -> None:
    data = "".join(f"{name}={value}\n" for name, value in attributes.items()).encode() + b"\n"
    assert parse(cut(data, places)) == ([attributes], None)


@given(st.binary().filter(lambda value: b"\n" not in value))
def test_any_bytes_of_a_value_give_text_that_can_be_encoded(value: bytes) -> None:
    (request,), trouble = parse([b"sender=" + value + b"\n\n"])
    assert trouble is None
    request["sender"].encode()


def test_bytes_that_are_no_utf8_are_named() -> None:
    assert parse([b"sender=\xff\xc3\xa9@x\n\n"]) == ([{"sender": "\\xffé@x"}], None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\n", "an empty request"),
        (b"GET / HTTP/1.1\r\n", "no name=value line"),
        (b"=x\n\n", "no name=value line"),
        (b"a=" + b"x" * limits.POLICY_LINE_BYTES + b"\n\n", "a line longer"),
        (b"x" * (limits.POLICY_LINE_BYTES + 1), "a line longer"),
        (b"a=b\n" * (limits.POLICY_ATTRIBUTES + 1), "attributes"),
        ((b"a=" + b"x" * 8000 + b"\n") * 9, "a request longer"),
    ],
)
def test_what_is_no_request_breaks_the_connection_after_those_before_it(data: bytes, words: str) -> None:
    requests, trouble = parse([POSTFIX + data])
    assert len(requests) == 1
    assert trouble is not None and words in trouble
    assert parse(cut(POSTFIX + data, list(range(0, 5000, 7)))) == (requests, trouble)


def test_a_broken_connection_stays_broken() -> None:
    parser = Parser()
    parser.feed(b"nonsense\n")
    for _ in range(2):
        with pytest.raises(FrameError):
            parser.next()
        parser.feed(POSTFIX)


@given(st.lists(st.binary(min_size=1, max_size=9000), max_size=40))
def test_what_is_held_is_bounded_whatever_comes(pieces: list[bytes]) -> None:
    parser = Parser()
    for piece in pieces:
        parser.feed(piece)
        try:
            while parser.next() is not None:
                pass
        except FrameError:
            assert not parser._buffer
            return
        assert len(parser._buffer) + sum(map(len, parser._attributes.values())) <= 4 * REQUEST_BYTES


def test_the_limits_themselves_are_allowed() -> None:
    longest = b"a=" + b"x" * (limits.POLICY_LINE_BYTES - 2) + b"\n"
    many = b"".join(b"n%d=\n" % n for n in range(limits.POLICY_ATTRIBUTES))
    requests, trouble = parse([longest + b"\n" + many + b"\n"])
    assert trouble is None and [len(request) for request in requests] == [1, limits.POLICY_ATTRIBUTES]


def test_a_response_is_one_line_and_an_empty_one() -> None:
    assert response("DEFER_IF_PERMIT 4.2.0 wait") == b"action=DEFER_IF_PERMIT 4.2.0 wait\n\n"


@pytest.mark.parametrize("action", ["", "DUNNO\n\naction=OK", "a\rb", "a\0b", "\ud800"])
def test_a_response_that_would_break_the_protocol_is_refused(action: str) -> None:
    with pytest.raises(ValueError):
        response(action)
