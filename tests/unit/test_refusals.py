"""What a state machine refuses, and how it says so: every node keeps the words."""

from __future__ import annotations

from typing import Any

import pytest

from raftcluster.cluster.machine import ClusterMachine
from raftcluster.config.machine import ConfigMachine
from raftcluster.errors import Rejected
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.lease.machine import LeaseMachine
from raftcluster.notifications.machine import NotificationsMachine
from raftcluster.quarantine.envelope import Envelope
from raftcluster.quarantine.machine import QuarantineMachine
from tests.cluster_world import GENESIS
from tests.local_host import LocalHost

SIGN = "\u00fc"
NAMED = ["n2", f"mx{SIGN}", "192.0.2.2", 9777, "mta/1", 1, "standalone", "t2", b"h" * 32, b"csr"]
ENVELOPE = Envelope("a@example.net")
ENVELOPE.rcpt("b@example.org")
SCHEMA = {"properties": {"a": {"type": "integer"}, "b": {"enum": [f"{SIGN}x"]}}}
HELD = [b"i" * 16, ENVELOPE.values(), b"d" * 32, 10, "ref", "", 100_000, "mx1", b"s" * 32]


@pytest.mark.parametrize(
    ("machine", "command"),
    [
        ("cluster", ["begin", "x", NAMED]),
        ("cluster", ["begin", "x", [*NAMED[:1], "mx2", f"mx2{SIGN}", *NAMED[3:]]]),
        ("cluster", ["report", "n1", SIGN, []]),
        ("cluster", ["destroy", "x", SIGN, True, "", False]),
        ("config", ["set", SIGN, 1, "", "", "mx1", None]),
        ("config", ["set", "a", 1, "", "", "mx1", SIGN]),
        ("config", ["set", "p/a", SIGN, "", "", "mx1", None]),
        ("config", ["set", "p/b", 1, "", "", "mx1", None]),
        ("config", ["schema", "q", 1, {"properties": {SIGN: {}}}]),
        ("config", ["schema", "q", 1, {"properties": {"a": SIGN}}]),
        ("config", ["schema", "q", 1, {"properties": {"a": {SIGN: 1}}}]),
        ("config", ["schema", "q", 1, {"properties": {"a": {"type": SIGN}}}]),
        ("lease", ["acquire", SIGN, "n1", "mx1", 5000, 0]),
        ("lease", ["acquire", "a", "n1", "mx1", SIGN, 0]),
        ("lease", ["renew", "a", SIGN, 5000]),
        ("notifications", ["publish", SIGN, "text", "", None, 5000, "mx1"]),
        ("notifications", ["publish", "info", SIGN * 1000, "", None, 5000, "mx1"]),
        ("notifications", ["publish", "info", "text", "", None, SIGN, "mx1"]),
        ("notifications", ["acknowledge", SIGN, "", "mx1"]),
        ("notifications", ["forget", SIGN]),
        ("greylist", [SIGN]),
        ("greylist", ["settings", {SIGN: 1}, None, "", "mx1", ""]),
        ("quarantine", ["capture", *HELD[:3], SIGN, *HELD[4:]]),
        ("quarantine", ["capture", SIGN, *HELD[1:]]),
    ],
)
def test_a_refusal_quotes_in_the_same_words_with_every_python(machine: str, command: Any) -> None:
    """It is kept in the ring, which is part of the tables and of their hash: repr shows a character that this interpreter's
    Unicode knows and escapes one that it does not, ascii escapes both."""
    host = LocalHost(
        [
            ClusterMachine(),
            ConfigMachine(),
            GreylistMachine(),
            LeaseMachine(),
            NotificationsMachine(),
            QuarantineMachine(),
        ]
    )
    host.propose("cluster", GENESIS)
    host.propose("config", ["schema", "p", 1, SCHEMA])
    with pytest.raises(Rejected) as caught:
        host.propose(machine, command)
    assert "\\xfc" in caught.value.message and caught.value.message.isascii()
