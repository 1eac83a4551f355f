"""A message held back by a milter at one real Postfix is released at another one: once, and to whom it was sent."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.children import Child
from tests.e2e.hosts import Hosts
from tests.e2e.node import READY_SECONDS, RaftNode
from tests.e2e.postfix import DOMAIN, PORT, Postfix, SystemLog
from tests.gateways import KEY, example
from tests.helpers import eventually

pytestmark = pytest.mark.timeout(400)  # each command is a process, and there are dozens

MILTER_PORT = 10025
REINJECT_PORT = 10026
MILTERS = f"smtpd_milters = inet:127.0.0.1:{MILTER_PORT}\nmilter_default_action = tempfail\n"
REINJECT = f"127.0.0.1:{REINJECT_PORT} inet n - n - - smtpd -o smtpd_milters= -o syslog_name=postfix/reinject\n"
SENDER = "someone@example.org"
RECIPIENT = f"box@{DOMAIN}"
SPOOFED = {
    "To": "boss@example.com",
    "Cc": f"eve@{DOMAIN}",
    "Bcc": f"mallory@{DOMAIN}",
    "Resent-To": f"trudy@{DOMAIN}",
    "Apparently-To": f"oscar@{DOMAIN}",
    "X-Suspicious-Attachment": "yes",
}
# An SMTP client that says more than swaks can: parameters of MAIL and RCPT.
CLIENT = """\
import smtplib, sys
host, port, sender, message, *recipients = sys.argv[1:]
with smtplib.SMTP(host, int(port), local_hostname="client.example.org", timeout=60) as smtp:
    smtp.ehlo()
    print(*smtp.mail(sender, ["RET=HDRS", "ENVID=QQ314159"]))
    for each in recipients:
        print(*smtp.rcpt(each, ["NOTIFY=FAILURE", "ORCPT=rfc822;alias+2B1@" + each.partition("@")[2]]))
    print(*smtp.data(message.encode()))
"""


class ProductNode(RaftNode):
    """A node that runs in the main process of the example product."""

    def __init__(self, hosts: Hosts, number: int, directory: Path) -> None:
        super().__init__(hosts, number, directory)
        self.messages = directory / "messages"

    def launch(self) -> None:
        command = example("mail_gateway", str(self.directory), str(self.messages), f"127.0.0.1:{REINJECT_PORT}")
        self._child = self._hosts.start(self._number, f"gateway {self.name}", command, self._log)

    def serve(self) -> str:
        """Returns when it has a leader. Postfix asks the milter, not the node."""
        self.launch()
        eventually(self._ready, READY_SECONDS, f"{self.name} has a leader")
        return "permit"


class Mail:
    """Hosts 1 to 3: on each a node of one cluster, a Postfix and its milter. The product keeps its messages in one folder."""

    def __init__(self, hosts: Hosts, log: SystemLog, directory: Path) -> None:
        self.hosts, self._log, self._directory = hosts, log, directory
        self.nodes = {number: ProductNode(hosts, number, directory) for number in hosts.numbers}
        self.postfix: dict[int, Postfix] = {}
        self._milters: list[Child] = []
        messages = directory / "messages"
        messages.mkdir()
        (messages / "key").write_bytes(KEY)

    def start(self) -> None:
        for number, node in self.nodes.items():
            node.init() if number == 1 else node.join(self.nodes[1])
            policy = node.serve()
            place = (str(node.directory / "workers.sock"), f"127.0.0.1:{MILTER_PORT}", str(node.messages))
            log = self._directory / f"milter{number}.log"
            self._milters.append(self.hosts.start(number, f"milter {number}", example("milter", *place), log))
            self.postfix[number] = Postfix(self.hosts, number, self._log, policy, main=MILTERS, master=REINJECT)
            self.postfix[number].launch()
        self.nodes[1].said("greylist", "settings", "recipients=opted-in")
        for number, postfix in self.postfix.items():
            postfix.wait()
            eventually(lambda n=number: self.hosts.listens(n, MILTER_PORT, at="127.0.0.1"), READY_SECONDS, "the milter")  # type: ignore[misc]

    def send(self, number: int, subject: str, *recipients: str) -> None:
        """A message whose header names others than its envelope."""
        header = "".join(f"{name}: {value}\r\n" for name, value in {**SPOOFED, "Subject": subject}.items())
        message = f"{header}\r\n.a line with a dot\r\n..two\r\nlast\r\n"
        address = self.hosts.address(number)
        done = self.hosts.run(number, sys.executable, "-c", CLIENT, address, str(PORT), SENDER, message, *recipients)
        codes = [line[:3] for line in done.stdout.splitlines()]
        assert codes == ["250"] * (2 + len(recipients)), f"{done.stdout}{done.stderr}{self.postfix[number].log()}"

    def held(self, number: int, *, but: set[str]) -> dict[str, Any]:
        """What the node there shows of the one message that is held besides `but`."""

        def found() -> list[Any]:
            return [row for row in self.nodes[number].asked("quarantine", "list") if row["id"] not in but]

        (row,) = eventually(found, READY_SECONDS, "it is held")
        shown: dict[str, Any] = self.nodes[number].asked("quarantine", "show", row["id"])
        return shown

    def ids(self) -> set[str]:
        return {row["id"] for row in self.nodes[1].asked("quarantine", "list")}

    def release(self, number: int, ident: str, recipient: int = 1) -> subprocess.CompletedProcess[str]:
        return self.nodes[number].command("quarantine", "release", ident, str(recipient), "--json")

    def found(self, subject: str) -> list[str]:
        """What is in the mailboxes of all hosts."""
        return [each for postfix in self.postfix.values() for each in postfix.found(subject)]

    def sent(self) -> list[str]:
        """The lines of all hosts' mail logs about what was delivered."""
        lines = [line for postfix in self.postfix.values() for line in postfix.log().splitlines()]
        return [line for line in lines if "status=sent" in line]

    def close(self) -> None:
        for postfix in self.postfix.values():
            postfix.close()
        for milter in self._milters:
            milter.stop()
        for node in self.nodes.values():
            node.stop()


@pytest.fixture(scope="module")
def mail(system_log: SystemLog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mail]:
    with Hosts(3) as hosts:
        mail = Mail(hosts, system_log, tmp_path_factory.mktemp("quarantine"))
        try:
            mail.start()
            yield mail
        finally:
            mail.close()


def told_to(message: str) -> list[str]:
    """Whom Postfix delivered it to."""
    return re.findall(r"^Delivered-To: (.*)$", message, re.MULTILINE)


def test_held_at_one_host_released_at_another_to_the_recipient_of_the_envelope_only(mail: Mail) -> None:
    before = mail.ids()
    mail.send(1, "held", RECIPIENT, f"second@{DOMAIN}")
    shown = mail.held(2, but=before)
    assert (shown["sender"], shown["ret"], shown["envid"], shown["intact"]) == (SENDER, "HDRS", "QQ314159", True)
    assert [(each["address"], each["orcpt"], each["notify"]) for each in shown["recipients"]] == [
        (RECIPIENT, f"rfc822;alias+2B1@{DOMAIN}", "FAILURE"),
        (f"second@{DOMAIN}", f"rfc822;alias+2B1@{DOMAIN}", "FAILURE"),
    ]
    assert mail.found("held") == [], "nobody has it yet"
    released = mail.release(2, shown["id"])
    assert released.returncode == 0, released.stderr
    message = mail.postfix[2].delivered("held")
    assert told_to(message) == [RECIPIENT]
    assert "\n.a line with a dot\n..two\nlast\n" in message, "byte for byte"
    assert "\nTo: boss@example.com\n" in message and "\nResent-To: trudy@" in message, "the header is as it was"
    again = mail.release(3, shown["id"])
    assert again.returncode == 4 and json.loads(again.stdout)["error"]["code"] == "quarantine-delivered"
    assert mail.release(3, shown["id"], 3).returncode == 4, "there is no third recipient, whatever the header says"
    assert mail.release(3, shown["id"], 2).returncode == 0
    assert told_to(mail.postfix[3].delivered("held")) == [f"second@{DOMAIN}"]
    assert len(mail.found("held")) == 2
    for spoofed in ("boss@", "eve@", "mallory@", "trudy@", "oscar@"):
        assert not [log for postfix in mail.postfix.values() for log in [postfix.log()] if f"to=<{spoofed}" in log]


def test_released_at_two_hosts_at_once_it_is_delivered_once(mail: Mail) -> None:
    for attempt in range(3):
        before, subject = mail.ids(), f"raced {attempt}"
        mail.send(1, subject, RECIPIENT)
        ident = mail.held(1, but=before)["id"]
        with ThreadPoolExecutor(3) as pool:
            done = list(pool.map(lambda number: mail.release(number, ident), (1, 2, 3)))  # noqa: B023
        codes = [json.loads(each.stdout)["error"]["code"] for each in done if each.returncode]
        assert len(codes) == 2, [each.stderr for each in done]
        assert set(codes) <= {"quarantine-claimed", "quarantine-delivered"}
        eventually(lambda: mail.found(subject), READY_SECONDS, "it is delivered")  # noqa: B023
        (row,) = mail.nodes[2].asked("quarantine", "show", ident)["recipients"]
        assert (row["state"], row["claims"], row["deliveries"]) == ("delivered", 1, 1)
    raced = [each for attempt in range(3) for each in mail.found(f"raced {attempt}")]
    assert len(raced) == 3 and all(told_to(each) == [RECIPIENT] for each in raced)
    delivered = len(raced) + len(mail.found("held"))
    eventually(lambda: len(mail.sent()) >= delivered, what="the log has come so far")
    assert len(mail.sent()) == delivered


def test_what_is_not_suspicious_is_delivered_at_once(mail: Mail) -> None:
    before = mail.ids()
    done = mail.postfix[2].send("192.0.2.77", SENDER, RECIPIENT, subject="harmless")
    assert done.message is not None and done.message.code == 250, done.transcript
    assert told_to(mail.postfix[2].delivered("harmless")) == [RECIPIENT]
    assert mail.ids() == before
