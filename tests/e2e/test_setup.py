"""From bare hosts with sshd to a cluster by one command; nothing secret is to be found anywhere."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from raftcluster.push.place import Place
from tests.e2e import secrets
from tests.e2e.postfix import DOMAIN, Postfix, SystemLog
from tests.e2e.site import MARK, PASSWORD, PREFIX, USER, Site, bare, traces
from tests.helpers import eventually

DELAY_SECONDS = 2
POLICY = "inet:127.0.0.1:10023"
ASK = """
exec 3<>/dev/tcp/127.0.0.1/10023
printf 'request=smtpd_access_policy\\nprotocol_state=RCPT\\nclient_address=192.0.2.7\\n' >&3
printf 'sender=a@example.net\\nrecipient=b@example.test\\ninstance=1.%s\\n\\n' "$(uname -n)" >&3
head -n 1 <&3
"""


def test_bare_hosts_become_a_cluster(tmp_path: Path, artefact: Path, system_log: SystemLog) -> None:
    with bare(tmp_path, 3, 1, systemd=1) as site, secrets.Watch(PASSWORD, secrets.TOKEN) as watch:
        asked = ["--user", USER, "--ask-pass", "--artefact", str(artefact), "--name", "mail", "--lab", *site.names]

        before = [traces(site.machines[number]) for number in range(3)]

        # A host whose key is not known is not spoken to: the key is shown, and nothing is done anywhere.
        code, told, said = site.command("setup", *asked, given=PASSWORD)
        assert code == 16 and told["hosts"] == [], said
        assert site.machines[0].run("test", "-e", PREFIX).returncode != 0

        keys = [line.split()[-1] for line in said.splitlines() if line.startswith("mx") and "shows ssh-ed25519" in line]
        began = time.monotonic()
        accepted = [each for key in keys for each in ("--accept-host-key", key)]
        code, told, said = site.command("setup", *accepted, *asked, given=PASSWORD)
        print(f"from bare hosts to a verified cluster: {time.monotonic() - began:.1f} s")
        assert code == 0, (told, said)
        assert {each["role"] for each in told["hosts"]} == {"leader", "voter"}
        assert {each["artefact"] for each in told["hosts"]} == {told["artefact"]}
        assert {each["generation"] for each in told["hosts"]} == {2}
        for machine in site.machines:
            assert f"installed from artefact {told['artefact']}" in machine.said(f"{PREFIX}/bin/raftcluster", "events")

        # Each answers: a stranger waits. What a real Postfix defers passes at the one of another host.
        for machine in site.machines:
            assert machine.said("bash", "-c", ASK, timeout=60).startswith("action=DEFER"), machine.name
        deferred_and_passed(site, system_log)

        # Again: there is nothing to do.
        code, told, said = site.command("setup", *asked, given=PASSWORD)
        assert code == 0 and {str(each["done"]) for each in told["hosts"]} == {"['verify']"}, said
        assert watch.seen == set() and watch.looked > 20
        for machine in [*site.machines, site.admin]:
            assert secrets.files(machine, PASSWORD, secrets.TOKEN, since=MARK) == []

        # The end of the cluster: what the push has made goes from each host, also where systemd runs the node.
        first = site.machines[0]
        plan = json.loads(first.said(f"{PREFIX}/bin/raftcluster", "destroy", "--dry-run", "--json"))
        assert [f"remove what a push has put here: {PREFIX}," in row["steps"][-1] for row in plan] == [True] * 3
        kept = json.loads(first.said(f"{PREFIX}/bin/raftcluster", "destroy", "--dry-run", "--keep-software", "--json"))
        assert {row["steps"][-1] for row in kept} == {f"leave the program in {PREFIX}, as asked"}
        assert [traces(site.machines[number]) == before[number] for number in range(3)] == [False] * 3
        first.said(f"{PREFIX}/bin/raftcluster", "destroy", "--confirm", "mail", "--every-node", timeout=120)
        for number in range(3):
            eventually(partial(as_before, site, number, before[number]), what=f"mx{number + 1} is as it was before")


def deferred_and_passed(site: Site, log: SystemLog) -> None:
    with ExitStack() as stack:
        mails = [Postfix(site.hosts, number, log, f"check_policy_service {POLICY}") for number in (1, 3)]
        for mail in mails:
            stack.callback(mail.close)
            mail.launch()
        for mail in mails:
            mail.wait()
        site.machines[1].said(f"{PREFIX}/bin/raftcluster", "greylist", "settings", f"delay={DELAY_SECONDS}")
        triplet = ("192.0.2.77", "first@example.org", f"box@{DOMAIN}")
        first = mails[0].send(*triplet)
        assert first.recipient.code == 450, first.transcript
        eventually(lambda: mails[1].send(*triplet).recipient.code == 250, what="it passes at another host")


def as_before(site: Site, number: int, before: str) -> bool:
    """But for the tombstone and the event record."""
    lines = traces(site.machines[number]).splitlines()
    kept = [line for line in lines if line.startswith("/var/lib/raftcluster")]
    names = [line.split()[0].rpartition(".")[2].rpartition("/")[2] for line in kept]
    return [line for line in lines if line not in kept] == before.splitlines() and names == [
        "raftcluster",
        "destroyed",
        "log",
        "tombstone",
    ]


def test_the_search_finds_what_is_secret(tmp_path: Path) -> None:
    with bare(tmp_path, 0, 0) as site, secrets.Watch(PASSWORD, secrets.TOKEN) as watch:

        def shown() -> bool:
            site.admin.said("sh", "-c", "sleep 0.5; : $0", PASSWORD)
            site.admin.said("env", "TOKEN=rc1.0123456789abcdef.0123456789abcdef.x", "sleep", "0.5")
            return {each.split(":")[0] for each in watch.seen} == {"cmdline", "environ"}

        eventually(shown, what="a process that shows it for half a second is looked at")
        site.admin.write("/var/lib/left-behind", f"the password is {PASSWORD}")
        assert secrets.files(site.admin, PASSWORD, secrets.TOKEN, since=MARK) == ["/var/lib/left-behind"]


def test_the_unit_is_one_that_systemd_knows(tmp_path: Path) -> None:
    file = tmp_path / "raftcluster.service"
    text = Place(str(tmp_path)).files()["unit"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "raftcluster").symlink_to("/bin/true")
    for words, complaint in ((text, ""), (text.replace("NoNewPrivileges=", "NoNewPrivilege="), "NoNewPrivilege")):
        file.write_text(words)
        done = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60)
        assert (complaint in done.stderr) if complaint else done.stderr == ""
