"""A host that lets in nobody but who shows a Kerberos ticket; the KDC is a real one. `./run setups` runs it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.site import PREFIX, USER, bare
from tests.helpers import eventually

REALM = "EXAMPLE.ORG"
TICKET_PASSWORD = "kaartje-8812"
CONFIG = f"""[libdefaults]
default_realm = {REALM}
dns_lookup_kdc = false
dns_canonicalize_hostname = false
rdns = false
[realms]
{REALM} = {{
 kdc = 10.77.0.2
}}
"""
SSHD = """
PasswordAuthentication no
PubkeyAuthentication no
GSSAPIAuthentication yes
GSSAPIStrictAcceptorCheck no
"""
DATABASE = f"""
set -eu
mkdir -p /var/lib/krb5kdc /etc/krb5kdc
kdb5_util create -s -r {REALM} -P of-the-database
kadmin.local -q 'addprinc -pw {TICKET_PASSWORD} {USER}'
kadmin.local -q 'addprinc -randkey host/mx1.test'
kadmin.local -q 'ktadd -k /root/keytab host/mx1.test'
base64 /root/keytab >/root/keytab.text
"""


def test_a_ticket_lets_in_where_nothing_else_does(tmp_path: Path, artefact: Path) -> None:
    with bare(tmp_path, 1, 1) as site:
        one, admin = site.machines[0], site.admin
        for machine in (one, admin):
            machine.write("/etc/krb5.conf", CONFIG)
        admin.said("sh", "-c", DATABASE)
        kdc = admin.start("krb5kdc", ["/usr/sbin/krb5kdc", "-n"])
        one.said("sh", "-c", "base64 -d >/etc/krb5.keytab", stdin=admin.said("cat", "/root/keytab.text"))
        one.write("/etc/sudoers.d/keeper", f"{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n", "440")
        config = one.said("cat", "/etc/ssh/test_sshd_config").replace("PasswordAuthentication yes", "")
        one.write("/etc/ssh/test_sshd_config", f"{SSHD}{config}")
        one.said("pkill", "-HUP", "-o", "sshd")

        push = ["--no-join", "--user", USER, "--artefact", str(artefact), "mx1.test"]
        refused = admin.run(*site.words("push", *push))
        assert refused.returncode == 16 and "Permission denied (gssapi" in refused.stderr, refused.stderr
        eventually(
            lambda: kdc.alive() and admin.run("kinit", USER, stdin=f"{TICKET_PASSWORD}\n").returncode == 0,
            what="a ticket",
        )
        code, told, said = site.command("push", *push)
        assert code == 0 and told["hosts"][0]["error"] is None, said
        assert told["artefact"] in one.said(f"{PREFIX}/bin/raftcluster", "version")
        assert f"host/mx1.test@{REALM}" in admin.said("klist")
