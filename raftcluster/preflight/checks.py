"""Each check of a host by what it has said of itself. Pure: facts in, a row out.

The remedies are commands for the host's own package manager and tools, as far as it has said which it has.
"""

from __future__ import annotations

from typing import Final

from raftcluster import limits
from raftcluster.discovery.checked import Host
from raftcluster.firewall.foreign import obstacles
from raftcluster.preflight.report import Check, Outcome, Row
from raftcluster.remote.facts import Facts
from raftcluster.remote.ssh import Failure, Login, SshFailed

PYTHON: Final = (3, 11)
FREE_BYTES: Final = 2 * limits.GIB
"""The least for software (some 150 MiB), the log, the tables of a million triplets, and a snapshot beside them."""
SHARED: Final = frozenset({"nfs", "nfs4", "cifs", "smb", "smb2", "fuse", "fuseblk", "9p", "v9fs", "afs", "ceph"})
"""File systems on which LMDB's locks or syncs do not hold."""
MEMORY: Final = frozenset({"tmpfs", "ramfs"})
"""File systems that are gone after a restart."""
_PACKAGES: Final = {
    "apt-get": "apt-get install -y {}",
    "dnf": "dnf install -y {}",
    "zypper": "zypper install -y {}",
    "pacman": "pacman -S --noconfirm {}",
    "apk": "apk add {}",
}


def way_rows(host: Host, login: Login, shown: str = "") -> list[Row]:
    """Whether there is a way to it: name, SSH, account. `shown` are the fingerprints of the keys that it shows."""
    name, failure = host.name, host.failure
    kind = failure.failure if isinstance(failure, SshFailed) else None
    if not host.candidate.addresses or kind is Failure.UNRESOLVED:
        why = failure.message if failure is not None else f"no address is known for {name}"
        mend = f"echo 'ADDRESS {name}' >> /etc/hosts, here; or enter it in DNS"
        return [Row(name, Check.RESOLVES, Outcome.FAILED, why, mend), *_unknown(name, Check.SSH, Check.ACCOUNT)]
    rows = [_passed(name, Check.RESOLVES, ", ".join(host.candidate.addresses))]
    if failure is not None and kind is not Failure.ACCOUNT:
        mend = failure.remedy or f"ssh -v {name} true"
        said = failure.message + (f"; it shows {shown}" if shown else "")
        return [*rows, Row(name, Check.SSH, Outcome.FAILED, said, mend), *_unknown(name, Check.ACCOUNT)]
    rows.append(_passed(name, Check.SSH, "its key is known"))
    user = host.candidate.user or login.user
    if failure is not None:
        said = f"{user or 'this user'} is not let in: {failure.message}"
        return [*rows, Row(name, Check.ACCOUNT, Outcome.FAILED, said, failure.remedy)]
    assert host.facts is not None
    return [*rows, _passed(name, Check.ACCOUNT, host.facts.user or user)]


def host_rows(host: Host, port: int, directory: str, mixed: str) -> list[Row]:
    """What is right and wrong on the host itself; `mixed` names whose realms differ, if any do."""
    name, facts = host.name, host.facts
    if facts is None:
        own = (Check.PRIVILEGE, Check.REALM, Check.INSTALLED, Check.PYTHON, Check.DISK, Check.CLOCK, Check.FIREWALL)
        return _unknown(name, *own)
    return [
        privilege(name, facts),
        realm(host, mixed),
        installed(name, facts, directory),
        python(name, facts),
        disk(name, facts),
        clock(host),
        *firewall(name, facts, port),
    ]


def privilege(name: str, facts: Facts) -> Row:
    """Whether the account is root or becomes it without being asked."""
    if facts.root:
        return _passed(name, Check.PRIVILEGE, "sudo without a password" if facts.sudo else "root")
    said = f"{facts.user} is not root, and " + ("sudo asks for a password" if facts.sudo else "there is no sudo")
    mend = "" if facts.sudo else install(facts, "sudo") + " && "
    rule = f"{facts.user} ALL=(ALL:ALL) NOPASSWD: ALL"
    return _failed(
        name, Check.PRIVILEGE, said, f"{mend}echo '{rule}' | install -m 440 /dev/stdin /etc/sudoers.d/raftcluster"
    )


def realm(host: Host, mixed: str) -> Row:
    """Whom the host trusts; one cluster, one realm."""
    if host.realm is None:
        why = host.facts.unread if host.facts is not None else ""
        return _failed(host.name, Check.REALM, f"cannot be told: {why}", "say --realm NAME, or log in as root")
    if mixed:
        return _failed(host.name, Check.REALM, f"{host.realm}; {mixed}", "realm join REALM, or realm leave")
    return _passed(host.name, Check.REALM, host.realm)


def installed(name: str, facts: Facts, directory: str) -> Row:
    """Whether a node is there already, or something that is in its place."""
    if facts.node is not None:
        said = f"a node of the cluster {facts.node.get('cluster', '?')} ({facts.node.get('cluster_id', '?')})"
        return _failed(name, Check.INSTALLED, said, f"raftcluster -C {directory} destroy, if that cluster may go")
    if facts.directory == "yes":
        return _failed(name, Check.INSTALLED, f"{directory} is begun, and no node's", f"mv {directory} {directory}.old")
    if facts.directory == "unknown":
        return Row(name, Check.INSTALLED, Outcome.UNKNOWN, f"{directory} is there, and only root may look into it")
    return _passed(name, Check.INSTALLED, f"raftcluster {facts.version}, no node" if facts.version else "none")


def python(name: str, facts: Facts) -> Row:
    """Whether an interpreter is new enough and can make virtual environments."""
    new = [each for each in facts.pythons if each.version[:2] >= PYTHON]
    whole = next((each for each in new if not each.lacks), None)
    wanted = ".".join(map(str, PYTHON))
    if whole is not None:
        return _passed(name, Check.PYTHON, f"{'.'.join(map(str, whole.version))} at {whole.path}")
    if new:
        said = f"{new[0].path} lacks {', '.join(new[0].lacks)}"
        return _failed(name, Check.PYTHON, said, install(facts, "python3-venv"))
    found = ", ".join(".".join(map(str, each.version)) for each in facts.pythons) or "none"
    packages = "python3 python3-venv" if "apt-get" in facts.commands else f"python{wanted}"
    return _failed(name, Check.PYTHON, f"{wanted} or later is needed, there is {found}", install(facts, packages))


def disk(name: str, facts: Facts) -> Row:
    """Space where the node's directory would be, on a file system that keeps what it acknowledges."""
    if facts.free_bytes is None:
        return Row(name, Check.DISK, Outcome.UNKNOWN, f"df says nothing about {facts.place}")
    if facts.read_only:
        return _failed(name, Check.DISK, f"{facts.place} is mounted read-only", f"mount -o remount,rw {facts.place}")
    if facts.filesystem in SHARED | MEMORY:
        why = "keeps nothing over a restart" if facts.filesystem in MEMORY else "is no local disk"
        return _failed(
            name, Check.DISK, f"{facts.place} is on {facts.filesystem}, which {why}", "raftcluster -C DIRECTORY"
        )
    said = f"{facts.free_bytes / limits.GIB:.1f} GiB free at {facts.place}"
    if facts.free_bytes < FREE_BYTES:
        said += f", {FREE_BYTES / limits.GIB:.0f} GiB are needed"
        return _failed(name, Check.DISK, said, f"du -xh --max-depth=2 {facts.place} | sort -h, and remove what may go")
    return _passed(name, Check.DISK, said)


def clock(host: Host) -> Row:
    """Whether its clock agrees with the median of all."""
    facts, off = host.facts, host.clock_off
    if facts is None or off is None:
        return Row(host.name, Check.CLOCK, Outcome.UNKNOWN, "date says nothing")
    if abs(off) <= limits.CLOCK_ALARM_SECONDS:
        return _passed(host.name, Check.CLOCK, "agrees" if off == 0 else f"{off:+.1f} s")
    if "chronyc" in facts.commands:
        mend = "chronyc makestep"
    elif facts.systemd and "timedatectl" in facts.commands:
        mend = "timedatectl set-ntp true"
    else:
        mend = f"{install(facts, 'chrony')} && chronyc makestep"
    return _failed(host.name, Check.CLOCK, f"{off:+.1f} s off the median of all", mend)


def firewall(name: str, facts: Facts, port: int) -> list[Row]:
    """Whether somebody's rules keep other hosts from the port, each such chain a row; and whether there is nft for our own."""
    if "nft" not in facts.commands:
        return [_failed(name, Check.FIREWALL, "there is no nft, which keeps strangers out", install(facts, "nftables"))]
    if facts.ruleset is None:
        return [Row(name, Check.FIREWALL, Outcome.UNKNOWN, "only root may list the rules")]
    ours = facts.node is not None
    try:
        found = [each for each in obstacles(facts.ruleset, port) if not (ours and each.table.startswith("raftcluster"))]
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration):  # another host's word
        return [Row(name, Check.FIREWALL, Outcome.UNKNOWN, "its rules are listed in a way that is not understood")]
    if not found:
        return [_passed(name, Check.FIREWALL, f"no rule keeps TCP port {port} closed")]
    rows = []
    for each in found:
        said = f"table {each.family} {each.table}, chain {each.chain}: {each.why}"
        rows.append(_failed(name, Check.FIREWALL, said, each.remedy))
    return rows


def install(facts: Facts, packages: str) -> str:
    """The command that installs packages there."""
    manager = next((each for each in _PACKAGES if each in facts.commands), None)
    return _PACKAGES[manager].format(packages) if manager is not None else f"install {packages}"


def _passed(host: str, check: Check, said: str) -> Row:
    return Row(host, check, Outcome.PASSED, said)


def _failed(host: str, check: Check, said: str, remedy: str) -> Row:
    return Row(host, check, Outcome.FAILED, said, remedy)


def _unknown(host: str, *checks: Check) -> list[Row]:
    return [Row(host, each, Outcome.UNKNOWN, "not looked at: there is no way in") for each in checks]
