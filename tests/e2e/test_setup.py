"""From bare hosts with sshd to a cluster by one command; nothing secret is to be found anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e import secrets
from tests.e2e.site import MARK, PASSWORD, PREFIX, USER, bare


@pytest.mark.timeout(240)
def test_bare_hosts_become_a_cluster(tmp_path: Path, artefact: Path) -> None:
    with bare(tmp_path, 2, 1) as site, secrets.Watch(PASSWORD, secrets.TOKEN) as watch:
        asked = ["--user", USER, "--ask-pass", "--artefact", str(artefact), "--name", "mail", "--lab", *site.names]

        # A host whose key is not known is not spoken to: the key is shown, and nothing is done anywhere.
        code, told, said = site.command("setup", *asked, given=PASSWORD)
        assert code == 16 and told["hosts"] == [], said
        shown = next(line.split()[-1] for line in said.splitlines() if line.startswith("mx2.test shows ssh-ed25519"))
        assert site.machines[0].run("test", "-e", PREFIX).returncode != 0

        code, told, said = site.command("setup", "--accept-host-key", shown, *asked, given=PASSWORD)
        assert code == 0, (told, said)
        assert {each["role"] for each in told["hosts"]} == {"leader", "voter"}
        assert {each["artefact"] for each in told["hosts"]} == {told["artefact"]}
        assert {each["generation"] for each in told["hosts"]} == {2}
        for machine in site.machines:
            assert f"installed from artefact {told['artefact']}" in machine.said(f"{PREFIX}/bin/raftcluster", "events")

        # Again: there is nothing to do.
        code, told, said = site.command("setup", *asked, given=PASSWORD)
        assert code == 0 and {str(each["done"]) for each in told["hosts"]} == {"['verify']"}, said
        assert watch.seen == set() and watch.looked > 100
        for machine in [*site.machines, site.admin]:
            assert secrets.files(machine, PASSWORD, secrets.TOKEN, since=MARK) == []


def test_the_search_finds_what_is_secret(tmp_path: Path) -> None:
    with bare(tmp_path, 0, 0) as site, secrets.Watch(PASSWORD, secrets.TOKEN) as watch:
        site.admin.said("sh", "-c", "sleep 0.5; : $0", PASSWORD)
        site.admin.said("env", "TOKEN=rc1.0123456789abcdef.0123456789abcdef.x", "sleep", "0.5")
        site.admin.write("/var/lib/left-behind", f"the password is {PASSWORD}")
        assert {each.split(":")[0] for each in watch.seen} == {"cmdline", "environ"}
        assert secrets.files(site.admin, PASSWORD, secrets.TOKEN, since=MARK) == ["/var/lib/left-behind"]
