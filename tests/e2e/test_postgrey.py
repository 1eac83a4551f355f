"""The same stories told to the real postgrey and to ours, over Postfix's policy protocol, side by side.

postgrey takes the time from a test attribute of the request, ours from the cluster time of a host of one process; so stories of
weeks take no time. `pytest -s` prints what both say; where they differ the row says why.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pytest

from raftcluster.greylist import hints
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.policy.server import PolicyServer
from tests.children import Child
from tests.helpers import eventually, free_ports
from tests.local_host import LocalHost
from tests.policy_client import PolicyClient

START_SECONDS: Final = 60.0
USER: Final = "postgrey"
HOUR: Final = 3_600
DAY: Final = 86_400
BOTH_AT: Final = ("--delay=180", "--retry-window=48h", "--max-age=36")
"""postgrey, set to our defaults."""
VERP: Final = "bounce-{}-b@lists.example"


class Step(NamedTuple):
    """So many seconds later a request comes; what the two say: pass, defer, or header (it passes, with X-Greylist)."""

    seconds: float
    postgrey: str
    ours: str
    mail: dict[str, str]


class Row(NamedTuple):
    """One option of 02's table."""

    steps: list[Step]
    flags: tuple[str, ...] = ()
    """Of postgrey."""
    settings: Mapping[str, Any] = MappingProxyType({})
    lists: tuple[tuple[str, str, str], ...] = ()
    files: Mapping[str, str] = MappingProxyType({})
    """postgrey's lists, by option."""
    why: str = ""
    """Where the two differ."""


def step(seconds: float, both: str, ours: str = "", **mail: str) -> Step:
    return Step(seconds, both, ours or both, mail)


def earned(passes: int, apart: float = HOUR) -> list[Step]:
    """So many senders of the client wait and pass."""
    steps: list[Step] = []
    for number in range(passes):
        sender = f"earner{number}x@example.net"
        steps += [step(apart - 200, "defer", sender=sender), step(200, "header", sender=sender)]
    return steps


NEW: Final = {"sender": "new@example.com"}
ROWS: Final[dict[str, Row]] = {
    "delay": Row([step(0, "defer"), step(179, "defer"), step(1, "header"), step(0, "pass")]),
    "delay, set to 300 s": Row(
        [step(0, "defer"), step(299, "defer"), step(1, "header")], ("--delay=300",), {"delay": 300}
    ),
    "retry window": Row([step(0, "defer"), step(2 * DAY - 1, "header")]),
    "retry window, over": Row([step(0, "defer"), step(2 * DAY + 1, "defer"), step(180, "header")]),
    "network /24": Row(
        [
            step(0, "defer"),
            step(180, "header", client_address="192.0.2.200"),
            step(0, "defer", client_address="192.0.3.7"),
        ]
    ),
    "network /64": Row(
        [
            step(0, "defer", client_address="2001:db8:0:1::1"),
            step(180, "header", client_address="2001:db8:0:1:ffff::1"),
            step(0, "defer", client_address="2001:db8:0:2::1"),
        ]
    ),
    "network, set to /32": Row(
        [step(0, "defer"), step(180, "defer", client_address="192.0.2.8"), step(0, "header")],
        ("--ipv4cidr=32",),
        {"network4": 32},
    ),
    "key: network, sender, recipient": Row(
        [step(0, "defer"), step(180, "defer", recipient="c@example.org"), step(0, "defer", **NEW), step(0, "header")]
    ),
    "client auto-allow: 5 passes": Row([*earned(5), step(0, "pass", **NEW)]),
    "client auto-allow: not after 4": Row([*earned(4), step(0, "defer", **NEW)]),
    "client auto-allow: one an hour counts": Row([*earned(6, apart=1_800), step(0, "defer", **NEW)]),
    "client auto-allow: a neighbour": Row(
        [*earned(5), step(0, "defer", "pass", client_address="192.0.2.9", **NEW)],
        why="postgrey allows an address, ours the network that is greylisted together",
    ),
    "client auto-allow, off": Row(
        [*earned(6), step(0, "defer", **NEW)], ("--auto-whitelist-clients=0",), {"auto_allow": 0}
    ),
    "sender: BATV": Row(
        [
            step(0, "defer", sender="prvs=0001aaaaaa=a@example.net"),
            step(180, "header", sender="prvs=0002bbbbbb=a@example.net"),
        ]
    ),
    "sender: +ext": Row([step(0, "defer", sender="a+1@example.net"), step(180, "header", sender="a+2@example.net")]),
    "sender: VERP": Row([step(0, "defer", sender=VERP.format(1)), step(180, "header", sender=VERP.format(2))]),
    "sender: SRS0": Row(
        [
            step(0, "defer", sender="SRS0=HHHH=TT=example.com=a@f.example"),
            step(180, "defer", "header", sender="SRS0=KKKK=UU=example.com=a@f.example"),
        ],
        why="postgrey knows no SRS: hash and day change with every mail, so it waits for ever",
    ),
    "sender: a mailbox that is a number": Row(
        [step(0, "defer", sender="4711@example.net"), step(180, "header", "defer", sender="4712@example.net")],
        why="to postgrey all of a domain's numbers are one sender; ours takes a local part that is a number for a mailbox",
    ),
    "list: client name": Row(
        [step(0, "pass", client_name="mx.example.net"), step(0, "defer", client_name="mx.example.com")],
        files={"--whitelist-clients": "example.net\n"},
        lists=(("allow", "client-name", "example.net"),),
    ),
    "list: client network": Row(
        [step(0, "pass"), step(0, "defer", client_address="192.0.2.16")],
        files={"--whitelist-clients": "192.0.2.0/28\n"},
        lists=(("allow", "client", "192.0.2.0/28"),),
    ),
    "list: recipient": Row(
        [step(0, "pass"), step(0, "defer", recipient="c@example.org")],
        files={"--whitelist-recipients": "b@example.org\n"},
        lists=(("allow", "recipient", "b@example.org"),),
    ),
    "list: sender domain; opt-out": Row(
        [step(0, "defer", "pass"), step(0, "defer", "pass", recipient="out@example.org"), step(0, "defer", **NEW)],
        lists=(("allow", "sender-domain", "example.net"), ("opt-out", "recipient", "out@example.org")),
        why="postgrey has no lists of senders and no opt-out",
    ),
    "training": Row(
        [step(0, "defer", "pass"), step(180, "header", "pass")],
        settings={"training": True},
        why="postgrey has no dry run",
    ),
    "privacy": Row([step(0, "defer"), step(180, "header")], ("--privacy",), {"privacy": True}),
    "header once a message": Row(
        [
            step(0, "defer"),
            step(0, "defer", recipient="c@example.org"),
            step(180, "header", instance="one"),
            step(0, "pass", instance="one", recipient="c@example.org"),
        ]
    ),
}


@contextmanager
def postgrey(row: Row) -> Iterator[PolicyClient]:
    directory = Path(tempfile.mkdtemp(prefix="postgrey-"))
    child = None
    try:
        directory.chmod(0o755)
        (port,) = free_ports(1)
        command = ["postgrey", *BOTH_AT, *row.flags, f"--inet=127.0.0.1:{port}", f"--dbdir={directory}"]
        for option in ("--whitelist-clients", "--whitelist-recipients"):
            file = directory / option.strip("-")
            file.write_text(row.files.get(option, ""))
            command.append(f"{option}={file}")
        if os.getuid() == 0:
            shutil.chown(directory, USER, USER)
            command += [f"--user={USER}", f"--group={USER}"]
        child = Child("postgrey", command, directory.with_suffix(".log"))
        found: list[PolicyClient] = []

        def connected() -> bool:
            child.alive()
            try:
                found.append(PolicyClient(f"inet:127.0.0.1:{port}"))
            except OSError:
                return False
            return True

        eventually(connected, START_SECONDS, "postgrey listens")
        with found[0] as client:
            yield client
    finally:
        if child is not None:
            child.kill()  # one in ten does not hear a SIGTERM
        shutil.rmtree(directory)
        directory.with_suffix(".log").unlink(missing_ok=True)


@contextmanager
def ours(host: LocalHost, row: Row) -> Iterator[PolicyClient]:
    greylist = Greylist(host)
    if row.settings:
        greylist.configure(row.settings)
    for entry in row.lists:
        greylist.lists.add(*entry)
    server = PolicyServer(greylist, "inet:127.0.0.1:0")
    server.start()
    try:
        with PolicyClient(server.address) as client:
            yield client
    finally:
        server.close()


def said(action: str) -> str:
    """pass, defer or header."""
    if action.startswith("PREPEND X-Greylist: delayed "):
        return "header"
    return {"DUNNO": "pass", "DEFER_IF_PERMIT": "defer"}[re.split(" ", action, maxsplit=1)[0]]


@pytest.mark.parametrize("option", ROWS)
def test_side_by_side(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "LOOK_SECONDS", 0.0)
    row, host = ROWS[option], LocalHost([GreylistMachine(), ListsMachine()])
    told: list[tuple[str, str]] = []
    with postgrey(row) as theirs, ours(host, row) as mine:
        for number, each in enumerate(row.steps):
            host.now += round(each.seconds * 1000)
            mail = {"instance": str(number), **each.mail}
            now = str(host.now // 1000)
            told.append((said(theirs.ask(**mail, policy_test_time=now)), said(mine.ask(**mail))))
    print(
        f"\n{option:45} postgrey: {' '.join(one for one, _ in told)}\n{'':45} ours:     {' '.join(own for _, own in told)}"
    )
    if row.why:
        print(f"{'':45} {row.why}")
    assert told == [(each.postgrey, each.ours) for each in row.steps]
    assert bool(row.why) == any(one != own for one, own in told), "a difference has a reason, and only a difference"
