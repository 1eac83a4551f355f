"""How systemd runs a node, and whose it is. Pure.

Its user may do what everybody may, and one thing more (CAP_NET_ADMIN): the firewall's table needs that.
"""

from __future__ import annotations

from typing import Final

DIRECTORY: Final = "/var/lib/raftcluster"
USER: Final = "raftcluster"
OPTIONS: Final = "/etc/default/raftcluster"
"""Where RAFTCLUSTER_OPTIONS are set, those of `serve`."""


def unit(program: str, directory: str, origin: str, end: str = "") -> str:
    """Of a node in `directory`; `origin` is its first line, a comment; `end` is what root runs each time that the node has
    ended."""
    after = f"ExecStopPost=-+{end}\n" if end else ""
    return f"""{origin}
[Unit]
Description=raftcluster: configuration and greylist of several mail hosts
Wants=network-online.target
After=network-online.target nftables.service
Before=postfix.service
# A node, or one of a destroyed cluster whose end was cut off.
ConditionPathExists=|{directory}/VERSION
ConditionPathExists=|{directory}/DESTROYED

[Service]
Type=exec
User={USER}
Group={USER}
AmbientCapabilities=CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectSystem=full
ProtectHome=yes
PrivateTmp=yes
UMask=0077
LimitCORE=0
LimitNOFILE=65536
EnvironmentFile=-{OPTIONS}
# init, join and restore are run by root; whose files they are is settled here.
ExecStartPre=+/bin/chown -R {USER}:{USER} {directory}
ExecStart={program} -C {directory} serve $RAFTCLUSTER_OPTIONS
{after}Restart=on-failure
RestartSec=2
# 13: the node was removed from its cluster.
RestartPreventExitStatus=13
TimeoutStopSec=60

[Install]
WantedBy=multi-user.target
"""
