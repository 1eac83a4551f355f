"""What pacemaker 2.1.5 and corosync 3.1.7 have printed, recorded on three hosts: before, with all, with mx3 down, and taken out."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftcluster.discovery import pacemaker_status
from raftcluster.discovery.candidate import Found, State
from raftcluster.discovery.inquiry import Inquiry
from raftcluster.discovery.pacemaker import Pacemaker
from raftcluster.discovery.site import Site
from raftcluster.errors import Refusal
from tests.checkout import ROOT

RECORDED = ROOT / "tests" / "unit" / "recorded" / "pacemaker-2.1.5"
COMMAND = """#!/bin/sh
file={folder}/{moment}-$(basename "$0")
case "$(basename "$0") $1" in "crm_node "*) file=$file$1;; esac
[ -f "$file" ] || {{ echo "unexpected: $0 $*" >&2; exit 64; }}
if grep -q '^!!' "$file"; then sed 's/^!! [0-9]* //' "$file" >&2; exit 102; fi
cat "$file"
"""
CONF = "nodelist {\n node {\n name: mx1\n ring0_addr: 10.77.0.1\n nodeid: 1\n }\n}\n"
MEMBERS = [
    ("mx1", ("10.77.0.1",), State.MEMBER),
    ("mx2", ("10.77.0.2",), State.MEMBER),
    ("mx3", ("10.77.0.3",), State.MEMBER),
]


def site(folder: Path, moment: str) -> Site:
    """A host whose commands print what was recorded at that moment."""
    (folder / "bin").mkdir()
    for name in ("crm_node", "corosync-cmapctl", "cibadmin"):
        command = folder / "bin" / name
        command.write_text(COMMAND.format(folder=RECORDED, moment=moment))
        command.chmod(0o755)
    return Site(folder, str(folder / "bin"))


def found(folder: Path, moment: str) -> Found:
    return Pacemaker().find(Inquiry(site(folder, moment)))


def told(said: Found) -> list[tuple[str, tuple[str, ...], State]]:
    return [(each.name, each.addresses, each.state) for each in said.sightings]


def test_all_members_are_up(tmp_path: Path) -> None:
    said = found(tmp_path, "all")
    assert told(said) == MEMBERS
    assert said.remarks == ()
    assert said.sightings[0].origin == "crm_node, corosync-cmapctl, node 1"


def test_a_member_that_is_down_belongs_to_the_cluster(tmp_path: Path) -> None:
    assert told(found(tmp_path, "down")) == [*MEMBERS[:2], ("mx3", ("10.77.0.3",), State.DOWN)]


def test_a_member_that_was_taken_out_is_past_though_pacemaker_remembers_it(tmp_path: Path) -> None:
    said = found(tmp_path, "past")
    assert told(said) == [*MEMBERS[:2], ("mx3", ("10.77.0.3",), State.PAST)]
    assert said.sightings[2].origin.endswith("node 3, past member")


def test_corosync_without_pacemaker_knows_its_members(tmp_path: Path) -> None:
    said = found(tmp_path, "corosync")
    assert told(said) == MEMBERS
    assert said.sightings[0].origin == "corosync-cmapctl, node 1"
    assert "Could not connect to controller" in said.remarks[0], "and why pacemaker was not heard is said"


def test_where_neither_runs_the_file_has_to_do(tmp_path: Path) -> None:
    conf = tmp_path / "etc" / "corosync" / "corosync.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text(CONF)
    said = found(tmp_path, "stopped")
    assert told(said) == [("mx1", ("10.77.0.1",), State.LISTED)]
    assert len(said.remarks) == 4 and "CS_ERR_LIBRARY" in said.remarks[3]


def test_without_a_nodelist_who_is_absent_is_down_not_past() -> None:
    known = pacemaker_status.remembered("1 mx1 member\n3 mx3 lost\n4\n")
    live = pacemaker_status.live(known, frozenset({"mx1"}), {}, [])
    assert [(each.name, each.state) for each in live] == [("mx1", State.MEMBER), ("mx3", State.DOWN)]


def test_remote_nodes_have_no_corosync_and_are_listed() -> None:
    """As the manual has them; none was recorded."""
    cib = '<nodes><node id="1" uname="mx1"/><node id="mx7" uname="mx7" type="remote"/></nodes>'
    remote = pacemaker_status.remotes(cib)
    assert remote == ["mx7"]
    live = pacemaker_status.live(pacemaker_status.remembered("1 mx1 member"), frozenset({"mx1"}), {}, remote)
    assert [(each.name, each.state) for each in live] == [("mx1", State.MEMBER), ("mx7", State.LISTED)]


def test_addresses_on_two_links() -> None:
    keys = pacemaker_status.keys("runtime.members.1.ip (str) = r(0) ip(10.77.0.1) r(1) ip(2001:db8::1) \n")
    assert pacemaker_status.addresses(keys, "1") == ("10.77.0.1", "2001:db8::1")


@pytest.mark.parametrize("text", ["", "<nodes>", "Error performing operation: No such device"])
def test_what_is_no_xml_is_refused(text: str) -> None:
    with pytest.raises(Refusal, match="no XML"):
        pacemaker_status.remotes(text)
