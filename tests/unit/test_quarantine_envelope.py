"""What an envelope takes: anything that an SMTP connection can say in MAIL and RCPT, verbatim, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.codec import pack, unpack
from raftcluster.errors import Rejected
from raftcluster.quarantine.envelope import Envelope

GOOD = [
    b"a@example.org",
    b"Postmaster",
    b'"two words"@example.org',
    rb'"a\"<b>\\"@example.org',
    b"@relay.example,@other.example:a@example.org",
    b"a(b)c@example.org",
    "bücher@bücher.example".encode(),
    b"latin\xe9@example.org",
    b"a@[IPv6:2001:db8::1]",
    b"+=~!#$%&'*/?^_`{|}@x",
]
BAD = [
    b"",
    b"a b@example.org",
    b"<a@example.org>",
    b"a@example.org>\r\nRCPT TO:<evil@example.org",
    b"a@example.org\n",
    b"a\0@example.org",
    b"\x7f@example.org",
    b'"open@example.org',
    b'"nul\\\0"@example.org',
    b"back\\slash@example.org",
    b"a" * 10_240 + b"@example.org",
    None,
    7,
    "\ud800\ud83d",
]


@pytest.mark.parametrize("address", GOOD)
def test_what_may_be_said_is_kept_verbatim(address: bytes) -> None:
    envelope = Envelope(address)
    assert envelope.rcpt(address) == 1 and envelope.rcpt(address.decode("utf-8", "surrogateescape")) == 2
    assert [each.address for each in envelope.recipients] == [address, address] and envelope.sender == address
    again = Envelope.of(unpack(pack(envelope.values())))
    assert again.values() == envelope.values()


@pytest.mark.parametrize("address", BAD, ids=range(len(BAD)))
def test_what_cannot_be_said_is_refused_and_leaves_nothing(address: Any) -> None:
    envelope = Envelope("")
    with pytest.raises(Rejected) as caught:
        envelope.rcpt(address)
    assert caught.value.subject == "recipient" and len(str(caught.value)) < 400
    assert envelope.recipients == () and envelope.sender == b""
    if address != b"":
        with pytest.raises(Rejected):
            Envelope(address)


@pytest.mark.parametrize(
    ("parameters", "good"),
    [
        ({"orcpt": "rfc822;Bob+40example.org"}, True),
        ({"orcpt": "utf-8;bücher@example.org"}, True),
        ({"orcpt": "rfc822;bücher@example.org"}, False),
        ({"orcpt": "rfc822;a b"}, False),
        ({"orcpt": "rfc822;a+4"}, False),
        ({"orcpt": "rfc822;a=b"}, False),
        ({"orcpt": "rfc822"}, False),
        ({"orcpt": ";x"}, False),
        ({"orcpt": "rfc822;a\r\nRSET"}, False),
        ({"orcpt": "utf-8;\udcff"}, False),
        ({"orcpt": "rfc822;" + "x" * 500}, False),
        ({"notify": "never"}, True),
        ({"notify": "SUCCESS,FAILURE,DELAY"}, True),
        ({"notify": "SUCCESS,NEVER"}, False),
        ({"notify": "FAILURE,FAILURE"}, False),
        ({"notify": "FAILURE "}, False),
    ],
)
def test_parameters_of_rcpt(parameters: dict[str, str], good: bool) -> None:
    envelope = Envelope("a@example.net")
    if good:
        envelope.rcpt("b@example.org", **parameters)
        (kept,) = envelope.recipients
        assert kept.orcpt == parameters.get("orcpt", "") and kept.notify == parameters.get("notify", "").upper()
    else:
        with pytest.raises(Rejected):
            envelope.rcpt("b@example.org", **parameters)
        assert envelope.recipients == ()


@pytest.mark.parametrize("parameters", [{"ret": "ALL"}, {"envid": "a b"}, {"envid": "x" * 101}, {"envid": "a=b"}])
def test_parameters_of_mail_that_cannot_be(parameters: dict[str, str]) -> None:
    with pytest.raises(Rejected):
        Envelope("a@example.net", **parameters)  # type: ignore[arg-type]
    assert Envelope("a@example.net", ret="hdrs", envid="QQ314159").ret == "HDRS"


def test_recipients_are_bounded() -> None:
    envelope = Envelope("")
    for number in range(limits.QUARANTINE_RECIPIENTS):
        envelope.rcpt(f"r{number}@example.org")
    with pytest.raises(Rejected, match="1000 recipients"):
        envelope.rcpt("one-more@example.org")
    assert len(envelope.recipients) == limits.QUARANTINE_RECIPIENTS


@given(st.binary(max_size=40))
def test_any_bytes_are_refused_or_one_path(address: bytes) -> None:
    try:
        envelope = Envelope(address)
    except Rejected:
        return
    assert envelope.sender == address
    assert not set(address) & {0, 10, 13, 127}
    bare = b"".join(address.split(b'"')[::2]) if b"\\" not in address else b""
    assert not set(bare) & set(b" <>"), "outside of quotes nothing ends the path"


@given(st.recursive(st.none() | st.binary() | st.text() | st.booleans(), lambda deeper: st.lists(deeper, max_size=5)))
def test_values_that_are_no_envelope(values: Any) -> None:
    with suppress(Rejected):
        assert Envelope.of(values).values() == values
