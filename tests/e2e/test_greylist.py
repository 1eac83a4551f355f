"""Three mail hosts, one greylist: what a sending server is told by real Postfixes, whichever of them it tries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts import Hosts
from tests.e2e.node import RaftNode
from tests.e2e.postfix import DOMAIN, Postfix, SystemLog
from tests.helpers import eventually

DELAY_SECONDS = 3
LONG_SECONDS = 600  # nobody passes before it is DELAY_SECONDS again, however slow the machine
CLIENT = "192.0.2.77"
RECIPIENT = f"box@{DOMAIN}"
ELECTION_SECONDS = 60.0


class Mail:
    """Hosts 1 to 3, each with a node of one cluster and a Postfix that asks it by the line that the node printed."""

    def __init__(self, hosts: Hosts, log: SystemLog, directory: Path) -> None:
        self.hosts = hosts
        self.nodes = {number: RaftNode(hosts, number, directory) for number in hosts.numbers}
        self.postfix: dict[int, Postfix] = {}
        self._log = log

    def start(self) -> None:
        for number, node in self.nodes.items():
            node.init() if number == 1 else node.join(self.nodes[1])
            self.postfix[number] = Postfix(self.hosts, number, self._log, node.serve())
            self.postfix[number].launch()
        for postfix in self.postfix.values():
            postfix.wait()
        self.mend()
        self.configure(delay=DELAY_SECONDS)

    def mend(self) -> None:
        """Undo what the last test did: no host is cut off, all nodes run, three voters know one leader."""
        for number, node in self.nodes.items():
            self.hosts.heal(number)
            if not node.running:
                node.serve()
        eventually(self._complete, ELECTION_SECONDS, "three voters know one leader")

    def _complete(self) -> bool:
        states = [node.asked("status") for node in self.nodes.values()]
        leaders = {state["leader"] for state in states}
        return all(len(state["voters"]) == 3 for state in states) and len(leaders) == 1 and None not in leaders

    def configure(self, **settings: Any) -> None:
        """Change settings; returns when every node has them."""
        changes = [f"{name}={value}" for name, value in settings.items()]
        wanted = self.nodes[1].asked("greylist", "settings", *changes)
        for node in self.nodes.values():
            has_them = partial(self._has, node, wanted)
            eventually(has_them, ELECTION_SECONDS, f"{node.name} has {settings}")

    @staticmethod
    def _has(node: RaftNode, settings: Any) -> bool:
        return bool(node.asked("greylist", "settings") == settings)

    def lead(self, number: int) -> None:
        """Make the node of this host the leader."""
        node = self.nodes[number]
        if node.leader() != node.name:
            node.said("transfer", node.name)
        eventually(lambda: node.leader() == node.name, ELECTION_SECONDS, f"{node.name} leads")

    def close(self) -> None:
        for postfix in self.postfix.values():
            postfix.close()
        for node in self.nodes.values():
            node.stop()


@pytest.fixture(scope="module")
def three_hosts(system_log: SystemLog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mail]:
    with Hosts(3) as hosts:
        mail = Mail(hosts, system_log, tmp_path_factory.mktemp("greylist"))
        try:
            mail.start()
            yield mail
        finally:
            mail.close()


@pytest.fixture
def mail(three_hosts: Mail) -> Mail:
    """The same hosts for every test, mended; each test has a triplet of its own."""
    three_hosts.mend()
    return three_hosts


def test_a_triplet_first_seen_at_one_host_passes_at_another_while_the_leader_is_cut_off(mail: Mail) -> None:
    triplet = (CLIENT, "first@example.org", RECIPIENT)
    mail.configure(delay=LONG_SECONDS)
    mail.lead(1)

    first = mail.postfix[1].send(*triplet)
    assert first.recipient.code == 450, first.transcript
    assert re.search(r"4\.2\.0 .*Greylisted, retry in \d+ s", first.recipient.text), first.transcript
    assert first.message is None

    early = mail.postfix[2].send(*triplet)
    assert early.recipient.code == 450, "another host, before the delay: " + early.transcript
    assert re.search(r"Greylisted, retry in \d+ s", early.recipient.text), early.transcript
    mail.configure(delay=DELAY_SECONDS)

    mail.hosts.cut(1)
    eventually(lambda: mail.nodes[3].leader() in ("mx2", "mx3"), ELECTION_SECONDS, "the others have elected a leader")
    eventually(lambda: mail.nodes[3].explain(*triplet)["action"] == "pass", what="the delay is over")

    late = mail.postfix[3].send(*triplet, subject="after the delay")
    assert late.recipient.code == 250, "a third host, after the delay: " + late.transcript
    assert late.message is not None and late.message.code == 250, late.transcript
    message = mail.postfix[3].delivered("after the delay")
    header = re.search(r"^X-Greylist: delayed (\d+) seconds", message, re.MULTILINE)
    assert header and int(header[1]) >= DELAY_SECONDS, message

    mail.hosts.heal(1)
    known = eventually(
        lambda: _if_passed(mail.nodes[1].explain(*triplet)), ELECTION_SECONDS, "mx1 knows that it passed"
    )
    assert known["rule"] == "known"
    assert sum(row["deferred"] for row in known["seen_by"]) == 2
    assert sum(row["passed"] for row in known["seen_by"]) == 1
    assert len(known["seen_by"]) == 3, "each host has seen it once"

    again = mail.postfix[1].send(*triplet, subject="known by then")
    assert again.recipient.code == 250, again.transcript
    assert "X-Greylist" not in mail.postfix[1].delivered("known by then"), "only the first pass is worth a header"


def _if_passed(explained: Any) -> Any:
    return explained if explained["rule"] == "known" else None


def test_without_a_quorum_mail_passes_or_waits_as_the_administrator_chose(mail: Mail) -> None:
    triplet = (CLIENT, "second@example.org", RECIPIENT)
    mail.configure(on_unavailable="pass")
    mail.hosts.cut(1)
    eventually(lambda: mail.nodes[1].leader() == "", ELECTION_SECONDS, "mx1 is without a leader")
    passed = mail.postfix[1].send(*triplet, subject="failed open")
    assert passed.recipient.code == 250, passed.transcript
    assert "X-Greylist" not in mail.postfix[1].delivered("failed open"), "nothing was waited for"

    mail.hosts.heal(1)
    eventually(lambda: mail.nodes[1].leader() != "", ELECTION_SECONDS, "mx1 has a leader again")
    assert mail.nodes[2].explain(*triplet)["rule"] == "new", "what was answered without the cluster is in no record"
    mail.configure(on_unavailable="defer")
    mail.hosts.cut(1)
    eventually(lambda: mail.nodes[1].leader() == "", ELECTION_SECONDS, "mx1 is without a leader")
    deferred = mail.postfix[1].send(*triplet)
    assert deferred.recipient.code == 450, deferred.transcript
    assert "4.3.0" in deferred.recipient.text, deferred.transcript
    assert deferred.message is None

    eventually(lambda: mail.nodes[2].leader() in ("mx2", "mx3"), ELECTION_SECONDS, "the others have a leader")
    served = mail.postfix[2].send(*triplet)
    assert (served.recipient.code, "4.2.0" in served.recipient.text) == (450, True), "the majority goes on deciding"


def test_with_no_node_at_all_postfix_does_what_the_printed_line_says_until_the_node_is_back(mail: Mail) -> None:
    triplet = (CLIENT, "third@example.org", RECIPIENT)
    mail.nodes[1].kill()
    passed = mail.postfix[1].send(*triplet, subject="no node")
    assert passed.recipient.code == 250, passed.transcript
    assert mail.postfix[1].delivered("no node")

    mail.nodes[1].serve()
    greylisted = mail.postfix[1].send(*triplet)
    assert (greylisted.recipient.code, "4.2.0" in greylisted.recipient.text) == (450, True), greylisted.transcript
