"""Where things are on a host, and the files that are written there. Pure.

PREFIX/releases/ID/SHA256SUMS, wheels/   the artefact as it was pushed; ID is the beginning of its hash
PREFIX/releases/ID/venv/                 installed from it; `installed` beside it once that is complete
PREFIX/current -> releases/ID            what runs: an upgrade, and its roll-back, is another link
PREFIX/bin -> current/venv/bin
PREFIX/supervise                         what another supervisor than systemd runs, as root
PREFIX/uninstall                         takes all of this away again
PREFIX/before                            what of it was not there before the first push
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
            "unit": unit(program, directory, _OURS),
            "supervise": SUPERVISE.format(ours=_OURS, directory=directory, program=program, user=USER, options=OPTIONS),
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
RAFTCLUSTER_OPTIONS=
[ ! -f {options} ] || . {options}
umask 077
chown -R {user}:{user} {directory}
# shellcheck disable=SC2086
exec setpriv --reuid={user} --regid={user} --clear-groups --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin \\
    --bounding-set=-all,+net_admin --no-new-privs {program} -C {directory} serve $RAFTCLUSTER_OPTIONS
"""

UNINSTALL: Final = """#!/bin/sh
{ours}
# Takes away what raftcluster push has put on this host; what was there before stays.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin
made() {{ grep -qx "$1" {prefix}/before; }}
if [ -e {directory}/node.json ]; then
    echo "a node is in {directory}: destroy the cluster or remove the member, then delete that directory" >&2
    exit 4
fi
if [ -d /run/systemd/system ]; then
    systemctl disable --now raftcluster.service || :
fi
if made unit; then rm -f {unit}; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
if made options; then rm -f {options}; fi
if made command; then rm -f {command}; fi
if made log; then rm -f {log}; fi
if made directory && [ -d {directory} ]; then
    if [ -d {directory}/destroyed ]; then chown -R root:root {directory}; else rm -rf {directory}; fi
fi
if made user; then userdel {user} >/dev/null 2>&1 || :; fi
rm -rf {prefix}
"""
