"""Lists of who is never greylisted, who always is, and for whom: entries, who decides, and what checks make of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster.errors import RaftclusterError, Rejected, Unavailable
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists import machine as machine_of_lists
from raftcluster.greylist.lists.book import Book
from raftcluster.greylist.lists.judging import judge
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.lists.rules import EFFECTS, KINDS, OPTS, Entry, Question, normal_pattern
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.greylist.rules import normal_recipient, normal_sender
from tests.local_host import LocalHost

MAIL: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@mail.example.net", "recipient": "b+x@example.org"}
NAME = "mx.example.net"
DELAY_MS = 180_000

PATTERNS = [
    ("client", "192.0.2.7", "192.0.2.7/32"),
    ("client", "192.0.2.0/24", "192.0.2.0/24"),
    ("client", "::ffff:192.0.2.0/120", "192.0.2.0/24"),
    ("client", "2001:DB8::/32", "2001:db8::/32"),
    ("client", "fe80::1%two\nlines", "fe80::1/128"),
    ("client-name", "*.Example.ORG.", "example.org"),
    ("client-name", ".example.org", "example.org"),
    ("sender", "", "<>"),
    ("sender", "<>", "<>"),
    ("sender", "prvs=1234=User+tag@Example.org.", "user@example.org"),
    ("sender-domain", "Example.org", "example.org"),
    ("recipient", "User+Tag@Example.org", "user+tag@example.org"),
    ("recipient", " user@example.org ", "user@example.org"),
    ("recipient-domain", "müller.example", "müller.example"),
]

WRONG = [
    ("client", "192.0.2.1/24", "did you mean 192.0.2.0/24"),
    ("client", "0.0.0.0/0", "everybody"),
    ("client", "192.0.2.0/33", "no address and no network"),
    ("client", "192.0.2.0/x", "no prefix length"),
    ("client", "example.org", "no address"),
    ("client-name", "mail*.example.org", "no domain has"),
    ("client-name", "a@example.org", "is an address"),
    ("sender", "example.org", "sender-domain"),
    ("sender", "*@example.org", "sender-domain"),
    ("sender", "a@*.example.org", "is no address"),
    ("recipient", "a@.example.org", "is no address"),
    ("recipient", "a@ example.org", "is no address"),
    ("sender", "a\n@example.org", "control"),
    ("sender", "a" * 10_240 + "@example.org", "more than"),
    ("sender-domain", "a@example.org", "for one address there is sender"),
    ("sender-domain", "a..b", "empty label"),
    ("sender-domain", "", "empty label"),
    ("sender-domain", "x" * 64 + ".org", "more than 63"),
    ("sender-domain", "exa mple.org", "no domain has"),
    ("recipient", "\ud800@example.org", "no valid text"),
    ("recipient", 7, "no text"),
]


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([GreylistMachine(), ListsMachine()])


@pytest.fixture
def greylist(host: LocalHost) -> Greylist:
    return Greylist(host)


def reason(greylist: Greylist, **mail: Any) -> str:
    """Why it passes, or that it waits."""
    verdict = greylist.check(**{**MAIL, "client_name": NAME, **mail})
    return "waits" if verdict.action == "defer" else verdict.reason


@pytest.mark.parametrize(("kind", "written", "kept"), PATTERNS)
def test_a_pattern_is_kept_in_its_normal_form(kind: str, written: str, kept: str) -> None:
    assert normal_pattern(kind, written) == kept
    assert normal_pattern(kind, kept) == kept


@pytest.mark.parametrize(("kind", "pattern", "said"), WRONG)
def test_a_pattern_that_could_never_match_is_refused_saying_what_to_write(
    host: LocalHost, greylist: Greylist, kind: str, pattern: Any, said: str
) -> None:
    with pytest.raises(Rejected) as caught:
        greylist.lists.add("allow", kind, pattern)
    assert said in f"{caught.value}"
    assert host.proposals == 0


# Each kind, as an entry that matches MAIL and one that nearly does.
KINDS_OF_ENTRIES = [
    ("client", "192.0.2.0/28", "192.0.2.8/29"),
    ("client-name", "example.net", "x.mx.example.net"),
    ("sender", "a@mail.example.net", "a@example.net"),
    ("sender-domain", "example.net", "ample.net"),
    ("recipient", "b@example.org", "b+y@example.org"),
    ("recipient-domain", "org", "mx.example.org"),
]


@pytest.mark.parametrize(("kind", "matching", "near"), KINDS_OF_ENTRIES)
def test_every_kind_allows_and_always_greylists(
    host: LocalHost, greylist: Greylist, kind: str, matching: str, near: str
) -> None:
    greylist.lists.add("allow", kind, near)
    assert reason(greylist) == "waits"
    greylist.lists.add("allow", kind, matching)
    assert reason(greylist) == "allowed"
    assert greylist.stats()["exempt"] == {"allowed": 1}
    with pytest.raises(Rejected, match="there is an entry: allow") as caught:
        greylist.lists.add("greylist", kind, matching)
    assert caught.value.code == "entry-exists"
    greylist.lists.add("greylist", kind, matching, replace=True)
    assert reason(greylist, spf_pass=True) == "waits"
    greylist.lists.remove("greylist", kind, matching)
    assert reason(greylist, spf_pass=True) == "spf"
    with pytest.raises(Rejected, match="there is no rule entry"):
        greylist.lists.remove("greylist", kind, matching)


@pytest.mark.parametrize("how", ["check", "acheck", "submit"])
def test_all_three_ways_of_asking_obey_the_lists(host: LocalHost, greylist: Greylist, how: str) -> None:
    greylist.lists.add("allow", "sender-domain", "example.net")
    before = host.proposals
    if how == "submit":
        answers: list[Any] = []
        greylist.submit(lambda verdict, error: answers.append(verdict), **MAIL)
        (verdict,) = answers
    else:
        verdict = greylist.check(**MAIL) if how == "check" else asyncio.run(greylist.acheck(**MAIL))
    assert (verdict.action, verdict.reason, verdict.header, verdict.degraded) == ("pass", "allowed", None, False)
    assert host.proposals == before, "what is exempt becomes no command"


def test_a_client_name_that_is_no_text_matches_nothing(greylist: Greylist) -> None:
    greylist.lists.add("allow", "client-name", "example.net")
    assert reason(greylist, client_name="\ud800") == "waits"
    assert greylist.lists.test(**MAIL, client_name="\ud800")["rule"] == ""


def test_always_greylisting_goes_before_allowing_but_the_more_specific_of_a_kind_goes_first(greylist: Greylist) -> None:
    greylist.lists.add("allow", "client", "192.0.2.7")
    greylist.lists.add("greylist", "sender-domain", "example.net")
    assert reason(greylist) == "waits"
    greylist.lists.add("allow", "sender", MAIL["sender"])
    assert reason(greylist) == "allowed"
    greylist.lists.add("greylist", "client", "192.0.2.0/24")
    assert reason(greylist) == "allowed"
    assert reason(greylist, client="192.0.2.9") == "waits"


def test_recipients_opt_out_and_in(greylist: Greylist) -> None:
    greylist.lists.add("greylist", "client", "192.0.2.7")
    greylist.lists.add("opt-out", "recipient-domain", "example.org")
    assert reason(greylist) == "opted-out"
    greylist.lists.add("opt-in", "recipient", "b@example.org")
    assert reason(greylist) == "waits"
    assert reason(greylist, recipient="c@example.org") == "opted-out"
    greylist.configure({"recipients": "opted-in"})
    assert reason(greylist) == "waits"
    assert reason(greylist, recipient="c@example.com") == "not-opted-in"
    greylist.lists.remove("opt-out", "recipient-domain", "example.org")
    assert reason(greylist, recipient="c@example.org") == "not-opted-in"
    with pytest.raises(Rejected, match="about recipients"):
        greylist.lists.add("opt-out", "sender", "a@example.net")


def test_an_authenticated_client_waits_for_nothing(greylist: Greylist) -> None:
    greylist.lists.add("greylist", "client", "192.0.2.7")
    assert reason(greylist, authenticated=True) == "authenticated"
    assert reason(greylist) == "waits"


def test_whether_spf_counts_is_a_setting(greylist: Greylist) -> None:
    assert reason(greylist, spf_pass=True) == "spf"
    greylist.configure({"skip_spf": False})
    assert reason(greylist) == "waits"
    assert reason(greylist, spf_pass=True) == "waits"


def test_without_the_cluster_the_lists_still_hold(host: LocalHost, greylist: Greylist) -> None:
    greylist.lists.add("allow", "client", "192.0.2.7")
    host.failure = Unavailable("no quorum")
    assert greylist.check(**MAIL).degraded is False


def test_another_nodes_change_is_seen_when_it_is_applied(host: LocalHost, greylist: Greylist) -> None:
    other = Greylist(host)
    assert reason(other) == "waits"
    greylist.lists.add("allow", "client", "192.0.2.7")
    assert reason(other) == "allowed"


def test_an_entry_ends_when_its_time_is_over(
    host: LocalHost, greylist: Greylist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftcluster.greylist.lists.api.CLOCK_SECONDS", 0.0)
    greylist.lists.add("allow", "client", "192.0.2.7", lifetime=60, comment="only now")
    host.now += 59_999
    assert reason(greylist) == "allowed"
    host.now += 1
    assert reason(greylist) == "waits"
    (shown,) = greylist.lists.show()["entries"]
    assert (shown["expired"], shown["comment"]) == (True, "only now")
    with pytest.raises(Rejected, match="no rule entry"):
        greylist.lists.remove("allow", "client", "192.0.2.7")
    greylist.lists.add("greylist", "client", "192.0.2.7")  # takes the place of what has expired
    assert [each["effect"] for each in greylist.lists.show()["entries"]] == ["greylist"]


@pytest.mark.parametrize("lifetime", [0, -1, "x", True, float("nan"), 1e12])
def test_a_lifetime_is_a_number_of_seconds(greylist: Greylist, lifetime: Any) -> None:
    with pytest.raises(Rejected, match="lives above 0"):
        greylist.lists.add("allow", "client", "192.0.2.7", lifetime=lifetime)


def test_many_entries_are_added_together_or_not_at_all(host: LocalHost, greylist: Greylist) -> None:
    good = [{"effect": "allow", "kind": "sender-domain", "pattern": f"d{n}.example"} for n in range(500)]
    assert greylist.lists.add_all(good, author="admin") == 1
    assert host.proposals == 1
    with pytest.raises(Rejected, match="there is an entry"):
        greylist.lists.add_all([{"effect": "allow", "kind": "client", "pattern": "192.0.2.7"}, good[7]])
    assert len(greylist.lists.show()["entries"]) == 500
    for wrong in ([], [*good, *good], [{"effect": "allow"}], [{**good[0], "why": "x"}]):
        with pytest.raises(Rejected):
            greylist.lists.add_all(wrong, replace=True)
    first = greylist.lists.show(limit=300)
    second = greylist.lists.show(after=first["next"], limit=300)
    assert (len(first["entries"]), len(second["entries"]), second["next"]) == (300, 200, "")
    assert greylist.lists.revision() == 1


def test_the_lists_are_bounded_and_what_has_expired_makes_room(
    host: LocalHost, greylist: Greylist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_of_lists, "ENTRIES_MAX", 10)
    for number in range(10):
        greylist.lists.add("allow", "client", f"192.0.2.{number}", lifetime=60 if number < 4 else None)
    with pytest.raises(Rejected, match="take 10 entries"):
        greylist.lists.add("allow", "client", "198.51.100.1")
    host.now += 60_000
    for number in range(4):
        greylist.lists.add("allow", "client", f"198.51.100.{number}")
    with pytest.raises(Rejected, match="take 10 entries"):
        greylist.lists.add("allow", "client", "198.51.100.99")


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["add"],
        ["add", [], "", "", "", False],
        ["add", [["allow", "client", "192.0.2.1/24", "", None]], "", "", "", False],
        ["add", [["allow", "client", "192.0.2.7", "", None]], "", "", "", False],
        ["add", [["allow", "client", "192.0.2.7/32", "two\nlines", None]], "", "", "", False],
        ["add", [["allow", "client", "192.0.2.7/32", "", 1.5]], "", "", "", False],
        ["add", [["allow", "client", "192.0.2.7/32", "", None]], 7, "", "", False],
        ["add", [["deny", "client", "192.0.2.7/32", "", None]], "", "", "", False],
        ["add", [["allow", ["client"], "192.0.2.7/32", "", None]], "", "", "", False],
        ["add", [["allow", "client", "192.0.2.7/32"]], "", "", "", False],
        ["remove", [["rule", "client", 7]], "", "", ""],
        ["remove", [["rule", "client", "x" * 10_000]], "", "", ""],
        ["remove", [["no", "such", "entry"]], "", "", ""],
        b"bytes",
    ],
)
def test_a_hostile_command_is_rejected_and_changes_nothing(host: LocalHost, command: Any) -> None:
    with pytest.raises(Rejected):
        host.propose("lists", command)
    assert host.tables["lists"].image() == LocalHost([ListsMachine()]).tables["lists"].image()


@pytest.mark.parametrize("sign", ["\u0378", "\U0001fae8", "\U000323b0"], ids=["none", "Unicode 15", "Unicode 17"])
def test_what_is_printable_does_not_depend_on_the_unicode_that_a_nodes_python_knows(host: LocalHost, sign: str) -> None:
    item = ["allow", "sender-domain", f"{sign}.org", f"why {sign}", None]
    assert host.propose("lists", ["add", [item], sign, sign, sign, False]) == 1


@pytest.mark.parametrize("sign", ["\n", "\x1b", "\x85", "\u2028", "\u202e", "\u200b", "\ufeff", "\U000e0041"])
def test_what_is_not_seen_or_turns_a_line_about_is_refused(host: LocalHost, sign: str) -> None:
    for pattern, comment in ((f"x{sign}y.org", ""), ("x.org", f"x{sign}y")):
        with pytest.raises(Rejected):
            host.propose("lists", ["add", [["allow", "sender-domain", pattern, comment, None]], "", "", "", False])


def test_every_row_that_is_written_is_found_sound_and_a_damaged_one_is_not(host: LocalHost, greylist: Greylist) -> None:
    for kind, pattern, _ in PATTERNS:
        greylist.lists.add("allow", kind, pattern, replace=True, lifetime=60, author="root")
    machine = ListsMachine()
    for table, rows in host.tables["lists"].rows.items():
        for key, row in rows.items():
            machine.inspect(table, key, row)
            with pytest.raises((ValueError, RaftclusterError)):
                machine.inspect(table, key + b"/", row[:-1])


@pytest.mark.parametrize(("kind", "pattern"), [("sender", "a@*.example.org"), ("client", "fe80::1%a/128")])
def test_an_entry_that_only_an_earlier_version_took_is_sound_and_can_be_removed(
    host: LocalHost, greylist: Greylist, kind: str, pattern: str
) -> None:
    greylist.lists.add("allow", "sender", "b@example.org")
    rows = host.tables["lists"].rows[machine_of_lists.ENTRIES]
    ((key, row),) = rows.items()
    rows[old := key.replace(b"sender/b@example.org", f"{kind}/{pattern}".encode())] = row
    ListsMachine().inspect(machine_of_lists.ENTRIES, old, row)
    greylist.lists.remove("allow", kind, pattern)
    assert list(rows) == [key]


# --- test: what decides, and why nothing else does


def test_the_test_says_which_entry_decides_and_why_the_others_do_not(greylist: Greylist) -> None:
    greylist.lists.add("allow", "client", "192.0.2.0/24")
    greylist.lists.add("allow", "client", "192.0.2.7")
    greylist.lists.add("greylist", "sender-domain", "example.net")
    greylist.lists.add("allow", "sender", "c@mail.example.net")
    greylist.lists.add("allow", "client-name", "example.net")
    greylist.lists.add("allow", "recipient-domain", "a.example.org")
    greylist.lists.add("allow", "client", "2001:db8::/32")
    told = greylist.lists.test(**MAIL)
    assert told["rule"] == "listed"
    why = {(each["kind"], each["pattern"]): (each["matches"], each["why"]) for each in told["entries"]}
    assert why == {
        ("sender-domain", "example.net"): (True, "it decides"),
        ("client", "192.0.2.0/24"): (True, "greylist sender-domain example.net goes before what allows"),
        ("client", "192.0.2.7/32"): (True, "greylist sender-domain example.net goes before what allows"),
        ("sender", "c@mail.example.net"): (False, "the sender is a@mail.example.net"),
        ("client-name", "example.net"): (False, "the client has no verified name"),
        ("recipient-domain", "a.example.org"): (False, "example.org is above a.example.org, not below it"),
        ("client", "2001:db8::/32"): (False, "the client's address is IPv4"),
    }
    assert [each["decides"] for each in told["entries"]] == [True] + 6 * [False]


LABELS = st.sampled_from(["a", "b", "org"])
DOMAINS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
ADDRESSES = st.builds("{}@{}".format, st.sampled_from(["u", "u+x", "v", "bounce-12"]), DOMAINS)
CLIENTS = st.sampled_from(["192.0.2.7", "192.0.3.1", "::ffff:192.0.2.7", "2001:db8::7", "2001:db9::1"])
NETWORKS = st.sampled_from(["192.0.2.0/24", "192.0.0.0/16", "192.0.2.7", "2001:db8::/32", "2001:db8::/64", "2000::/3"])
PATTERNS_OF = {
    "client": NETWORKS,
    "client-name": DOMAINS,
    "sender": st.one_of(ADDRESSES, st.just("<>")),
    "sender-domain": DOMAINS,
    "recipient": ADDRESSES,
    "recipient-domain": DOMAINS,
}


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    found = {}
    for _ in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from(KINDS))
        effect = draw(st.sampled_from([e for e in EFFECTS if kind.startswith("recipient") or e not in OPTS]))
        pattern = normal_pattern(kind, draw(PATTERNS_OF[kind]))
        expires = draw(st.sampled_from([None, None, 5, 15]))
        entry = Entry(effect, kind, pattern, "", "", "", 0, expires)
        found[entry.list, kind, pattern] = entry
    return list(found.values())


@given(entries(), CLIENTS, st.one_of(st.just(""), DOMAINS), st.one_of(st.just(""), ADDRESSES), ADDRESSES, st.booleans())
def test_the_index_and_the_explanation_agree(
    kept: list[Entry], client: str, name: str, sender: str, recipient: str, opted_in_only: bool
) -> None:
    question = Question(client, name, normal_sender(sender), normal_recipient(recipient))
    ruling = Book(kept, 10).rule(question, opted_in_only)
    judged = [judge(entry, question, ruling, 10) for entry in kept]
    assert [each.entry for each in judged if each.decides] == ([] if ruling.entry is None else [ruling.entry])
    assert all(each.why for each in judged)
    matching = [each.entry for each in judged if each.matches]
    opts = [entry for entry in matching if entry.list == "opt"]
    rules = [entry for entry in matching if entry.list == "rule"]
    if ruling.rule == "":
        assert not rules
        assert not opted_in_only or opts
    elif ruling.rule in ("allowed", "listed"):
        assert ruling.entry in rules
    elif ruling.rule == "opted-out":
        assert ruling.entry in opts
    else:
        assert opted_in_only and not opts
