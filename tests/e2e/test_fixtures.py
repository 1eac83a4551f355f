"""The fixtures themselves: hosts that can be cut off, and a Postfix that asks a policy service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.children import Child
from tests.e2e import fixed_policy
from tests.e2e.hosts import Hosts
from tests.e2e.postfix import DOMAIN, PORT, Postfix, SystemLog
from tests.helpers import eventually

POLICY_PORT = 10023
POLICY = f"check_policy_service {{ inet:127.0.0.1:{POLICY_PORT}, timeout=5s, default_action=DUNNO }}"


@pytest.fixture
def started(hosts: Hosts) -> Iterator[list[Child]]:
    """What was started on the hosts; ended afterwards."""
    children: list[Child] = []
    yield children
    for child in children:
        child.stop()


def answer(hosts: Hosts, started: list[Child], tmp_path: Path, action: str) -> None:
    command = [sys.executable, fixed_policy.__file__, str(POLICY_PORT), action]
    started.append(hosts.start(1, "policy", command, tmp_path / "policy.log"))
    eventually(lambda: hosts.listens(1, POLICY_PORT, at="127.0.0.1"), what="the policy service listens")


def test_hosts_reach_each_other_until_cut_and_again_when_healed(hosts: Hosts) -> None:
    assert hosts.reaches(1, 2) and hosts.reaches(3, 1)
    hosts.cut(1)
    assert not hosts.reaches(1, 2) and not hosts.reaches(3, 1)
    assert hosts.reaches(2, 3), "the others are not cut"
    hosts.cut(1)  # twice is as good as once
    hosts.heal(1)
    assert hosts.reaches(1, 2) and hosts.reaches(3, 1)


def test_hosts_leave_nothing_behind(tmp_path: Path) -> None:
    with Hosts(2) as hosts:
        namespace = hosts.namespace(1)
        child = hosts.start(1, "sleeper", ["sleep", "300"], tmp_path / "log")
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True, timeout=60).stdout
        assert namespace in listed
    assert child.process.wait(60) == -9, "what ran on the host ended with it"
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert namespace not in listed


def test_postfix_defers_when_the_policy_says_so(
    hosts: Hosts, system_log: SystemLog, started: list[Child], tmp_path: Path
) -> None:
    answer(hosts, started, tmp_path, "DEFER_IF_PERMIT 4.2.0 Come back later")
    postfix = Postfix(hosts, 1, system_log, POLICY)
    try:
        postfix.start()
        dialogue = postfix.send("192.0.2.77", "sender@example.org", f"box@{DOMAIN}")
        assert dialogue.recipient.code == 450, dialogue.transcript
        assert "4.2.0" in dialogue.recipient.text and "Come back later" in dialogue.recipient.text
        assert dialogue.message is None
    finally:
        postfix.close()


def test_postfix_delivers_with_the_header_that_the_policy_prepends(
    hosts: Hosts, system_log: SystemLog, started: list[Child], tmp_path: Path
) -> None:
    answer(hosts, started, tmp_path, "PREPEND X-Stand-In: yes")
    postfix = Postfix(hosts, 1, system_log, POLICY)
    try:
        postfix.start()
        dialogue = postfix.send("192.0.2.77", "sender@example.org", f"box@{DOMAIN}", subject="prepended")
        assert dialogue.recipient.code == 250, dialogue.transcript
        assert dialogue.message is not None and dialogue.message.code == 250, dialogue.transcript
        message = postfix.delivered("prepended")
        assert "\nX-Stand-In: yes\n" in message
        assert "[192.0.2.77]" in message, "XCLIENT made it the client"
    finally:
        postfix.close()


def test_a_postfix_that_cannot_start_says_why(hosts: Hosts, system_log: SystemLog) -> None:
    heard_at_dev_log_only = "permit\nmaillog_file = /srv/maillog"
    postfix = Postfix(hosts, 1, system_log, heard_at_dev_log_only)
    try:
        with pytest.raises(AssertionError, match=r"does not match any prefix|machine's own log"):
            postfix.start()
    finally:
        postfix.close()
    assert not hosts.listens(1, PORT)


def test_a_closed_postfix_writes_no_more(
    hosts: Hosts, system_log: SystemLog, started: list[Child], tmp_path: Path
) -> None:
    postfix = Postfix(hosts, 1, system_log, "permit")
    try:
        postfix.start()
        mail = postfix.configuration.parent / "mail"
        deliver = f"n=0; while :; do n=$((n + 1)); echo > {mail}/$n; done"
        inside = [*postfix.inside(), "sh", "-c", deliver]
        started.append(hosts.start(1, "deliveries", inside, tmp_path / "deliveries.log"))
        eventually((mail / "100").exists, what="messages are delivered")
    finally:
        postfix.close()  # removes the directory: it fails when something still writes there
    assert not mail.parent.exists()
