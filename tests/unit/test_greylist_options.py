"""What users of greylisters expect: one row per option, set as an administrator sets it, seen in what checks are told.

A row is a story: steps that are done one after the other, and what each check is told.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from raftcluster.greylist import hints
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine, read_record_count
from tests.local_host import LocalHost, MemoryRows

SECOND: Final = 1
DAY: Final = 86_400
MAIL: Final[dict[str, Any]] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}

Step = tuple[str, Any, str]


def after(seconds: float, told: str, **mail: Any) -> Step:
    """So many seconds later a mail comes, and this is what it is told: the action and the reason."""
    return "mail", (seconds, mail), told


def mail(told: str, **changes: Any) -> Step:
    """A mail comes."""
    return after(0, told, **changes)


def settings(**changes: Any) -> Step:
    """The administrator changes settings."""
    return "settings", changes, ""


def entry(*words: str) -> Step:
    """The administrator adds an entry to the lists."""
    return "entry", words, ""


NEW, EARLY = "defer new", "defer early"
WAITED, KNOWN = "pass waited", "pass known"


def earned(passes: int, apart: int = 3600) -> list[Step]:
    """So many new senders of the client wait and pass, so many seconds after each other."""
    steps: list[Step] = []
    for number in range(passes):
        sender = f"earner{number}x@example.net"
        steps += [after(apart - 180, NEW, sender=sender), after(180, WAITED, sender=sender)]
    return steps


ROWS: Final[dict[str, list[Step]]] = {
    "delay, by default 180 s": [mail(NEW), after(179, EARLY), after(1, WAITED), mail(KNOWN)],
    "delay, set": [settings(delay=300), mail(NEW), after(299, EARLY), after(1, WAITED)],
    "retry window, by default 48 h": [mail(NEW), after(2 * DAY - SECOND, WAITED)],
    "retry window, over": [mail(NEW), after(2 * DAY, NEW)],
    "retry window, set": [settings(window=3600), mail(NEW), after(3600, NEW), after(3599, WAITED)],
    "life, by default 36 d since last seen": [
        mail(NEW),
        after(180, WAITED),
        after(36 * DAY - SECOND, KNOWN),
        after(36 * DAY - SECOND, KNOWN),
        after(36 * DAY, NEW),
    ],
    "life, of the null sender not extended": [
        mail(NEW, sender=""),
        after(180, WAITED, sender="<>"),
        after(36 * DAY - SECOND, KNOWN, sender=""),
        after(SECOND, NEW, sender=""),
    ],
    "life, set": [settings(life=3 * DAY), mail(NEW), after(180, WAITED), after(3 * DAY, NEW)],
    "networks, by default /24": [mail(NEW), after(180, WAITED, client="192.0.2.200"), mail(NEW, client="192.0.3.7")],
    "networks, by default /64": [
        mail(NEW, client="2001:db8:0:1::1"),
        after(180, WAITED, client="2001:db8:0:1:ffff::1"),
        mail(NEW, client="2001:db8:0:2::1"),
    ],
    "networks, set": [
        settings(network4=32, network6=48),
        mail(NEW),
        mail(NEW, client="2001:db8:0:1::1"),
        after(180, NEW, client="192.0.2.8"),
        mail(WAITED),
        mail(WAITED, client="2001:db8:0:2::1"),
    ],
    "networks, IPv4 mapped into IPv6": [mail(NEW), after(180, WAITED, client="::ffff:192.0.2.9")],
    "key: net, sender, recipient": [
        mail(NEW),
        after(180, NEW, recipient="c@example.org"),
        mail(NEW, sender="c@example.net"),
        mail(NEW, client="198.51.100.1"),
        mail(WAITED),
    ],
    "client auto-allow: 5 passes": [
        *earned(5),
        mail("pass client", sender="x@example.com"),
        mail(NEW, client="192.0.3.7"),
    ],
    "client auto-allow: not after 4": [*earned(4), mail(NEW, sender="x@example.com")],
    "client auto-allow: at most one an hour": [*earned(6, apart=1800), mail(NEW, sender="x@example.com")],
    "client auto-allow, set": [settings(auto_allow=1), *earned(1), mail("pass client", sender="x@example.com")],
    "client auto-allow, off": [settings(auto_allow=0), *earned(6), mail(NEW, sender="x@example.com")],
    "sender normalisation: BATV": [
        mail(NEW, sender="prvs=0001aaaaaa=a@example.net"),
        after(180, WAITED, sender="prvs=0002bbbbbb=a@example.net"),
        mail(KNOWN),
    ],
    "sender normalisation: SRS0": [
        mail(NEW, sender="SRS0=HHHH=TT=example.com=a@forward.example"),
        after(180, WAITED, sender="SRS0=KKKK=UU=example.com=a@forward.example"),
        mail(NEW, sender="SRS0=KKKK=UU=example.com=z@forward.example"),
    ],
    "sender normalisation: SRS1": [
        mail(NEW, sender="SRS1=HHHH=one.example==KKKK=TT=example.com=a@two.example"),
        after(180, WAITED, sender="SRS1=LLLL=one.example==MMMM=UU=example.com=a@two.example"),
    ],
    "sender normalisation: VERP": [
        mail(NEW, sender="bounce-4711-b@lists.example"),
        after(180, WAITED, sender="bounce-4712-b@lists.example"),
    ],
    "sender normalisation: +ext": [mail(NEW, sender="a+1@example.net"), after(180, WAITED, sender="a+2@example.net")],
    "lists: client CIDR": [
        entry("allow", "client", "192.0.2.0/28"),
        mail("pass allowed"),
        mail(NEW, client="192.0.2.16"),
    ],
    "lists: client name suffix": [
        entry("allow", "client-name", "example.net"),
        mail("pass allowed", client_name="mx.example.net"),
        mail(NEW, client_name="mx.badexample.net"),
        mail(NEW, client_name="unknown"),
    ],
    "lists: sender": [
        entry("allow", "sender", "a@example.net"),
        mail("pass allowed"),
        mail(NEW, sender="c@example.net"),
    ],
    "lists: sender domain": [
        entry("allow", "sender-domain", "example.net"),
        mail("pass allowed", sender="x@sub.example.net"),
        mail(NEW, sender="x@ample.net"),
    ],
    "lists: recipient": [
        entry("allow", "recipient", "b@example.org"),
        mail("pass allowed", recipient="b+x@example.org"),
        mail(NEW, recipient="c@example.org"),
    ],
    "lists: recipient domain": [entry("allow", "recipient-domain", "example.org"), mail("pass allowed")],
    "lists: always greylist": [
        entry("greylist", "sender-domain", "example.net"),
        entry("allow", "client", "192.0.2.7"),
        mail(NEW, spf_pass=True),
        mail("pass allowed", sender="a@example.com"),
    ],
    "skip when: authenticated": [mail("pass authenticated", authenticated=True), mail(NEW)],
    "skip when: SPF pass": [mail("pass spf", spf_pass=True), mail(NEW)],
    "skip when: SPF pass, switched off": [settings(skip_spf=False), mail(NEW), mail(NEW, spf_pass=True)],
    "opt-out: a domain out, a recipient of it in": [
        entry("opt-out", "recipient-domain", "example.org"),
        entry("opt-in", "recipient", "b@example.org"),
        mail(NEW),
        mail("pass opted-out", recipient="c@example.org"),
    ],
    "opt-in: only who asked for it": [
        settings(recipients="opted-in"),
        entry("opt-in", "recipient-domain", "example.org"),
        mail(NEW),
        mail("pass not-opted-in", recipient="c@example.com"),
    ],
    "dry run: training mode": [
        settings(training=True),
        mail("pass new"),
        after(179, "pass early"),
        after(1, WAITED),
        settings(training=False),
        mail(KNOWN),
        mail(NEW, sender="c@example.net"),
    ],
    "privacy: hashed keys": [settings(privacy=True), mail(NEW), after(180, WAITED)],
}


@pytest.mark.parametrize("option", ROWS)
def test_option(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        hints, "LOOK_SECONDS", 0.0
    )  # the node looks after each answer, where a real one does once a second
    host = LocalHost([GreylistMachine(), ListsMachine()])
    play(host, Greylist(host), option)


@pytest.mark.parametrize("option", ROWS)
def test_option_on_a_table_of_the_nodes_own(option: str) -> None:
    host = LocalHost([GreylistMachine(), ListsMachine()])
    greylist = Greylist(host, MemoryRows())
    greylist.configure({"replicate": False})
    play(host, greylist, option)
    greylist.close()
    assert read_record_count(host.tables["greylist"]) == 0


def play(host: LocalHost, greylist: Greylist, option: str) -> None:
    for number, (what, given, told) in enumerate(ROWS[option]):
        if what == "settings":
            greylist.configure(given)
        elif what == "entry":
            greylist.lists.add(*given)
        else:
            seconds, changes = given
            host.now += round(seconds * 1000)
            verdict = greylist.check(**{**MAIL, **changes})
            assert f"{verdict.action} {verdict.reason}" == told, f"step {number + 1}"


def test_reply_and_header_say_what_was_set_once_per_message() -> None:
    host = LocalHost([GreylistMachine(), ListsMachine()])
    greylist = Greylist(host)
    assert greylist.check(**MAIL).text == "Greylisted, retry in 180 s"
    greylist.configure({"text": "Come back in %s s", "header": "held for %s s"})
    assert greylist.check(**MAIL, instance="1").text == "Come back in 180 s"
    greylist.check(**{**MAIL, "recipient": "c@example.org"})
    host.now += 180_000
    first = greylist.check(**MAIL, instance="2")
    second = greylist.check(**{**MAIL, "recipient": "c@example.org"}, instance="2")
    assert (first.header, second.header) == ("X-Greylist: held for 180 s", None)


def test_privacy_keeps_no_address() -> None:
    host = LocalHost([GreylistMachine(), ListsMachine()])
    greylist = Greylist(host)
    greylist.configure({"privacy": True})
    greylist.check(**MAIL)
    assert b"@example" not in host.tables["greylist"].image()
