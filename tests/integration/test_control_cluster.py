"""Three nodes as `serve` runs them: every verb works at a follower (R1), and Postfix is answered by all."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import raftcluster
from raftcluster.cli.main import main
from raftcluster.control.client import Client
from tests.helpers import eventually, free_ports
from tests.policy_client import PolicyClient

NAMES = ("mx1", "mx2", "mx3")


def cli(directory: Path, *arguments: str, given: str = "") -> Result:
    result = CliRunner().invoke(main, ["-C", str(directory), *arguments], input=given)
    assert result.exit_code == 0, f"{arguments}: {result.output}"
    return result


def cli_json(directory: Path, *arguments: str) -> Any:
    return json.loads(cli(directory, *arguments, "--json").stdout)


class Cluster:
    """Three services in this process; `init`, `invite`, `join` by the commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directories = [folder / name for name in NAMES]
        self.services: list[raftcluster.Service] = []
        self._running = ExitStack()

    def start(self) -> None:
        first, ports = self.directories[0], dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        for name, directory in zip(NAMES, self.directories, strict=True):
            here = ("--node", name, "--listen", f"127.0.0.1:{ports[name]}")
            if directory is first:
                cli(directory, "init", "--name", "mail", "--lab", *here)
            else:
                token = cli(first, "invite", name).stdout
                cli(directory, "join", f"127.0.0.1:{ports[NAMES[0]]}", *here, given=token)
            service = raftcluster.Service(directory, policy="inet:127.0.0.1:0")
            self._running.enter_context(service)
            self.services.append(service)
            eventually(lambda: client(directory).status()["members"])  # noqa: B023 - called at once
        eventually(lambda: len(client(first).status()["voters"]) == 3)

    def leader(self) -> Path:
        """The directory of the node that leads, once all agree."""

        def agreed() -> str | None:
            leaders = {client(each).status()["leader"] for each in self.directories}
            return next(iter(leaders)) if len(leaders) == 1 else None

        found = eventually(agreed)
        return next(each for each in self.directories if client(each).status()["id"] == found)

    def follower(self) -> Path:
        leader = self.leader()
        return next(each for each in self.directories if each != leader)

    def close(self) -> None:
        self._running.close()


def client(directory: Path) -> Client:
    return Client(directory / "control.sock", timeout=60)


@pytest.fixture(scope="module")
def made() -> Iterator[list[Cluster]]:
    clusters: list[Cluster] = []
    yield clusters
    for each in clusters:
        each.close()


@pytest.fixture
def cluster(made: list[Cluster], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The one that was there, unless a test has destroyed it: tests run in any order."""
    if not made or not made[-1].directories[0].exists():
        made.append(Cluster(tmp_path_factory.mktemp("cluster")))
        made[-1].start()
    return made[-1]


def test_configuration_set_at_a_follower_is_read_everywhere_at_its_revision(cluster: Cluster) -> None:
    revision = cli_json(cluster.follower(), "config", "set", "mail/limit", "7", "--reason", "test")["revision"]
    for directory in cluster.directories:
        eventually(lambda: client(directory).config.get("mail/limit") == 7)  # noqa: B023 - called at once
        assert cli_json(directory, "config", "get", "mail/limit")["revision"] == revision


def test_a_change_at_the_leader_is_watched_at_a_follower(cluster: Cluster) -> None:
    changes = client(cluster.follower()).config.watch("seen/", since=0)
    cli(cluster.leader(), "config", "set", "seen/it", "yes")
    assert next(changes)["value"] == "yes"
    changes.close()  # type: ignore[attr-defined]


def test_a_sender_deferred_at_one_node_passes_at_another(cluster: Cluster) -> None:
    cli(cluster.follower(), "greylist", "settings", "delay=1")
    addresses = [client(each).status()["policy"]["address"] for each in cluster.directories]
    with PolicyClient(addresses[0]) as first, PolicyClient(addresses[2]) as last:
        assert first.ask(sender="x@example.net", instance="1") == "DEFER_IF_PERMIT 4.2.0 Greylisted, retry in 1 s"
        numbers = iter(range(2, 10_000))

        def passed() -> str:
            action = last.ask(sender="x@example.net", instance=str(next(numbers)))
            return "" if action.startswith("DEFER_IF_PERMIT 4.2.0") else action

        assert re.match(r"PREPEND X-Greylist: delayed \d+ seconds", eventually(passed))
        assert first.ask(sender="x@example.net", instance="last") == "DUNNO"
    explained = cli_json(cluster.follower(), "greylist", "explain", "192.0.2.7", "x@example.net", "b@example.org")
    assert explained["action"] == "pass"


def test_every_other_verb_works_at_a_follower(cluster: Cluster) -> None:
    here = cluster.follower()
    assert len(cli_json(here, "status")["members"]) == 3
    assert [each["name"] for each in cli_json(here, "members")] == list(NAMES)
    assert "leader" in cli(here, "status").stdout
    assert "records" in cli_json(here, "greylist", "stats")
    cli(here, "config", "set", "gone", "1")
    cli(here, "config", "delete", "gone")
    assert "gone" not in cli(here, "config", "keys").stdout
    assert len(cli_json(here, "config", "history", "gone")) == 2
    token = cli(here, "invite", "mx4.example.org", "--ttl", "5m").stdout.split(".")[1]
    cli(here, "tokens", "revoke", token)
    assert {each["token_id"]: each["revoked"] for each in cli_json(here, "tokens")}[token]
    host, port = cli_json(here, "members")[0]["host"], cli_json(here, "members")[0]["port"]
    cli(here, "members", "move", "mx1", f"{host}:{port}")


def test_leadership_is_transferred_from_a_follower_to_it(cluster: Cluster) -> None:
    here = cluster.follower()
    assert cli(here, "transfer", here.name).stdout == f"{here.name} leads\n"
    assert cluster.leader() == here


def test_certificates_are_renewed_from_a_follower(cluster: Cluster) -> None:
    before = cli_json(cluster.follower(), "certs")["generation"]
    number = cli_json(cluster.follower(), "certs", "rotate")["generation"]
    assert number > before
    for directory in cluster.directories:
        eventually(lambda: client(directory).certs.show()["generation"] == number)  # noqa: B023 - called at once


def test_who_has_changed_what_is_one_log_on_every_node_and_in_each_event_record(cluster: Cluster) -> None:
    here, user = cluster.follower(), getpass.getuser()
    because = ("--reason", "audited")
    cli(here, "config", "set", "audited/key", "a-value", *because)
    token = cli(here, "invite", "mx9.example.org", *because).stdout.split(".")[1]
    cli(here, "tokens", "revoke", token, *because)
    leader = cluster.leader().name
    cli(here, "transfer", leader, *because)  # it leads already: nothing to decide
    cli(here, "transfer", *because)
    number = cli_json(here, "certs", "rotate", *because)["generation"]
    wanted = [
        ("cluster", "rotate", f"generation {number}"),
        ("cluster", "transfer", "to whoever has most"),
        ("cluster", "revoke", f"mx9.example.org (token {token})"),
        ("cluster", "invite", f"mx9.example.org (token {token})"),
        ("config", "set", "audited/key"),
    ]

    def told(directory: Path) -> list[dict[str, Any]]:
        return [row for row in cli_json(directory, "audit") if row["reason"] == "audited"]

    for directory in cluster.directories:
        eventually(lambda: len(told(directory)) == len(wanted))  # noqa: B023 - called at once
        rows = told(directory)
        assert [(row["log"], row["action"], row["subject"]) for row in rows] == wanted
        assert {(row["author"], row["origin"]) for row in rows} == {(user, here.name)}
        assert [row["time"] for row in rows] == sorted((row["time"] for row in rows), reverse=True)
        joins = [row for row in cli_json(directory, "audit") if row["action"] == "join"]
        assert sorted((row["author"], row["origin"]) for row in joins) == [("mx2", "127.0.0.1"), ("mx3", "127.0.0.1")]
        shown = cli(directory, "audit", "--limit", "1").stdout.splitlines()
        assert len(shown) == 2 and "audited" in shown[1]

    def recorded(directory: Path) -> list[str]:
        lines = cli(directory, "events", "--json", "--event", "cluster-changed").stdout.splitlines()
        fields = [json.loads(line)["fields"] for line in lines]
        return [each["action"] for each in fields if (each["author"], each["reason"]) == (user, "audited")]

    for directory in cluster.directories:
        eventually(lambda: recorded(directory) == ["invite", "revoke", "transfer", "rotate"])  # noqa: B023
        assert "a-value" not in cli(directory, "audit").stdout


def test_destroying_at_a_follower_ends_every_node(cluster: Cluster) -> None:
    refused = CliRunner().invoke(main, ["-C", str(cluster.follower()), "destroy", "--confirm", "mail"])
    assert refused.exit_code == 4  # there are others, and nobody said that they are meant
    plan = cli_json(cluster.follower(), "destroy", "--dry-run")
    assert [row["node"] for row in plan] == list(NAMES) and all(row["reached"] for row in plan)
    shown = cli(cluster.leader(), "destroy", "--dry-run").stdout
    assert shown.count("cluster-destroyed") == 3 and shown.count("stop the node") == 3
    event = cli_json(cluster.follower(), "destroy", "--confirm", "mail", "--every-node", "--reason", "test over")
    with ThreadPoolExecutor() as pool:
        for waiting in [pool.submit(service.wait) for service in cluster.services]:
            waiting.result(60)
    cluster.close()
    for directory in cluster.directories:
        eventually(lambda: not directory.exists())  # noqa: B023 - called at once
        assert event["event_id"] in cli(directory, "events", "--event", "cluster-destroyed").stdout
