"""What a host says of itself, in one command: `ask`. It needs no more there than a POSIX shell; nothing is changed.

The answer is read as text: `= name` begins a value, lines with a tab before them are its lines. A value that the host cannot
tell -- no such file, not permitted -- is not there. Nothing secret is printed: of a keytab its realm alone is read.
"""

from __future__ import annotations

import shlex
import time
from typing import Final

from raftcluster.errors import MissingPrivilege, Refusal
from raftcluster.remote.facts import Facts, read
from raftcluster.remote.shell import SECONDS, Shell

GREETING: Final = "raftcluster-probe 1"
_BEGIN: Final = r"""
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH:/usr/local/bin
LC_ALL=C; export PATH LC_ALL
tell() { echo "= $1"; sed 's/^/	/'; echo; }
echo "= hello"; echo "	raftcluster-probe 1"
date +%s.%N | tell now
as_root=
if [ "$(id -u)" != 0 ]; then
    if command -v sudo >/dev/null; then
        if sudo -n true 2>/dev/null; then as_root='sudo -n'; echo free | tell sudo; else echo password | tell sudo; fi
    fi
fi
"""
_HOST: Final = r"""
id -un 2>/dev/null | tell user
id -u | tell uid
uname -n | tell host
cat /etc/machine-id 2>/dev/null | tell machine
cat /proc/sys/kernel/random/boot_id 2>/dev/null | tell boot
cat /etc/os-release 2>/dev/null | tell os
[ -d /run/systemd/system ] && echo yes | tell systemd
for each in apt-get dnf zypper pacman apk chronyc timedatectl nft; do
    command -v $each >/dev/null && echo $each
done | tell commands
for each in python3 python3.14 python3.13 python3.12 python3.11; do
    found=$(command -v $each) || continue
    "$found" -c 'import sys
lacks = []
for name in "venv", "ensurepip":
    try:
        __import__(name)
    except ImportError:
        lacks.append("no-" + name)
print(sys.executable, "%d.%d.%d" % sys.version_info[:3], " ".join(lacks))
sys.exit(bool(lacks) or sys.version_info < (3, 11))' 2>/dev/null && break
done | tell pythons
place=$DIR
while [ ! -d "$place" ] && [ "$place" != / ]; do place=$(dirname "$place"); done
echo "$place" | tell place
df -Pk "$place" 2>/dev/null | tail -n 1 | tell disk
stat -f -c %T "$place" 2>/dev/null | tell filesystem
awk -v place="$place" '{ n = length($2); m = ($2 == "/") ? "/" : $2 "/"
    if (index(place "/", m) == 1 && n >= best) { best = n; found = $4 } } END { print found }' /proc/mounts 2>/dev/null | tell mount
$as_root cat "$DIR/node.json" 2>/dev/null | tell node
if $as_root test -e "$DIR/VERSION" 2>/dev/null; then echo yes
elif [ -e "$DIR" ] && [ "$(id -u)" != 0 ] && [ -z "$as_root" ]; then echo unknown; fi | tell directory
for each in /opt/raftcluster/bin/raftcluster "$(command -v raftcluster)"; do
    [ -x "$each" ] && "$each" --version 2>/dev/null && break
done | tell version
if command -v nft >/dev/null; then $as_root nft -j list ruleset 2>/dev/null | tell nft; fi
"""
_REALM: Final = r"""
command -v realm >/dev/null && realm list 2>/dev/null | tell realmd
keytab=/etc/krb5.keytab
if $as_root test -s $keytab 2>/dev/null; then
    sized=$($as_root od -An -tu1 -j8 -N2 $keytab 2>/dev/null | awk '{ print $1 * 256 + $2 }')
    kind=$($as_root od -An -tx1 -N3 $keytab 2>/dev/null | tr -d ' ')
    if [ "$kind" = 050200 ] && [ "${sized:-0}" -gt 0 ] && [ "$sized" -lt 256 ]; then
        $as_root dd if=$keytab bs=1 skip=10 count="$sized" 2>/dev/null | tell keytab
    else
        echo unreadable | tell keytab
    fi
elif [ -e $keytab ]; then
    echo unreadable | tell keytab
fi
echo "= end"
"""
SCRIPT: Final = _BEGIN + _HOST + _REALM


def ask(shell: Shell, directory: str, seconds: float = SECONDS) -> Facts:
    """What the host at the other end of `shell` says; `directory` is where its node would be. Waits. Thread: any.

    Raises what `Shell.run` does, and `Refusal` when the answer is not that of the probe.
    """
    return _asked(shell, f"DIR={shlex.quote(directory)}\n{SCRIPT}", seconds)


def realm_of(shell: Shell) -> str:
    """The trust realm of the host at the other end of `shell`: where it is enrolled, else `standalone`. Raises as `ask`, and
    `MissingPrivilege` when only root may look."""
    facts = _asked(shell, _BEGIN + _REALM, SECONDS)
    if facts.realm is None:
        raise MissingPrivilege(
            f"whom {shell.host} trusts cannot be told: {facts.unread}",
            subject="realm",
            remedy="run as root, or declare it with --realm (in Python realm=)",
        )
    return facts.realm


def _asked(shell: Shell, script: str, seconds: float) -> Facts:
    began = time.time()
    done = shell.run(["sh", "-s"], script, seconds)
    facts = read(done.out, began, time.time())
    if facts is None or facts.greeting != GREETING:
        raise Refusal(
            f"{shell.host} does not run commands in a POSIX shell: {done.said}",
            subject=shell.host,
            remedy="give the account there a shell: chsh -s /bin/sh",
        )
    return facts
