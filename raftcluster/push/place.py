"""Where things are on a host, and the files that are written there. Pure.

PREFIX/releases/ID/SHA256SUMS, wheels/   the artefact as it was pushed; ID is the beginning of its hash
PREFIX/releases/ID/venv/                 installed from it; `installed` beside it once that is complete
PREFIX/current -> releases/ID            what runs: an upgrade, and its roll-back, is another link
PREFIX/bin -> current/venv/bin
PREFIX/supervise                         what another supervisor than systemd runs, as root
PREFIX/uninstall                         takes all of this away again
PREFIX/before                            what of it was not there before the first push
PREFIX/directory                         the node's data directory, for which all of this is
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from raftcluster.push.unit import DIRECTORY, OPTIONS, USER, unit

PREFIX: Final = "/opt/raftcluster"
UNIT: Final = "/etc/systemd/system/raftcluster.service"
COMMAND: Final = "/usr/local/bin/raftcluster"
LOG: Final = "/var/log/raftcluster.log"
"""Of a node that no supervisor runs."""
_OURS: Final = "# Written by raftcluster push; what is changed here is lost at the next one."


@dataclass(frozen=True, slots=True)
class Place:
    """The places of one host."""

    prefix: str = PREFIX
    directory: str = DIRECTORY

    @property
    def program(self) -> str:
        """The command, whichever release runs."""
        return f"{self.prefix}/bin/raftcluster"

    def files(self) -> dict[str, str]:
        """What a push writes, by name: the unit and the two scripts."""
        program, prefix, directory = self.program, self.prefix, self.directory
        return {
            "unit": unit(program, directory, _OURS, f"{prefix}/uninstall destroyed"),
            "supervise": SUPERVISE.format(
                ours=_OURS, directory=directory, program=program, user=USER, options=OPTIONS, prefix=prefix
            ),
            "uninstall": UNINSTALL.format(
                ours=_OURS,
                prefix=prefix,
                directory=directory,
                user=USER,
                unit=UNIT,
                options=OPTIONS,
                command=COMMAND,
                log=LOG,
            ),
        }

    @property
    def digest(self) -> str:
        """Equal when the files are."""
        return hashlib.sha256("\0".join(self.files().values()).encode()).hexdigest()


SUPERVISE: Final = """#!/bin/sh
{ours}
# The node in the foreground, for a supervisor that runs it as root; SIGTERM ends it. With systemd: the unit.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
{prefix}/uninstall destroyed >&2 # what was cut off
[ -e {prefix}/supervise ] || exit 0
RAFTCLUSTER_OPTIONS=
[ ! -f {options} ] || . {options}
umask 077
chown -R {user}:{user} {directory}
# shellcheck disable=SC2086
setpriv --reuid={user} --regid={user} --clear-groups --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin \\
    --bounding-set=-all,+net_admin --no-new-privs --pdeathsig TERM {program} -C {directory} serve $RAFTCLUSTER_OPTIONS &
node=$!
trap 'kill -TERM $node 2>/dev/null || :' TERM INT HUP
code=0
wait $node || code=$?
while kill -0 $node 2>/dev/null; do # a signal ends `wait`, not the node
    code=0
    wait $node || code=$?
done
trap - TERM INT HUP
{prefix}/uninstall destroyed >&2
exit $code
"""

UNINSTALL: Final = """#!/bin/sh
{ours}
# Takes away what raftcluster push has put on this host; what was there before stays. With `destroyed`: only when the node's end
# has asked for it. May be repeated; what was cut off is finished by the next.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
marker={directory}/DESTROYED
if [ "${{1-}}" = destroyed ]; then
    [ -f $marker ] && [ ! -L $marker ] && grep -qF '"software": "{prefix}"' $marker || exit 0
    for each in {directory}/* {directory}/.[!.]*; do
        case $each in $marker | {directory}/destroyed | "{directory}/*" | "{directory}/.[!.]*") ;; *) exit 0 ;; esac
    done
fi
if [ -e {directory}/node.json ]; then
    echo "a node is in {directory}: destroy the cluster or remove the member, then delete that directory" >&2
    exit 4
fi
if [ ! -f {prefix}/before ]; then
    rmdir {prefix} 2>/dev/null || : # nothing else is left
    exit 0
fi
exec 9>{prefix}/lock
flock -w 300 9
made() {{ grep -qx "$1" {prefix}/before; }}
if [ -d /run/systemd/system ] && made unit && [ "${{1-}}" != destroyed ]; then
    systemctl stop raftcluster.service || : # with `destroyed` it is the unit's own end
fi
# Before anything else: a push that finds what is left of this does all of it again.
rm -f {prefix}/arranged {prefix}/releases/*/installed {prefix}/releases/*/SHA256SUMS
if made options; then rm -f {options}; fi
if made command; then rm -f {command}; fi
rm -rf {prefix}/releases {prefix}/current {prefix}/bin {prefix}/current.new {prefix}/said.* {prefix}/*.new
if [ -d {directory} ]; then
    was=$(sed -n 's/^was //p' {prefix}/before)
    [ -n "$was" ] || was='root:root 700'
    chown -R "${{was%% *}}" {directory}
    chmod "${{was#* }}" {directory}
fi
# Before its user, without whom it would be started again and again; from here on systemd does not go on by itself.
if made unit; then
    if [ -d /run/systemd/system ]; then systemctl disable --quiet raftcluster.service || :; fi
    rm -f {unit}
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
fi
if made user && id -u {user} >/dev/null 2>&1; then
    userdel {user} >/dev/null 2>&1 || {{ echo "the user {user} cannot be removed: do processes run as it?" >&2; exit 1; }}
fi
if made directory && [ -d {directory} ]; then
    find {directory} -mindepth 1 -maxdepth 1 ! -name destroyed ! -name DESTROYED -exec rm -rf {{}} +
    rm -f $marker
    rmdir {directory} 2>/dev/null || : # the archive stays
fi
rm -f $marker
if made log; then rm -f {log}; fi
folders=$(sed -n 's/^folder //p' {prefix}/before)
cd /
rm -f {prefix}/directory {prefix}/supervise {prefix}/uninstall {prefix}/lock {prefix}/before
rmdir {prefix} 2>/dev/null || :
for each in $folders; do rmdir "$each" 2>/dev/null || :; done
"""
