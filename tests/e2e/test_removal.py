"""What a push has put on a host is taken away, and that is cut off before each of its commands: `./run setups` runs it."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

from raftcluster.cluster.destroy import MARKER
from raftcluster.push import script
from raftcluster.push.place import Place
from tests.e2e.machines import Machine
from tests.e2e.site import bare, traces
from tests.helpers import eventually

PLACE = Place()
ID = "0123456789abcdef"
RELEASE = r"""
mkdir -p "$release/venv/bin"
: >"$release/SHA256SUMS"
: >"$release/installed"
printf '#!/bin/sh\nexit 1\n' >"$release/venv/bin/raftcluster"
chmod 755 "$release/venv/bin/raftcluster"
"""
ENDED = """
ln -sfn releases/$1 $2/current
ln -sfn current/venv/bin $2/bin
: >/var/log/raftcluster.log
mkdir -p $3/destroyed
echo a-tombstone >$3/destroyed/1.tombstone
[ ! -d /run/systemd/system ] || systemctl enable --quiet raftcluster
"""


def installed(machine: Machine) -> None:
    """As after a push, and a node that has ended with its cluster."""
    files, here = PLACE.files(), [PLACE.prefix, PLACE.directory, ID]
    machine.said("sh", "-c", script._HEAD + script._LOCKED + RELEASE, "sh", *here)
    words = [PLACE.digest, files["unit"], files["supervise"], files["uninstall"], ""]
    machine.said("sh", "-c", script.ARRANGE, "sh", *here, *words)
    machine.said("sh", "-c", ENDED, "sh", ID, PLACE.prefix, PLACE.directory)
    machine.write(f"{PLACE.directory}/{MARKER}", json.dumps({"software": PLACE.prefix}, indent=2))


def resumed(machine: Machine, systemd: bool) -> None:
    """What goes on by itself, as at the next start of the host; then what an administrator does."""
    if systemd:
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "raftcluster")
        eventually(partial(ended, machine), what="the unit has ended")
    else:
        machine.run("sh", "-c", '[ ! -x "$1" ] || "$1"', "sh", f"{PLACE.prefix}/supervise")
    if machine.run("test", "-e", PLACE.prefix).returncode == 0:
        uninstall = PLACE.files()["uninstall"]
        machine.said("sh", "-c", script.UNDO, "sh", PLACE.prefix, PLACE.directory, "", uninstall)


def ended(machine: Machine) -> bool:
    state = machine.run("systemctl", "is-active", "raftcluster").stdout.strip()
    return state in ("inactive", "failed", "unknown")


def test_the_removal_is_cut_off_before_each_of_its_commands(tmp_path: Path) -> None:
    lines = PLACE.files()["uninstall"].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"rm -f {PLACE.prefix}/arranged"))
    places = [n for n in range(first, len(lines)) if not re.match(r"\s*(fi|else|elif|done)\b", lines[n])]
    assert len(places) > 20
    with bare(tmp_path, 2, 0, systemd=1) as site:
        for machine, systemd in zip(site.machines, (False, True), strict=True):
            machine.run("rm", "-rf", PLACE.directory)
            before = traces(machine)
            for number in places[:: 4 if systemd else 1]:  # a unit that is to be started again is given two seconds
                installed(machine)
                cut = "\n".join([*lines[:number], "kill -9 $$", *lines[number:]])
                machine.run("sh", "-c", cut, "sh", "destroyed")
                look = machine.said("sh", "-c", script.LOOK, "sh", PLACE.prefix, PLACE.directory, ID)
                whole = re.search("^(arranged|installed|copied)=", look, re.MULTILINE) is not None
                assert whole is (number == first), f"what is begun to be removed is no release: {lines[number]}"
                resumed(machine, systemd)
                kept = machine.said("find", PLACE.directory, "-mindepth", "1").split()
                assert [Path(each).name for each in kept] == ["destroyed", "1.tombstone"], lines[number]
                machine.said("rm", "-r", PLACE.directory)
                assert traces(machine) == before, lines[number]
