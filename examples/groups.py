"""Data that a product's hosts have in common, as a state machine of its own: groups of addresses.

python examples/groups.py DIR add GROUP ADDRESS      in the cluster that DIR is a node of; prints the group's members
python examples/groups.py DIR remove GROUP ADDRESS
python examples/groups.py DIR show GROUP
"""

import sys

from raftcluster import Consistency, Node, ReadTables, Rejected, Tables
from raftcluster.codec import Value

MEMBERS = 1_000  # of one group; what a machine does per call is bounded


class Groups:
    """Commands: ["add" | "remove", group, address] -> whether it changed anything."""

    name, schema, tables = "groups", 1, ("members",)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """Deterministic: what the tables hold and what the command says, nothing else."""
        match command:
            case ["add" | "remove" as verb, str(group), str(address)]:
                key = row(group, address)
                if (tables.get("members", key) is not None) == (verb == "add"):
                    return False
                if verb == "remove":
                    tables.delete("members", key)
                elif len(members(tables, group)) >= MEMBERS:
                    raise Rejected(f"{group} has {MEMBERS} members already", subject=group, remedy="remove some")
                else:
                    tables.put("members", key, str(time).encode())
                return True
            case _:
                raise Rejected("malformed command", subject=self.name)

    def tick(self, tables: Tables, time: int) -> None:
        """Members do not expire."""


def row(group: str, address: str) -> bytes:
    """The key of a member: group, zero byte, address. Raises `Rejected`."""
    key = f"{group}\0{address}".encode("utf-8", "replace")
    if not group or not address or "\0" in group + address or len(key) > 400:
        raise Rejected("group and address are not empty, and not longer than 400 bytes together", subject=group[:80])
    return key


def members(tables: ReadTables, group: str) -> list[str]:
    """The addresses of a group, in order."""
    start = f"{group}\0".encode("utf-8", "replace")
    return [key[len(start) :].decode() for key, _ in tables.scan("members", start, start + b"\xff", limit=MEMBERS)]


def show(node: Node, group: str, consistency: Consistency = "local") -> list[str]:
    """As this node has applied it, or `linearizable`."""
    return node.query("groups", lambda tables, _: members(tables, group), consistency=consistency)


if __name__ == "__main__":
    directory, verb, group, *address = sys.argv[1:]
    with Node.open(directory, machines=[Groups()]) as node:
        if verb != "show":
            node.propose("groups", [verb, group, *address])
        print(*show(node, group, "linearizable"), sep="\n")
