"""What takes minutes: a set-up of three hosts that is ended at every step and asked again, and the next release, node by node.
`./run setups` runs it."""

from __future__ import annotations

import json
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raftcluster import builtin
from tests.checkout import ROOT
from tests.children import Child
from tests.e2e.machines import Machine
from tests.e2e.site import KEYS, PASSWORD, PREFIX, USER, Site, bare, changed, traces
from tests.helpers import eventually

NEWER = "raftcluster/0.2"
POLICY_PORT = 10023
DELAY_SECONDS = 3
PER_SECOND = 60.0
FILES_OF_A_JOINER = 5


def keyed(artefact: Path, *words: str) -> list[str]:
    return ["--identity", f"{KEYS}/id", "--user", "root", "--artefact", str(artefact), *words]


@pytest.mark.timeout(900)
def test_ended_at_every_step_and_asked_again(tmp_path: Path, artefact: Path) -> None:
    with bare(tmp_path, 3, 3) as site:
        asked = ["--user", USER, "--ask-pass", "--artefact", str(artefact), "--name", "mail", "--lab", *site.names]
        for line in ("mx3.test  copy", "mx2.test  install", "mx3.test  switch", "mx1.test  join", "mx2.test  join"):
            assert site.until(line, "setup", *asked, given=PASSWORD), line
        code, told, said = site.command("setup", *asked, given=PASSWORD)
        assert code == 0, (told, said)
        assert {each["role"] for each in told["hosts"]} == {"leader", "voter"} and len(told["members"]) == 3
        assert {each["artefact"] for each in told["hosts"]} == {told["artefact"]}


@pytest.mark.timeout(900)
def test_a_host_dies_when_it_was_let_in_and_has_written_nothing_of_it(tmp_path: Path, artefact: Path) -> None:
    with bare(tmp_path, 2, 2) as site:
        two, asked = site.machines[1], keyed(artefact, "--name", "mail", "--lab", *site.names)
        # before.json, VERSION, join.json, key and request are written before it asks; the next file is of what it is told.
        two.write("/root/.ssh/environment", f"RAFTCLUSTER_FAILPOINT=file.rename.before:{FILES_OF_A_JOINER + 1}\n")
        code, told, said = site.command("setup", *asked)
        print(said)
        assert code == 17 and [bool(each["error"]) for each in told["hosts"]] == [False, True], said
        half = {each["name"]: each["node_id"] for each in members(site)}
        assert set(half) == set(site.names), "the cluster has let it in"
        left = two.said("ls", "/var/lib/raftcluster").split()
        assert "join.json" in left and "node.json" not in left
        two.said("rm", "/root/.ssh/environment")

        code, told, said = site.command("setup", *asked)
        assert code == 0, (told, said)
        assert {each["role"] for each in told["hosts"]} == {"leader", "voter"} and len(told["members"]) == 2
        after = {each["name"]: each["node_id"] for each in members(site)}
        assert [after[name] == half[name] for name in site.names] == [True, False]


def members(site: Site) -> list[dict[str, Any]]:
    said = site.machines[0].said(f"{PREFIX}/bin/raftcluster", "members", "--json")
    return list(json.loads(said))


@pytest.mark.timeout(900)
def test_the_next_release_node_by_node(tmp_path: Path, artefact: Path) -> None:
    with bare(tmp_path, 2, 2) as site:
        # A host that only gets the program, and is as it was before; then one begins a cluster, and the other joins from there.
        two = site.machines[1]
        there = "ls -d /opt/raftcluster /etc/default/raftcluster /usr/local/bin/raftcluster; id raftcluster; ls /etc/systemd/system"
        bare_host = two.run("sh", "-c", there).stdout
        code, told, said = site.command("push", *keyed(artefact, "--no-join", "--check", "mx2.test"))
        steps = ["copy", "install", "arrange", "switch"]
        assert (code, told["hosts"][0]["done"], told["hosts"][0]["left"]) == (0, [], steps), said
        assert two.run("sh", "-c", there).stdout == bare_host
        code, told, said = site.command("push", *keyed(artefact, "--no-join", "mx2.test"))
        assert (code, told["hosts"][0]["done"]) == (0, steps), said
        assert (
            told["artefact"] in two.said(f"{PREFIX}/bin/raftcluster", "version")
            and two.run("sh", "-c", there).stdout != bare_host
        )
        code, told, said = site.command("push", *keyed(artefact, "--remove", "mx2.test"))
        assert code == 0 and two.run("sh", "-c", there).stdout == bare_host, said

        code, told, said = site.command("setup", *keyed(artefact, "--name", "mail", "--lab", "mx1.test"))
        assert code == 0, (told, said)
        before = told["artefact"][:16]
        for name in ("id", "known_hosts"):
            site.machines[0].write(f"{KEYS}/{name}", site.admin.said("cat", f"{KEYS}/{name}"), "600")
        code, told, said = site.at(site.machines[0], "push", *keyed(artefact, "mx2.test"))
        assert code == 0 and [each["role"] for each in told["members"]] == ["leader", "voter"], (told, said)
        code, told, said = site.command("push", *keyed(artefact, "--remove", "mx2.test"))
        assert code == 17 and "a node is in" in told["hosts"][0]["error"], "what runs is not taken away"

        # A release that does not start stops the roll at the first node, which gets the former one again.
        broken = changed(
            artefact, tmp_path / "broken", "raftcluster/cli/serve.py", "    with service:\n", "    with 0:\n"
        )
        code, told, said = site.command("push", *keyed(broken, "--upgrade", *site.names))
        wrong = [each for each in told["hosts"] if each["error"]]
        assert code == 17 and [each["undone"] for each in wrong] == [True], (told, said)
        assert [each["done"] for each in told["hosts"] if not each["error"]] == [["copy", "install"]]
        assert [running(site, number) for number in (0, 1)] == [before, before]

        # The next release, the leader last.
        newer = changed(artefact, tmp_path / "newer", "raftcluster/builtin.py", builtin.PRODUCT, NEWER)
        leader = site.leader()
        code, told, said = site.command("push", *keyed(newer, "--upgrade", *site.names))
        assert code == 0, (told, said)
        order = [line.split()[0] for line in said.splitlines() if line.endswith("  verify")]
        assert len(order) == 2 and order[-1] == leader, (order, leader)
        assert [each["product"] for each in site.status()["members"]] == [NEWER] * 2
        code, told, said = site.command("push", *keyed(newer, "--upgrade", *site.names))
        assert code == 0 and [each["done"] for each in told["hosts"]] == [[], []], said

        # The cluster ends and the program stays; then another one is begun with what is there, and ends with all of it.
        destroy = [f"{PREFIX}/bin/raftcluster", "destroy", "--every-node", "--confirm"]
        site.machines[0].said(*destroy, "mail", "--keep-software", timeout=120)
        eventually(lambda: two.run("test", "-e", "/var/lib/raftcluster/VERSION").returncode != 0, what="mx2 has ended")
        there_still = two.said(f"{PREFIX}/bin/raftcluster", "version")
        assert told["artefact"] in there_still and two.run("id", "raftcluster").returncode == 0
        code, told, said = site.command("setup", *keyed(newer, "--name", "next", "--lab", *site.names))
        assert code == 0, (told, said)
        assert {str(each["done"]) for each in told["hosts"]} == {"['join', 'start', 'verify']"}
        two.said(*destroy, "next", timeout=120)
        eventually(lambda: two.run("sh", "-c", there).stdout == bare_host, what="mx2 is as it was before")
        eventually(lambda: site.machines[0].run("test", "-e", PREFIX).returncode != 0, what="and so is mx1")


def test_three_nodes_are_upgraded_while_mail_comes_in(tmp_path: Path, artefact: Path) -> None:
    newer = changed(artefact, tmp_path / "newer", "raftcluster/builtin.py", builtin.PRODUCT, NEWER)
    seed = random.SystemRandom().randrange(2**32)
    with bare(tmp_path, 3, 3) as site:
        before = {machine.name: traces(machine) for machine in site.machines}
        setup = ["--name", "mail", "--lab", "--policy", f"inet:0.0.0.0:{POLICY_PORT}", *site.names]
        code, told, said = site.command("setup", *keyed(artefact, *setup))
        assert code == 0, (told, said)
        wanted = [f"delay={DELAY_SECONDS}", "on_unavailable=defer", "auto_allow=0"]
        site.machines[0].said(f"{PREFIX}/bin/raftcluster", "greylist", "settings", *wanted)
        leader = site.leader()
        plan = [[f"inet:{each.address}:{POLICY_PORT}" for each in site.machines], DELAY_SECONDS, PER_SECOND, seed]
        words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.e2e.traffic", json.dumps(plan)]
        traffic = Child("traffic", site.admin.command(words), tmp_path / "traffic.log", pipes=True)
        try:
            assert traffic.line(60.0) == "begun"
            code, told, said = site.command("push", *keyed(newer, "--upgrade", *site.names))
            print(said)
            traffic.tell("end")
            answers, wrong, moved = json.loads(traffic.line(60.0))
        finally:
            traffic.stop()
        print(
            f"seed {seed}: {sum(answers.values())} requests, {answers}, {len(wrong)} wrong; {moved} went to the next node"
        )
        assert code == 0, (told, said)
        order = [line.split()[0] for line in said.splitlines() if line.endswith("  verify")]
        assert len(order) == 3 and order[-1] == leader, (order, leader)
        assert [each["product"] for each in site.status()["members"]] == [NEWER] * 3
        assert wrong == [] and answers["passed"] > 0 and moved >= 3, (answers, wrong, moved)

        # The cluster ends while one is down, and goes there as well when it is shown the tombstone.
        one, _, three = site.machines
        three.said("sh", "-c", "kill $(cat /var/lib/raftcluster/LOCK)")
        eventually(lambda: three.run(f"{PREFIX}/bin/raftcluster", "status").returncode != 0, what="mx3 is down")
        one.said(f"{PREFIX}/bin/raftcluster", "destroy", "--every-node", "--confirm", "mail", timeout=120)
        (stone,) = one.said("find", "/var/lib/raftcluster", "-name", "*.tombstone").split()
        three.said("sh", "-c", "base64 -d >/root/stone", stdin=one.said("base64", stone))
        three.said(f"{PREFIX}/bin/raftcluster", "destroy", "--tombstone", "/root/stone", timeout=120)
        for machine in site.machines:
            eventually(partial(as_before, machine, before[machine.name]), what=f"{machine.name} is as it was")


def as_before(machine: Machine, before: str) -> bool:
    """But for the archive."""
    return [line for line in traces(machine).splitlines() if "/var/lib/raftcluster" not in line] == before.splitlines()


def running(site: Site, number: int) -> str:
    """The release that runs on a machine."""
    return site.machines[number].said("readlink", f"{PREFIX}/current").strip().removeprefix("releases/")
