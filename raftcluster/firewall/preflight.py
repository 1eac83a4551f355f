"""Before a directory becomes a node's: whether its port can be closed to strangers, and whether others keep it closed to
members."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from raftcluster.errors import Refusal
from raftcluster.firewall.foreign import obstacles
from raftcluster.firewall.nft import Nft
from raftcluster.firewall.table import Table, table_name


def is_needed(host: str) -> bool:
    """Whether strangers can reach what listens at `host`: not when that is this host's loopback."""
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def check(listen: tuple[str, int], say: Callable[[str], None], *, nft: Nft | None = None) -> dict[str, Any]:
    """The rule set as it is before we change it, for node.json: a digest, to be compared with when the cluster ends.

    Tells `say` of foreign rules that keep the other nodes out, with the command that mends it; nothing is changed.
    Raises `Refusal` or `MissingPrivilege`, saying how to go on, when the table could not be made.
    """
    nft = nft or Nft()
    for each in obstacles(nft.ruleset(), listen[1]):
        say(f"firewall: {each}")
    return {"ruleset": nft.digest()}


def remove(node_id: str, port: int, before: dict[str, Any], *, nft: Nft | None = None) -> tuple[str, bool]:
    """Delete the node's table, if it is there: (its name, whether the rest is what it was before the node came).

    Raises `Refusal` when it cannot be deleted.
    """
    nft = nft or Nft()
    table = Table(table_name(node_id), port)
    if nft.table(table.name):
        nft.apply(table.removal())
    try:
        return table.name, before.get("ruleset") == nft.digest(table.name)
    except Refusal:
        return table.name, False
