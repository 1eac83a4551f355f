"""Who is the same sender, and what a triplet is told when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.greylist.rules import (
    DEFER,
    KEY_BYTES,
    PASS,
    Triplet,
    decide,
    key_of,
    network_of,
    normal_recipient,
    normal_sender,
)
from raftcluster.greylist.settings import Settings

SENDERS = [
    ("user@example.org", b"user@example.org"),
    ("User@Example.ORG", b"user@example.org"),
    ("user@example.org.", b"user@example.org"),
    ("", b""),
    ("<>", b""),
    ("root", b"root"),
    ("Root+x", b"root+x"),
    ("<>+", b"<>+"),
    # BATV: the tag changes daily
    ("prvs=1234abcdef=user@example.org", b"user@example.org"),
    ("PRVS=9999FEDCBA=User@example.org", b"user@example.org"),
    ("msprvs1=17890hKdw0zGg=bounces-9@example.org", b"bounces-#@example.org"),
    ("btv1==012345678ab==user@example.org", b"user@example.org"),
    ("prvs=a=prvs=b=user@example.org", b"user@example.org"),
    ("prvs=1234abcdef=@example.org", b"prvs=1234abcdef=@example.org"),
    # SRS: hash and day change
    ("SRS0=HHHH=TT=example.org=user@forward.net", b"srs:example.org=user@forward.net"),
    ("SRS0+yf09=Cw=orig.example.org=alice@forward.net", b"srs:orig.example.org=alice@forward.net"),
    ("SRS0-yf09=Cw=example.org=alice+x@forward.net", b"srs:example.org=alice@forward.net"),
    ("SRS1=G7tR=first.net==HHHH=TT=example.org=user@second.net", b"srs:first.net=example.org=user@second.net"),
    ("srs0=broken@forward.net", b"srs0=broken@forward.net"),
    # VERP and sub-addresses
    ("list+user=example.net@lists.org", b"list@lists.org"),
    ("bounce-4711-user=example.net@lists.org", b"bounce-#-user=example.net@lists.org"),
    ("news_20250101_77@lists.org", b"news_#_#@lists.org"),
    ("mail2you@lists.org", b"mail2you@lists.org"),
    ("4711@qq.example", b"4711@qq.example"),
    ("+49301234@sms.example", b"+#@sms.example"),
    # strange, but with one meaning
    ('"a@b"@example.org', b'"a@b"@example.org'),
    ("a@b@example.org", b"a@b@example.org"),
    ("user@", b"user@"),
    ("@example.org", b"@example.org"),
    ("müller@Example.org", "müller@example.org".encode()),
    (b"\xff\xfe@Example.org", b"\xff\xfe@example.org"),
    ("\udcff\udcfe@example.org", b"\xff\xfe@example.org"),
    ("user@[192.0.2.1]", b"user@[192.0.2.1]"),
]

NETWORKS = [
    ("192.0.2.77", 24, 64, b"192.0.2.0/24"),
    ("192.0.2.77", 32, 64, b"192.0.2.77/32"),
    ("192.0.2.77", 8, 64, b"192.0.0.0/8"),
    ("2001:db8:1:2:3:4:5:6", 24, 64, b"2001:db8:1:2::/64"),
    ("2001:DB8:1:2::1", 24, 48, b"2001:db8:1::/48"),
    ("2001:db8::1", 24, 128, b"2001:db8::1/128"),
    ("::ffff:192.0.2.77", 24, 64, b"192.0.2.0/24"),
    ("::ffff:c000:24d", 24, 64, b"192.0.2.0/24"),
    ("fe80::1%eth0", 24, 64, b"fe80::/64"),
]


@pytest.mark.parametrize(("seen", "normal"), SENDERS)
def test_senders_normal_form(seen: str | bytes, normal: bytes) -> None:
    assert normal_sender(seen) == normal


@pytest.mark.parametrize(
    ("seen", "normal"),
    [
        ("User+Tag-12@Example.ORG.", b"user+tag-12@example.org"),
        ("postmaster", b"postmaster"),
        (b"\xc3\x28@x.org", b"\xc3\x28@x.org"),
    ],
)
def test_recipients_normal_form(seen: str | bytes, normal: bytes) -> None:
    assert normal_recipient(seen) == normal


@pytest.mark.parametrize(("client", "prefix4", "prefix6", "network"), NETWORKS)
def test_clients_network(client: str, prefix4: int, prefix6: int, network: bytes) -> None:
    assert network_of(client, prefix4, prefix6) == network


@pytest.mark.parametrize(
    "client", ["", "unknown", "192.0.2", "192.0.2.256", "192.0.2.1 ", "1.2.3.4:25", ":::", "::g", "é"]
)
def test_a_client_that_is_no_address_is_rejected(client: str) -> None:
    with pytest.raises(Rejected, match="no IP address"):
        network_of(client, 24, 64)


@pytest.mark.parametrize(
    "address",
    [
        "a\0b@example.org",
        "a\rb@example.org",
        "a\n@example.org",
        b"\x7f@example.org",
        "x" * 10_240 + "@example.org",
        "\ud800@x",
    ],
)
def test_hostile_addresses_are_rejected(address: str | bytes) -> None:
    with pytest.raises(Rejected):
        normal_sender(address)
    with pytest.raises(Rejected):
        normal_recipient(address)


def test_an_empty_recipient_is_rejected() -> None:
    with pytest.raises(Rejected, match="empty"):
        normal_recipient("")


def test_the_longest_address_is_taken() -> None:
    longest = b"x" * limits.ADDRESS_BYTES
    assert normal_sender(longest) == longest
    with pytest.raises(Rejected):
        normal_sender(longest + b"x")


ADDRESSES = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=80),
    st.lists(
        st.sampled_from(
            [
                "prvs=",
                "SRS0=",
                "srs1+",
                "btv1==",
                "=",
                "==",
                "+",
                "-",
                "_",
                "@",
                ".",
                "12",
                "a",
                "Z",
                "<>",
                "é",
                "#",
                "srs:",
            ]
        ),
        max_size=14,
    ).map("".join),
)


@given(ADDRESSES)
def test_any_bytes_have_one_normal_form_or_are_rejected(address: str | bytes) -> None:
    for normalise in (normal_sender, normal_recipient):
        try:
            normal = normalise(address)
        except Rejected:
            continue
        assert type(normal) is bytes
        assert normalise(normal) == normal
        raw = address.encode("utf-8", "surrogateescape") if isinstance(address, str) else address
        assert normalise(raw) == normal, "text and bytes of one address are one sender"


@given(st.tuples(*[st.binary(max_size=60)] * 3), st.tuples(*[st.binary(max_size=60)] * 3))
def test_packing_tells_triplets_apart(one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]) -> None:
    packed = Triplet(*one).pack()
    assert Triplet.unpack(packed) == one
    assert (Triplet(*other).pack() == packed) == (one == other)
    assert len(key_of(packed)) == KEY_BYTES


def test_keys_stay_what_they_are() -> None:
    """Records outlive versions: a changed key would make every sender a stranger."""
    packed = Triplet(b"192.0.2.0/24", b"a@example.net", b"b@example.org").pack()
    assert packed == b"\x00\x0c192.0.2.0/24\x00\x0da@example.net\x00\x0db@example.org"
    assert key_of(packed).hex() == KEY_HEX


KEY_HEX = "60f8c2d327e0326b92d55b72882a61d2"

# --- time: a record first seen at FIRST, under the default settings

WAITS = Settings().waits()
DELAY, WINDOW, LIFE = WAITS
FIRST = 1_000_000


@pytest.mark.parametrize(
    ("after", "action", "left", "delayed", "first"),
    [
        (0, DEFER, DELAY, 0, FIRST),
        (1, DEFER, DELAY - 1, 0, FIRST),
        (DELAY - 1, DEFER, 1, 0, FIRST),
        (DELAY, PASS, 0, DELAY, FIRST),
        (DELAY + 1, PASS, 0, DELAY + 1, FIRST),
        (WINDOW - 1, PASS, 0, WINDOW - 1, FIRST),
        (WINDOW, DEFER, DELAY, 0, FIRST + WINDOW),
        (WINDOW + 1, DEFER, DELAY, 0, FIRST + WINDOW + 1),
    ],
)
@pytest.mark.parametrize("null_sender", [False, True])
def test_the_wait_is_exact(after: int, action: str, left: int, delayed: int, first: int, null_sender: bool) -> None:
    now = FIRST + after
    told, began, expires, before, remaining, waited = decide(FIRST, FIRST + WINDOW, False, now, WAITS, null_sender)
    assert (told, remaining, waited, began, before) == (action, left, delayed, first, False)
    assert expires == (now + LIFE if action == PASS else first + WINDOW)


@pytest.mark.parametrize("null_sender", [False, True])
@pytest.mark.parametrize("after", [0, 1, LIFE - 1])
def test_life_counts_from_the_last_mail_but_for_the_null_sender(null_sender: bool, after: int) -> None:
    passed_at = FIRST + DELAY
    now = passed_at + after
    told, began, expires, before, _, _ = decide(FIRST, passed_at + LIFE, True, now, WAITS, null_sender)
    assert (told, began, before) == (PASS, FIRST, True)
    assert expires == (passed_at + LIFE if null_sender else now + LIFE)


def test_after_its_life_a_triplet_is_new() -> None:
    expired = FIRST + LIFE
    assert decide(FIRST, expired, True, expired - 1, WAITS, False)[0] == PASS
    assert decide(FIRST, expired, True, expired, WAITS, False) == (DEFER, expired, expired + WINDOW, False, DELAY, 0)


def test_no_record_is_an_expired_one() -> None:
    assert decide(0, 0, False, FIRST, WAITS, False) == (DEFER, FIRST, FIRST + WINDOW, False, DELAY, 0)


def test_a_shorter_life_takes_nothing_back() -> None:
    short = Settings(life=49 * 3600).waits()
    assert decide(FIRST, FIRST + LIFE, True, FIRST + DELAY, short, False)[2] == FIRST + LIFE
