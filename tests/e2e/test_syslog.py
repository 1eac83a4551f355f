"""What a real rsyslog has understood of a real node's export, over each transport, also when it was stopped meanwhile."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node import COMMAND
from tests.e2e.rsyslog import Rsyslog
from tests.helpers import eventually, free_ports
from tests.policy_client import PolicyClient, request
from tests.served import Served

SECONDS = 60.0
HELO = 'mx|1=a\\b]"c'
CONNECTIONS = 50


class Mail:
    """A node that runs, and clients that ask it about mail."""

    def __init__(self, folder: Path) -> None:
        self.node = Served("mx1", folder, *free_ports(2))
        self.node.init(lab=True, firewall=False)
        self.node.start()
        self._clients = [PolicyClient(self.node.policy) for _ in range(CONNECTIONS)]
        self._number = count(1)

    def arrive(self, mails: int) -> None:
        """So many recipients are asked about, and logged."""
        for _ in range(mails // CONNECTIONS):
            for each in self._clients:
                number = next(self._number)
                each.send(request(recipient=f"b{number}@example.org", instance=str(number), helo_name=HELO))
            for each in self._clients:
                assert each.answer().startswith("DEFER_IF_PERMIT")

    def run(self, *words: str) -> str:
        """A command that an administrator gives."""
        command = [COMMAND, "-C", str(self.node.directory), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set(self, **settings: Any) -> None:
        for name, value in settings.items():
            self.node.client.config.set_local(f"local/maillog/{name}", value)

    def log(self) -> dict[str, Any]:
        """What `raftcluster status` says of the mail log."""
        found = self.node.client.status()["maillog"]
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        for each in self._clients:
            each.close()
        self.node.kill()


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[Mail]:
    made = Mail(tmp_path)
    yield made
    made.close()


def extension(message: str) -> dict[str, str]:
    """CEF's keys and values, as a SIEM splits them."""
    assert message.lstrip().startswith("CEF:0|raftcluster|raftcluster|")
    found = re.findall(r"(\w+)=((?:\\.|[^=\\])*?)(?= \w+=|$)", re.split(r"(?<!\\)\|", message, maxsplit=7)[7])
    return {key: re.sub(r"\\(.)", r"\1", value) for key, value in found}


@pytest.mark.parametrize("kind", ["udp", "tcp", "tls"])
def test_rsyslog_understands_each_decision_and_what_it_has_missed(mail: Mail, tmp_path: Path, kind: str) -> None:
    receiver = Rsyslog(tmp_path)
    if kind == "tls":
        mail.set(export_ca=str(receiver.ca), export_certificate=str(receiver.node_pem))
    with receiver:
        mail.run("config", "set", "--local", "local/maillog/export", receiver.target(kind))
        mail.arrive(300)
        eventually(lambda: receiver.sequences()[-1:] == [300], SECONDS)
        assert receiver.sequences() == list(range(1, 301)), "each once, in order"
        record = receiver.records()[16]
        keys = extension(record["msg"])
        own = mail.node.client.status()
        assert record["host"] == "mx1" and record["app"] == "raftcluster" and record["procid"] == str(mail.node.pid)
        assert (record["msgid"], record["pri"], record["version"]) == ("greylist-rejected", "21", "1")
        assert record["input"] == kind
        assert record["sd"] == (
            f'[meta sequenceId="17"][raftcluster@32473 sequence="17" node="{own["id"]}" cluster="{own["cluster_id"]}"]'
        )
        logged = json.loads(mail.run("logs", "--json").splitlines()[16])
        assert keys["rt"] == str(round(logged["time"] * 1000)) and record["time"].endswith("Z")
        assert keys["shost"] == HELO and keys["src"] == "192.0.2.7" and keys["suser"] == "a@example.net"
        assert keys["duser"] == logged["recipient"] and keys["act"] == "Rejected" and keys["cat"] == "greylisting"
        assert keys["cn1"] == str(logged["seconds_left"]) and keys["externalId"] == "17"
        assert (keys["dhost"], keys["deviceExternalId"]) == ("mx1", own["id"])

        receiver.stop()
        mail.arrive(300)
        eventually(lambda: mail.log()["export"]["state"] == "waiting", SECONDS)
        receiver.start()
        eventually(lambda: set(receiver.sequences()) == set(range(1, 601)), SECONDS, "what it has missed")
        assert mail.log()["export"]["lost"] == 0

        receiver.stop()
        mail.set(file_bytes=64 * 1024, keep_bytes=128 * 1024)
        mail.arrive(1_000)
        eventually(lambda: mail.log()["last"] == 1_600, SECONDS)
        mail.set(export="")  # whenever a setting changes what is too much goes
        eventually(lambda: mail.log()["bytes"] <= 128 * 1024, SECONDS)
        first = mail.log()["first"]
        receiver.forget()
        receiver.start()
        mail.set(export=receiver.target(kind))  # at once, and from where it was
        eventually(lambda: 1_600 in receiver.sequences(), SECONDS)
        (told,) = {each["msg"].partition(" cn2=")[2] for each in receiver.records() if each["msgid"] == "log-dropped"}
        missing = int(told.split()[0])
        seen = sorted(set(receiver.sequences()))
        assert first > 601 and seen == list(range(first - 1, 1_601)), "a gap, and behind it nothing is missing"
        assert missing >= first - 601, "which is told"
        assert mail.log()["export"]["lost"] >= first - 601


def test_a_node_without_a_certificate_is_refused_and_says_so(mail: Mail, tmp_path: Path) -> None:
    with Rsyslog(tmp_path) as receiver:
        mail.set(export_ca=str(receiver.ca), export=receiver.target("tls"))
        mail.arrive(50)
        eventually(lambda: mail.log()["export"]["error"], SECONDS)
        assert receiver.records() == []
        mail.set(export_certificate=str(receiver.node_pem))
        eventually(lambda: receiver.sequences()[-1:] == [50], SECONDS)
        shown = [line.split() for line in mail.run("status").splitlines()]
        assert ["export", "to", receiver.target("tls")] in shown and ["export", "state", "connected"] in shown
