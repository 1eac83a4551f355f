"""Three nodes on this machine, and what becomes of the mail when the leader is killed. Run it with `./run demo`.

It does what an administrator would: `init`, `invite`, `join` and `serve` with the real commands, each node a process of its
own with its own directory, ports and certificates. Then it asks all three what Postfix would ask, kills the leader with
SIGKILL, and lets senders that were deferred at one node retry at another. The cluster is made with `init --lab`, so that
three seconds are enough to wait. Exit code 0 only if everything that is promised was seen.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from raftcluster.control.client import Client
from raftcluster.errors import RaftclusterError

CLI = [sys.executable, "-m", "raftcluster.cli"]
NAMES = ("mx1", "mx2", "mx3")
DELAY_SECONDS = 3
CONNECTIONS = 8  # to each node
PAUSE_SECONDS = 0.02  # between two checks of a connection: this is no benchmark
START_SECONDS = 30.0
GAP_SECONDS = 3.0  # an election takes a fraction of it; a check waits at most 2 s
SENDERS = ("alice@example.net", "bob@example.com", "carol@example.edu")


def say(what: str, colour: str = "") -> None:
    """One line, with the time since the start."""
    stamp = click.style(f"{time.monotonic() - BEGAN:6.1f} s  ", dim=True)
    click.echo(stamp + (click.style(what, fg=colour) if colour else what))
    sys.stdout.flush()


BEGAN = time.monotonic()


# --- the nodes


@dataclass
class Node:
    """One node: its directory, its ports, its process."""

    name: str
    directory: Path
    port: int
    policy_port: int
    keep: bool
    process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Client:
        return Client(self.directory / "control.sock", timeout=10)

    def run(self, *arguments: str, given: str = "") -> str:
        """A command of the CLI at this node; what it printed. Ends the demo when it fails."""
        done = subprocess.run(
            [*CLI, "-C", str(self.directory), *arguments], input=given, text=True, capture_output=True, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"raftcluster {' '.join(arguments)} at {self.name}: {done.stderr.strip()}")
        return done.stdout.strip()

    def start(self) -> None:
        """Serve, and return when the node has a leader."""
        arguments = [*CLI, "-C", str(self.directory), "serve", "--policy", f"inet:127.0.0.1:{self.policy_port}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=self.keep
            )
        wait_until(self.ready, f"{self.name} has a leader", self.log)

    def ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
        return leader_of(self) is not None

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")


def leader_of(node: Node) -> str | None:
    """The name of the leader as `node` knows it."""
    try:
        status = node.client.status()
    except RaftclusterError:
        return None
    return next((str(row["name"]) for row in status["members"] if row["id"] == status["leader"]), None)


def wait_until(condition: Callable[[], bool], what: str, log: Path | None = None) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end:
            tail = f":\n{log.read_text()[-2000:]}" if log else ""
            raise SystemExit(f"not within {START_SECONDS:.0f} s: {what}{tail}")
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def build(folder: Path, keep: bool) -> Iterator[Node]:
    """Begin the cluster and let the others in, one by one; each is yielded before it is started."""
    ports = free_ports(2 * len(NAMES))
    nodes = [
        Node(name, folder / name, ports[2 * number], ports[2 * number + 1], keep) for number, name in enumerate(NAMES)
    ]
    first = nodes[0]
    for node in nodes:
        here = ("--node", node.name, "--listen", f"127.0.0.1:{node.port}")
        if node is first:
            node.run("init", "--name", "demo", "--lab", *here)
        else:
            token = json.loads(first.run("invite", node.name, "--json"))["token"]
            node.run("join", f"127.0.0.1:{first.port}", *here, given=token)
        yield node


# --- what Postfix would ask


class Postfix:
    """One connection to a node's policy server."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._answers = self._socket.makefile("rb")

    def ask(self, client: str, sender: str, recipient: str, instance: str) -> str:
        """The action. Raises `OSError` when the node has gone."""
        attributes = {
            "request": "smtpd_access_policy",
            "protocol_state": "RCPT",
            "client_address": client,
            "sender": sender,
            "recipient": recipient,
            "instance": instance,
        }
        self._socket.sendall("".join(f"{name}={value}\n" for name, value in attributes.items()).encode() + b"\n")
        answer = self._answers.readline()
        if not answer.startswith(b"action=") or self._answers.readline() != b"\n":
            raise ConnectionError("the node hung up")
        return answer.decode().removeprefix("action=").strip()

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


@dataclass
class Load:
    """Strangers that try once at one node, over a few connections as Postfix has them; each must be deferred."""

    node: Node
    stop: threading.Event
    answered: int = 0
    wrong: int = 0
    last: float = 0.0
    gap: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, connection: int) -> None:
        """Ask until told to stop; when the node has gone, until it is back."""
        for name in (f"{self.node.name}c{connection}r{number}" for number in itertools.count()):
            if self.stop.is_set():
                return
            try:
                self.ask(name)
            except OSError:
                self.stop.wait(0.05)

    def ask(self, name: str) -> None:
        """Strangers, one after the other over one connection, as long as it lasts."""
        with contextlib.closing(Postfix(self.node.policy_port)) as postfix:
            for number in itertools.count():
                if self.stop.is_set():
                    return
                stranger = f"{name}n{number}"
                self.seen(postfix.ask("198.51.100.9", f"{stranger}@example.net", "b@example.org", stranger))
                self.stop.wait(PAUSE_SECONDS)

    def seen(self, action: str) -> None:
        """Note one answer."""
        now = time.monotonic()
        with self.lock:
            self.gap = max(self.gap, now - self.last if self.last else 0.0)
            self.last = now
            self.answered += 1
            self.wrong += not action.startswith("DEFER_IF_PERMIT 4.2.0")


def ask(node: Node, sender: str, instance: str) -> str:
    """One mail of a sender who matters, told to the person who watches."""
    with contextlib.closing(Postfix(node.policy_port)) as postfix:
        action = postfix.ask("192.0.2.7", sender, "you@example.org", instance)
    say(f"{sender} at {node.name}: {action}", "yellow" if action.startswith("DEFER") else "green")
    return action


# --- the story


class Watch:
    """Load at every node from its start on, and once a second a line: who leads, how many checks each has answered."""

    def __init__(self) -> None:
        self.loads: list[Load] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._report, daemon=True)]
        self._threads[0].start()

    def add(self, node: Node) -> None:
        load = Load(node, self._stop)
        asking = [threading.Thread(target=load.run, args=(number,), daemon=True) for number in range(CONNECTIONS)]
        for thread in asking:
            thread.start()
        self.loads.append(load)
        self._threads += asking

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _report(self) -> None:
        before: dict[str, int] = {}
        while not self._stop.wait(1.0):
            loads = list(self.loads)
            if not loads:
                continue
            leader = next((name for name in (leader_of(load.node) for load in loads) if name), "(none)")
            rates = "  ".join(f"{load.node.name} {load.answered - before.get(load.node.name, 0):4}" for load in loads)
            before = {load.node.name: load.answered for load in loads}
            say(f"leader {leader}   checks per second: {rates}", "cyan")


def story(nodes: list[Node], loads: list[Load]) -> list[tuple[bool, str]]:
    """Play it; what was expected, and whether it was seen."""
    say("three senders try for the first time, each at another node")
    first = [ask(node, sender, f"1.{sender}") for node, sender in zip(nodes, SENDERS, strict=True)]
    deferred_at = time.monotonic()
    time.sleep(1.0)
    leader = next(node for node in nodes if node.name == leader_of(nodes[0]))
    survivors = [node for node in nodes if node is not leader]
    say(f"kill -9 of the leader, {leader.name}", "red")
    assert leader.process is not None
    leader.process.kill()
    leader.process.wait()
    killed_at = time.monotonic()
    before = [load.answered for load in loads]
    wait_until(lambda: leader_of(survivors[0]) not in (None, leader.name), "another leader")
    say(f"{leader_of(survivors[0])} leads, {time.monotonic() - killed_at:.2f} s later", "cyan")
    early = ask(survivors[-1], SENDERS[0], "2.early")
    time.sleep(max(0.0, deferred_at + DELAY_SECONDS + 0.3 - time.monotonic()))

    say(f"{DELAY_SECONDS} s are over: the senders retry, each at another node than before")
    retried = []
    for number, sender in enumerate(SENDERS):
        elsewhere = next(node for node in survivors if node is not nodes[number])
        retried.append(ask(elsewhere, sender, f"3.{sender}"))
    time.sleep(1.5)

    say(f"{leader.name} is started again")
    leader.start()
    wait_until(lambda: _trails(survivors, leader.name) == 0, f"{leader.name} has caught up")
    say(f"{leader.name} has caught up")
    again = ask(leader, SENDERS[0], "4.again")

    alive = [load for load in loads if load.node in survivors]
    gap = max(load.gap for load in alive)
    answered = [load.answered - was for load, was in zip(loads, before, strict=True) if load.node in survivors]
    return [
        (all(each.startswith("DEFER_IF_PERMIT 4.2.0") for each in first), "every first attempt was deferred"),
        (early.startswith("DEFER_IF_PERMIT 4.2.0"), "a retry that came too early was deferred again"),
        (all(each.startswith("PREPEND X-Greylist") for each in retried), "every retry passed, at another node"),
        (again == "DUNNO", f"{leader.name} knows, after its return, who has passed meanwhile"),
        (all(each > 0 for each in answered), f"both survivors went on answering: {sum(answered)} checks"),
        (
            gap <= GAP_SECONDS,
            f"longest gap in a survivor's answers, from its start on: {gap:.2f} s (at most {GAP_SECONDS:.0f})",
        ),
        (
            sum(load.wrong for load in loads) == 0,
            f"{sum(load.answered for load in loads)} strangers asked, none passed",
        ),
    ]


def _trails(nodes: list[Node], name: str) -> Any:
    """By how many entries the member trails, as the leader knows it; None when nobody knows."""
    for node in nodes:
        for row in node.client.status()["members"]:
            if row["name"] == name and row["linked"] and row["trails_by"] is not None:
                return row["trails_by"]
    return None


def main() -> int:
    """Play the story, sum up, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the three nodes running, to try Postfix with them")
    keep = parser.parse_args().keep
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    say("three mail servers become one cluster; each is asked about strangers from its start on")
    folder = Path(tempfile.mkdtemp(prefix="raftcluster-demo-"))
    nodes: list[Node] = []
    watch = Watch()
    finished = False
    try:
        for node in build(folder, keep):
            nodes.append(node)
            node.start()
            if node is nodes[0]:
                node.run("greylist", "settings", f"delay={DELAY_SECONDS}", "--reason", "a demo must not take long")
            say(f"{node.name} runs; its policy server is at 127.0.0.1:{node.policy_port}")
            watch.add(node)
        wait_until(lambda: len(nodes[0].client.status()["voters"]) == len(NAMES), "all three vote")
        results = story(nodes, watch.loads)
        watch.close()
        click.echo()
        for good, what in results:
            click.echo(click.style("  ok    " if good else "  FAIL  ", fg="green" if good else "red") + what)
        click.echo(f"  took {time.monotonic() - BEGAN:.0f} s")
        finished = all(good for good, _ in results)
        return 0 if finished else 1
    finally:
        watch.close()
        if finished and keep:
            explain(nodes, folder)
        else:
            stop(nodes)
        if not finished:
            click.echo(f"the nodes' logs and data are in {folder}", err=True)
        elif not keep:
            shutil.rmtree(folder)


def explain(nodes: list[Node], folder: Path) -> None:
    """How to use and how to stop what was kept."""
    pids = " ".join(str(node.process.pid) for node in nodes if node.process)
    click.echo(
        "\nThe nodes go on. For Postfix's smtpd_recipient_restrictions, after reject_unauth_destination, one of:"
    )
    for node in nodes:
        click.echo(f"  check_policy_service {{ inet:127.0.0.1:{node.policy_port}, timeout=5s, default_action=DUNNO }}")
    click.echo(f"Look at them:  {' '.join(CLI)} -C {nodes[0].directory} status --watch")
    click.echo(f"Stop them:     kill {pids}; rm -r {folder}")


def stop(nodes: list[Node]) -> None:
    """End the processes of this demo, and only these."""
    running = [node.process for node in nodes if node.process and node.process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
