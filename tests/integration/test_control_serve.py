"""`raftcluster serve` as the process that an init system starts and stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftcluster.control.client import Client
from raftcluster.errors import RaftclusterError
from tests.children import Child
from tests.helpers import eventually, free_ports
from tests.policy_client import PolicyClient

COMMAND = [sys.executable, "-m", "raftcluster.cli"]


def run(directory: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """The real command, to its end."""
    command = [*COMMAND, "-C", str(directory), *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A cluster of one, not yet started, at ports that were free a moment ago."""
    (port,) = free_ports(1)
    made = run(tmp_path / "mx1", "init", "--name", "mail", "--node", "mx1", "--listen", f"127.0.0.1:{port}")
    assert made.returncode == 0, made.stderr
    return tmp_path / "mx1"


@pytest.fixture
def node(directory: Path, tmp_path: Path) -> Iterator[Child]:
    child = serve(directory, tmp_path)
    yield child
    child.kill()


def serve(directory: Path, tmp_path: Path) -> Child:
    arguments = [*COMMAND, "-C", str(directory), "serve", "--policy", f"unix:{tmp_path}/policy"]
    child = Child("mx1", arguments, tmp_path / "log")
    eventually(lambda: child.alive() and answers(directory))
    return child


def answers(directory: Path) -> bool:
    try:
        return bool(Client(directory / "control.sock").status()["policy"])
    except RaftclusterError:
        return False


def first_seen(directory: Path) -> int:
    """When, in cluster time, the sender of `asked` came for the first time."""
    explained = Client(directory / "control.sock").greylist.explain("192.0.2.7", "a@example.net", "b@example.org")
    return int(explained["first_seen_ms"])


def asked(tmp_path: Path, instance: str) -> str:
    with PolicyClient(f"unix:{tmp_path}/policy") as client:
        return client.ask(instance=instance)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_what_it_knew_is_there_again(
    node: Child, directory: Path, tmp_path: Path, number: signal.Signals
) -> None:
    assert asked(tmp_path, "1") == "DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 180 s"
    seen = first_seen(directory)
    node.process.send_signal(number)
    assert node.process.wait(60) == 0
    assert not (directory / "control.sock").exists() and not (tmp_path / "policy").exists()
    assert "Traceback" not in node.tail() and "check_policy_service { unix:" in node.tail()
    again = serve(directory, tmp_path)
    assert asked(tmp_path, "2").startswith("DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 1")
    assert first_seen(directory) == seen
    assert again.stop() == 0


def test_kill_leaves_nothing_that_keeps_it_from_starting_again(node: Child, directory: Path, tmp_path: Path) -> None:
    first = asked(tmp_path, "1")
    seen = first_seen(directory)
    node.kill()
    assert (directory / "control.sock").exists()
    again = serve(directory, tmp_path)
    assert asked(tmp_path, "1") == first  # the same instance and recipient: the same decision
    assert first_seen(directory) == seen
    assert again.stop() == 0


def test_a_second_node_in_the_same_directory_is_refused_in_one_line(node: Child, directory: Path) -> None:
    refused = run(directory, "serve", "--policy", "none")
    assert refused.returncode == 8
    assert refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert str(directory) in refused.stderr
    assert node.alive()


def test_a_policy_address_that_is_taken_is_exit_code_9_and_leaves_nothing_running(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"inet:127.0.0.1:{held.getsockname()[1]}"
        refused = run(directory, "serve", "--policy", address)
    assert refused.returncode == 9
    assert f"error: cannot listen at {address}" in refused.stderr and "Traceback" not in refused.stderr
    assert not (directory / "control.sock").exists()


@pytest.mark.parametrize(
    ("verb", "sign"), [(("config", "watch", "--since", "0"), "mail/limit"), (("status", "--watch"), '"term"')]
)
def test_what_is_watched_is_printed_until_interrupted(
    node: Child, directory: Path, tmp_path: Path, verb: tuple[str, ...], sign: str
) -> None:
    Client(directory / "control.sock").config.set("mail/limit", 5)
    watching = Child("watch", [*COMMAND, "-C", str(directory), *verb, "--json"], tmp_path / "watch", pipes=True)
    assert sign in watching.line(60)
    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(60) == 0
    assert watching.stop() == 0 and watching.tail() == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("serve",), 8),
        (("serve", "--policy", "nonsense"), 4),
        (("serve", "--deadline", "soon"), 2),
        (("join", "127.0.0.1:1"), 4),
        (("init",), 2),
    ],
)
def test_what_cannot_begin_says_why(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    refused = run(tmp_path / "none", *arguments, given="no token\n")
    assert refused.returncode == code, refused.stderr
    assert "Traceback" not in refused.stderr
