"""docs/five-minutes.md, line by line: installed from this checkout, with a real Postfix, on hosts of other addresses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import checkout
from tests.children import Child
from tests.e2e.hosts import Hosts
from tests.e2e.postfix import Postfix, SystemLog
from tests.helpers import eventually

PAGE = checkout.ROOT / "docs" / "five-minutes.md"
SECONDS = 60.0
NAMES = {1: "mx1.example.org", 2: "mx2.example.org", 3: "far.example.net"}
ON = {"mx1#": 1, "mx2#": 2, "far$": 3}


class Reader:
    """Somebody who does what the page says."""

    def __init__(self, hosts: Hosts, postfix: Postfix, folder: Path, stack: ExitStack) -> None:
        self.hosts, self.postfix, self.folder, self.stack = hosts, postfix, folder, stack
        self.log: list[tuple[str, subprocess.CompletedProcess[str]]] = []
        self.token = ""

    def do(self, line: str) -> None:
        prompt, command = line[:4], line[5:]
        number = ON[prompt]
        for printed, here in (
            ("/opt/raftcluster", str(self.folder / "venv")),
            ("/usr/src/raftcluster", str(self.folder / "source")),
            ("192.0.2.7", self.hosts.address(3)),
        ):
            command = command.replace(printed, here)
        words = ["env", *self.environment(number), "bash", "-c", command]
        if command.startswith("postfix "):
            words = [*self.postfix.inside(), *words]
        if command == "raftcluster serve":
            self.serve(number, words)
            return
        given = self.token if command.startswith("raftcluster join") else ""
        if "venv" in command or "pip install" in command:  # the package index is not in the hosts' network
            done = subprocess.run(words, capture_output=True, text=True, timeout=500)
        else:
            done = self.hosts.run(number, *words, stdin=given, timeout=SECONDS)
        print(f"{prompt} {command}\n{done.stdout}{done.stderr}", end="")
        self.log.append((line, done))
        if command.startswith("raftcluster invite"):
            self.token = done.stdout.strip()

    def environment(self, number: int) -> list[str]:
        return [
            f"PATH={self.folder / 'venv' / 'bin'}:{os.environ['PATH']}",
            f"RAFTCLUSTER_DIR={self.folder / f'data{number}'}",
            f"MAIL_CONFIG={self.postfix.configuration}",
        ]

    def serve(self, number: int, words: list[str]) -> None:
        child = self.hosts.start(number, f"serve {number}", words, self.folder / f"serve{number}.log")
        self.stack.callback(child.stop)
        eventually(lambda: self.leads(child, number), SECONDS, "the node has a leader")

    def leads(self, child: Child, number: int) -> bool:
        assert child.alive()
        words = ["env", *self.environment(number), "raftcluster", "status", "--json"]
        done = self.hosts.run(number, *words)
        return '"leader": "' in done.stdout

    def said(self, words: str) -> list[str]:
        """What was printed by each command that has these words."""
        found = [done.stdout for line, done in self.log if words in line]
        assert found, words
        return found


@pytest.fixture
def named(hosts: Hosts) -> Iterator[Hosts]:
    """The hosts know each other by name, as `ip netns` lets them."""
    lines = "".join(f"{hosts.address(number)} {name}\n" for number, name in NAMES.items())
    folders = [Path("/etc/netns") / hosts.namespace(number) for number in NAMES]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{lines}")
    yield hosts
    for folder in folders:
        shutil.rmtree(folder)


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.timeout(600)
def test_five_minutes(named: Hosts, system_log: SystemLog, tmp_path: Path) -> None:
    for path in checkout.files():
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout.ROOT / path, tmp_path / "source" / path)
    with ExitStack() as stack:
        postfix = Postfix(named, 1, system_log, "permit")
        stack.callback(postfix.close)
        postfix.start()
        reader = Reader(named, postfix, tmp_path, stack)
        before = postfix.send("192.0.2.7", "a@example.net", "box@example.test").recipient
        assert before.code == 250, "without us the mail passes"
        lines = commands()
        assert len(lines) >= 18 and {line[:4] for line in lines} == set(ON)
        for line in lines:
            reader.do(line)
        failed = [(line, done.stderr) for line, done in reader.log if done.returncode and not line.startswith("far$")]
        assert failed == []

        deferred, passed = reader.said("swaks")
        text = PAGE.read_text()
        (promised,) = re.findall(r"Postfix says `([^`]+)`", text)
        assert promised.replace("180 s", "") in deferred, deferred
        assert re.search(r"retry in 1[78]\d s", deferred), deferred
        assert re.search(r"^<-  250 2\.1\.5 Ok", passed, re.MULTILINE), passed
        assert NAMES[1] in reader.said("raftcluster status")[0]
        here, there = (text.split() for text in reader.said("greylist explain"))
        assert here != there and "allow" in " ".join(there), "mx2 knows what was said at mx1"
