"""Golden lines: CEF, syslog and the journal's fields of an entry, whatever it holds."""

from __future__ import annotations

import re

import pytest

from raftcluster.errors import Rejected
from raftcluster.events import journald
from raftcluster.maillog import catalogue, cef, syslog
from raftcluster.maillog.address import parse
from raftcluster.maillog.cef import Device
from raftcluster.maillog.entry import Entry

DEVICE = Device("mx1.example.org", "0b9c", "mail", "c1", "0.1.0")
ENTRY = Entry(
    1_790_000_000.25,
    "Rejected",
    "192.0.2.7",
    "mx.example.net",
    "a@example.net",
    "b@example.org",
    300,
    "new",
    source="policy",
    client_name="mail.example.net",
    instance="1f.2",
    sequence=17,
)
HEAD = "CEF:0|raftcluster|raftcluster|0.1.0|greylist-rejected|Greylisting: first attempt rejected|3|"
LINE = (
    f"{HEAD}rt=1790000000250 src=192.0.2.7 shost=mx.example.net suser=a@example.net duser=b@example.org act=Rejected "
    "cat=greylisting reason=new dhost=mx1.example.org deviceExternalId=0b9c sourceServiceName=policy externalId=17 "
    "cn1=300 cn1Label=Seconds left cs1=mail cs1Label=Cluster cs2=1f.2 cs2Label=SMTP transaction "
    "cs3=mail.example.net cs3Label=Client name"
)


def unescaped(line: str) -> dict[str, str]:
    """The extension as a receiver reads it: keys and values."""
    extension = re.split(r"(?<!\\)\|", line, maxsplit=7)[7]
    found = re.findall(r"(\w+)=((?:\\.|[^=\\])*?)(?= \w+=|$)", extension)
    signs = {"n": "\n", "r": "\r"}
    return {key: re.sub(r"\\(.)", lambda m: signs.get(m[1], m[1]), value) for key, value in found}


def test_the_line_of_a_first_attempt() -> None:
    assert cef.line(ENTRY, DEVICE) == LINE


def test_the_message_has_its_number_in_both_places() -> None:
    head = '<21>1 2026-09-21T14:13:20.250000Z mx1.example.org raftcluster 4711 greylist-rejected [meta sequenceId="17"]'
    own = '[raftcluster@32473 sequence="17" node="0b9c" cluster="c1"]'
    message = syslog.message(ENTRY, DEVICE, 4711)
    assert message.decode() == f"{head}{own} {LINE}"
    assert syslog.counted(message) == b"%d " % len(message) + message


def test_numbers_begin_anew_where_the_standard_ends() -> None:
    most = syslog.SEQUENCE_MAX
    for number, told in ((most, most), (most + 1, 1), (2 * most + 5, 5)):
        message = syslog.message(ENTRY._replace(sequence=number), DEVICE, 1).decode()
        assert f'[meta sequenceId="{told}"]' in message and f'sequence="{number}"' in message


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("a=b", r"a\=b"),
        ("a|b", "a|b"),
        ("a\\b", r"a\\b"),
        ("a\nb\r\nc", r"a\nb\r\nc"),
        ("tab\there", "tab?here"),
        ("nul\0bell\7", "nul?bell?"),
        ("\x1b[31m", "?[31m"),
        ("caf\u00e9 \u4f60", "caf\u00e9 \u4f60"),
        ("\ud800", "?"),
        ("\u2028", "?"),
        (" msg=forged act=Verified", r" msg\=forged act\=Verified"),
    ],
)
def test_values_are_escaped(value: str, escaped: str) -> None:
    line = cef.line(ENTRY._replace(subject=value), DEVICE)
    assert f" msg={escaped} dhost=" in line and line.count("\n") == 0
    assert unescaped(line)["act"] == "Rejected"
    if "?" not in escaped:
        assert unescaped(line)["msg"] == value


@pytest.mark.parametrize(("name", "escaped"), [("a|b", r"a\|b"), ("a\\b", r"a\\b"), ("a\nb", "a b"), ("a=b", "a=b")])
def test_the_header_is_escaped_otherwise(name: str, escaped: str) -> None:
    line = cef.line(ENTRY, DEVICE._replace(version=name))
    assert line.startswith(f"CEF:0|raftcluster|raftcluster|{escaped}|greylist-rejected|")


@pytest.mark.parametrize(
    ("entry", "id", "priority"),
    [
        (ENTRY._replace(action="Rejected (not verified)"), "greylist-not-verified", 21),
        (ENTRY._replace(action="Verified"), "greylist-verified", 22),
        (ENTRY._replace(action="Passed"), "greylist-passed", 22),
        (ENTRY._replace(action="Deleted", category="antispam"), "mail-protection", 21),
        (ENTRY._replace(action="Rejected", category="antispam"), "mail-protection", 21),
        (Entry(1.0, "Dropped", category="log", lost=9, sequence=40), "log-dropped", 20),
    ],
)
def test_each_kind_has_its_signature(entry: Entry, id: str, priority: int) -> None:
    message = syslog.message(entry, DEVICE, 1).decode()
    assert message.startswith(f"<{priority}>1 ") and f" {id} [meta" in message and f"|{id}|" in message


def test_what_says_nothing_is_left_out_but_a_null_sender_says_something() -> None:
    keys = unescaped(cef.line(ENTRY._replace(sender="", helo="", seconds_left=0), DEVICE))
    assert keys["suser"] == "<>" and "shost" not in keys and "cn1" not in keys and "cn1Label" not in keys
    assert "suser" not in unescaped(cef.line(ENTRY._replace(sender="", category="antispam"), DEVICE))


def test_every_key_is_documented() -> None:
    full = Entry(
        *(1.0, "Dropped", "2001:db8::1", "h", "s", "r", 1, "x", "log", "s", "n", "i", "m", "t"), True, 1, sequence=1
    )
    keys = [key for key in unescaped(cef.line(full, DEVICE)) if not key.endswith("Label") and key != "c6a2"]
    assert sorted(keys) == sorted(cef.KEYS)
    assert unescaped(cef.line(full, DEVICE))["c6a2"] == "2001:db8::1"


def test_a_message_of_the_longest_values_is_one_that_receivers_take() -> None:
    worst = "=\\" * 1_000
    entry = Entry(1.0, worst, worst, worst, worst, worst, 1, worst, worst, worst, worst, worst, worst, worst, True)
    message = syslog.message(entry, DEVICE, 1)
    assert len(message) < 8_192
    usual = "\u4f60" * 1_000
    entry = ENTRY._replace(sender=usual, recipient=usual, helo=usual, subject=usual, message_id=usual)
    assert len(syslog.message(entry, DEVICE, 1)) < 8_192


def test_a_name_that_is_no_host_is_no_header() -> None:
    message = syslog.message(ENTRY, DEVICE._replace(node="m x\u00fc1"), 1).decode()
    assert " mx1 raftcluster 1 " in message
    assert " - raftcluster 1 " in syslog.message(ENTRY, DEVICE._replace(node="\u00fc"), 1).decode()


def test_an_entry_in_the_journal_has_its_kinds_id_and_fields() -> None:
    event = catalogue.event(ENTRY, DEVICE)
    assert event.message == ("Rejected: 192.0.2.7 (mx.example.net) from <a@example.net> to <b@example.org>, new")
    datagram = journald.datagram(event)
    kind = catalogue.KINDS["greylisting", "Rejected"].id.replace("-", "")
    assert f"MESSAGE_ID={kind}\n".encode() in datagram and b"RAFTCLUSTER_SEQUENCE=17\n" in datagram
    assert b"RAFTCLUSTER_FIELD_RECIPIENT=b@example.org\n" in datagram
    lost = catalogue.event(Entry(1.0, "Dropped", category="log", lost=9, reason="disk"), DEVICE)
    assert lost.message == "9 entries of the mail log are missing: disk" and lost.kind.severity == "warning"
    assert catalogue.event(ENTRY._replace(category="antispam"), DEVICE).message.startswith("antispam: Rejected: ")


def test_the_ids_of_the_catalogue_are_unique() -> None:
    kinds = [*catalogue.KINDS.values(), catalogue.OTHER]
    assert len({each.id for each in kinds}) == len({each.name for each in kinds}) == len(kinds)
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", each.id) for each in kinds)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("udp://siem.example.org", ("udp", ("siem.example.org", 514))),
        ("tcp://192.0.2.1:10514", ("tcp", ("192.0.2.1", 10514))),
        ("tls://[2001:db8::1]", ("tls", ("2001:db8::1", 6514))),
        ("system", ("system", ("", 0))),
    ],
)
def test_addresses_of_receivers(text: str, found: tuple[str, tuple[str, int]]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "siem",
        "http://siem",
        "udp://",
        "tcp://h:0",
        "tcp://h:99999",
        "tcp://h:x",
        "tcp://u@h",
        "tls://h/x",
        "udp://[",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="udp://HOST"):
        parse(text)
