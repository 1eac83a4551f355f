"""All providers asked, also those of other packages; each host tried; and the command that shows it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import raftcluster
from raftcluster.cli.main import main
from raftcluster.discovery import providers
from raftcluster.discovery.candidate import Reach
from raftcluster.discovery.reach import reach
from raftcluster.errors import Refusal, Unavailable
from tests.helpers import free_ports

INVENTORY = """
from raftcluster.discovery.candidate import Found, Sighting
from raftcluster.errors import Unavailable

class Inventory:
    def find(self, inquiry):
        found = Sighting("inventory", "rack 7", "localhost", ("127.0.0.1",), port={port})
        return Found((found, Sighting("inventory", "rack 8", "mx;reboot"), Sighting("inventory", "")), ("as of today",))

class Failing:
    def find(self, inquiry):
        raise Unavailable("the inventory is closed", remedy="come back tomorrow")
"""
ENTRY_POINTS = """
[raftcluster.discovery]
test-inventory = inventory_for_test:Inventory
test-failing = inventory_for_test:Failing
test-missing = inventory_for_test_that_is_not_there:Inventory
"""


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def inventory(tmp_path: Path, listening: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A package with providers of its own is installed; the port at which its host listens."""
    (tmp_path / "inventory_for_test.py").write_text(INVENTORY.format(port=listening))
    metadata = tmp_path / "inventory_for_test-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: inventory-for-test\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield listening
    sys.modules.pop("inventory_for_test", None)


def test_ours_are_there() -> None:
    assert {"keepalived", "mx", "pacemaker", "srv"} <= set(providers.names())
    assert all(providers.load(name) for name in ("keepalived", "mx", "pacemaker", "srv"))


def test_a_provider_of_another_package_is_asked(inventory: int) -> None:
    found = raftcluster.discover(providers=["test-inventory"], ssh_port=inventory)
    (host,) = found.candidates
    assert (host.name, host.port, host.provenance) == ("localhost", inventory, ("inventory: rack 7",))
    assert host.here and not host.wanted and host.ssh is Reach.UNTRIED, "this host is not tried from itself"
    assert found.remarks["test-inventory"][0] == "as of today"
    assert found.remarks["test-inventory"][1:] == (
        "names what is no host: ('mx;reboot',)",
        "names what is no host: ('',)",
    )


def test_one_that_fails_keeps_the_others_from_nothing_unless_it_was_named(inventory: int) -> None:
    said = raftcluster.discover(tried=False)
    assert "inventory: rack 7" in [origin for each in said.candidates for origin in each.provenance]
    assert said.remarks["test-failing"] == ("failed: the inventory is closed (come back tomorrow)",)
    assert "cannot be used" in said.remarks["test-missing"][0]
    with pytest.raises(Unavailable, match="closed"):
        raftcluster.discover(providers=["test-failing"])
    with pytest.raises(Refusal, match="test-missing"):
        raftcluster.discover(providers=["test-missing"])


def test_a_provider_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(Refusal, match=r"there is no provider 'nothing'.*keepalived, mx, pacemaker, srv"):
        raftcluster.discover(providers=["nothing"])


def test_reach(listening: int) -> None:
    (free,) = free_ports(1)
    assert reach(["127.0.0.1"], listening) is Reach.OPEN
    assert reach(["127.0.0.1"], free) is Reach.REFUSED
    assert reach([], free) is Reach.UNRESOLVED
    assert reach(["::2", "127.0.0.1"], listening) is Reach.OPEN, "the second address answers"
    with socket.socket() as full:  # its queue is full: further connections are not answered
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(("127.0.0.1", port))
            assert reach(["127.0.0.1"], port, 0.3) is Reach.SILENT


def test_the_command(inventory: int) -> None:
    said = CliRunner().invoke(main, ["discover", "--provider", "test-inventory", "--no-reach"])
    assert said.exit_code == 0, said.output
    (line,) = [line for line in said.stdout.splitlines() if "rack 7" in line]
    assert line.split()[:4] == ["localhost", "127.0.0.1", str(inventory), "this"]
    assert said.stderr.startswith("test-inventory: as of today\n")


def test_the_command_as_json(inventory: int) -> None:
    said = CliRunner().invoke(main, ["discover", "--provider", "test-inventory", "--json"])
    document = json.loads(said.stdout)
    assert document["remarks"]["test-inventory"][0] == "as of today"
    assert [(each["name"], each["state"], each["here"]) for each in document["candidates"]] == [
        ("localhost", "listed", True)
    ]
    said = CliRunner().invoke(main, ["discover", "--provider", "test-failing", "--json"])
    assert (said.exit_code, json.loads(said.stdout)["error"]["code"]) == (5, "unavailable")
