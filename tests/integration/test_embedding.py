"""docs/embedding.md: every program on the page runs, from top to bottom, and does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raftcluster import Node
from raftcluster.errors import Rejected
from tests.checkout import ROOT
from tests.clusters import Cluster
from tests.helpers import eventually, free_ports
from tests.local_host import LocalHost

PAGE = ROOT / "docs" / "embedding.md"


def programs() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def run(program: str, name: str, names: dict[str, Any]) -> None:
    exec(compile(program, f"docs/embedding.md, {name}", "exec", dont_inherit=True), names)  # noqa: S102 - it is ours


def test_every_program_of_the_page_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "embedder"}
    (port,) = free_ports(1)
    try:
        for number, program in enumerate(programs()):
            here = program.replace("/var/lib/mail-gateway", str(tmp_path / "node")).replace("9777", str(port))
            run(here, f"program {number + 1}", names)
            if "applied" in names:
                eventually(names["applied"].is_set, what="the settings are applied")
    finally:
        for name in ("server", "door", "node"):
            if name in names:
                names[name].close()
    assert (names["verdict"].action, names["answer"][:3]) == ("defer", "450")
    assert (names["settings"].threshold, names["threshold"]) == (6.5, 6.5)
    assert names["handled"] == "the signature update failed"
    assert names["asked"].action == "defer" and not names["asked"].degraded
    assert names["outcome"] == "quarantine-failed"
    assert names["monthly"] is False, "no program here knows it"
    assert names["fence"] > 0 and names["actions"] == ["defer", "defer"]
    assert names["left"] == 40 and names["refusal"].startswith("anna@example.org has sent to 60 of 100 (wait ")
    assert names["node"].closed


@pytest.fixture
def worked() -> dict[str, Any]:
    """The names of the page's state machine."""
    names: dict[str, Any] = {"__name__": "embedder"}
    (program,) = [each for each in programs() if "class Limits" in each]
    run(program, "the worked example", names)
    return names


def test_the_worked_example_keeps_its_rules(worked: dict[str, Any]) -> None:
    host = LocalHost([worked["Limits"]()])
    for user in ("anna", "bob"):
        assert host.propose("limits", ["take", user, 99, 100]) == 1
    for count in (2, 100):
        with pytest.raises(Rejected) as caught:
            host.propose("limits", ["take", "anna", count, 100])
        assert caught.value.code == "limit-reached" and "wait 3600 s" in str(caught.value)
    assert host.propose("limits", ["take", "anna", 1, 100]) == 0
    for nonsense in (None, ["take"], ["take", "", 1, 1], ["take", "a" * 400, 1, 1], ["take", "a", 0, 1], ["give"]):
        with pytest.raises(Rejected, match="malformed"):
            host.propose("limits", nonsense)
    for table, rows in host.tables["limits"].rows.items():
        for key, value in rows.items():
            host.machines["limits"].inspect(table, key, value)  # type: ignore[attr-defined]
    host.now += 3_600_000
    assert host.propose("limits", ["take", "anna", 100, 100]) == 0, "another hour"
    host.now += 3_600_001
    host.propose("limits", ["take", "carol", 1, 1])
    assert list(host.tables["limits"].rows["windows"]) == [b"carol"], "what is over is removed"


def test_the_worked_example_on_three_nodes(tmp_path: Path, worked: dict[str, Any]) -> None:
    with Cluster(tmp_path, 3, lambda: [worked["Limits"]()]) as cluster:
        nodes: list[Node] = list(cluster.nodes.values())
        left = [nodes[number % 3].propose("limits", ["take", "anna", 10, 100], deadline=60.0) for number in range(10)]
        assert left == list(range(90, -1, -10)), "one limit, through whichever host"
        with pytest.raises(Rejected, match="sent to 100 of 100"):
            nodes[1].propose("limits", ["take", "anna", 1, 100], deadline=60.0)
        assert nodes[2].verify(deadline=60.0).verdict == "sound"
