"""Whether somebody else's rules keep the other nodes out, which rule does, and the command that mends it. Pure.

Looked at is a new TCP connection to the port from another host, through every chain of the input hook; a rule about
something that cannot be told beforehand (an address, a mark, a set) may match or not. What is found is told, never edited.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

Json = Any
_FAMILIES: Final = ("inet", "ip", "ip6")
_DEPTH: Final = 16
"""Jumps that are followed; the kernel allows as many."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A chain that drops the connections of other nodes, certainly or as far as can be told."""

    family: str
    table: str
    chain: str
    why: str
    remedy: str
    """A command for a root shell."""

    def __str__(self) -> str:
        return f"table {self.family} {self.table}, chain {self.chain}: {self.why}; to let the other nodes in: {self.remedy}"


def obstacles(listing: Iterable[Json], port: int, but: str | None = None) -> list[Obstacle]:
    """What keeps other hosts from the port, in the order of the listing; without the table `but`."""
    chains: dict[tuple[str, str, str], Json] = {}
    rules: dict[tuple[str, str, str], list[Json]] = {}
    for each in listing:
        for kind, body in each.items():
            if kind == "chain":
                chains[body["family"], body["table"], body["name"]] = body
            elif kind == "rule":
                rules.setdefault((body["family"], body["table"], body["chain"]), []).append(body.get("expr", []))
    found = []
    for (family, table, name), chain in chains.items():
        if chain.get("hook") != "input" or family not in _FAMILIES or table == but:
            continue
        verdict, why = _walk(family, table, name, rules, port, _DEPTH)
        if verdict == "continue" and chain.get("policy") == "drop":
            verdict, why = "drop", "its policy is drop and no rule accepts the port"
        if verdict == "drop":
            remedy = f"nft insert rule {family} {table} {name} tcp dport {port} accept"
            found.append(Obstacle(family, table, name, why, remedy))
    return found


def _walk(
    family: str, table: str, chain: str, rules: dict[tuple[str, str, str], list[Json]], port: int, depth: int
) -> tuple[str, str]:
    """The verdict that is certain -- "accept", "drop" -- or "maybe" (a rule that may match accepts), or "continue"."""
    maybe = False
    for expression in rules.get((family, table, chain), []):
        matches, verdict, target = _judge(expression, port)
        if matches is False or verdict is None:
            continue
        if verdict in ("jump", "goto") and depth:
            verdict, why = _walk(family, table, target, rules, port, depth - 1)
            if verdict in ("continue", "return"):
                continue
        else:
            why = f"a rule there says {verdict} for tcp port {port}"
        if verdict == "return" and matches:
            break
        if verdict == "accept" and matches:
            return "accept", ""
        if verdict in ("accept", "maybe"):
            maybe = True
        if verdict in ("drop", "reject") and matches:
            return "drop", why
    return ("maybe" if maybe else "continue"), ""


def _judge(expression: list[Json], port: int) -> tuple[bool | None, str | None, str]:
    """(whether the rule matches the connection, None: cannot be told; its verdict; where it jumps)."""
    matches: bool | None = True
    for statement in expression:
        kind, body = next(iter(statement.items())) if isinstance(statement, dict) else (statement, {})
        if kind == "match":
            this = _matches(body, port)
            if this is False:
                return False, None, ""
            matches = None if this is None else matches
        elif kind in ("accept", "drop", "return"):
            return matches, kind, ""
        elif kind == "reject":
            return matches, "reject", ""
        elif kind in ("jump", "goto"):
            return matches, kind, str(body.get("target", ""))
        elif kind == "vmap" or kind == "limit":
            matches = None
    return matches, None, ""


def _matches(match: Json, port: int) -> bool | None:
    left, right, op = match.get("left"), match.get("right"), match.get("op", "==")
    value: object
    match left:
        case {"payload": {"protocol": "tcp" | "th", "field": "dport"}}:
            value = port
        case {"payload": {"protocol": "udp" | "icmp" | "icmpv6" | "sctp" | "dccp"}}:
            return False
        case {"meta": {"key": "l4proto"}} | {"payload": {"protocol": "ip", "field": "protocol"}}:
            value = "tcp"
        case {"ct": {"key": "state"}}:
            value = "new"
        case {"meta": {"key": "iifname" | "iif"}} if right == "lo":
            return bool(op == "!=")
        case _:
            return None
    held = _holds(right, value)
    return None if held is None else bool(held == (op in ("==", "in")))


def _holds(right: Json, value: object) -> bool | None:
    """Whether a right side -- a value, a range, a list, a set -- holds the value; None for a set that has a name."""
    if isinstance(right, str) and right.startswith("@"):
        return None
    if isinstance(right, dict) and "range" in right:
        low, high = right["range"]
        return isinstance(value, int) and low <= value <= high
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    if isinstance(right, list):
        held = [_holds(each, value) for each in right]
        return True if True in held else None if None in held else False
    return bool(right == value or (value == "tcp" and right == 6))
