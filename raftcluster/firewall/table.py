"""Our own nftables table: what it says, as nft's JSON has it (libnftables-json(5)), and reading it back. Pure.

    table inet raftcluster_<id>
        sets      members4 members6                 addresses of members
                  invited4 invited6 (with time-outs)  and of hosts that are invited, as long as that holds
        counters  admitted dropped
        chain     input: what is for the cluster's port is accepted from these, and from this host itself; else dropped

An `accept` here ends this chain only: it overrides no other table's drop, and a drop cannot be overridden. So the table
does one thing: it drops strangers. It is stateless: an address that is taken out is cut off at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, Self

Json = Any
PRIORITY: Final = -10
"""Before the usual filter chains (0): what is dropped is not counted as accepted elsewhere."""
SLACK_SECONDS: Final = 5
"""A time-out that differs by less is right: the kernel counts it down meanwhile."""
_TYPES: Final = {"4": "ipv4_addr", "6": "ipv6_addr"}


@dataclass(frozen=True, slots=True)
class Table:
    """What the table of one node says."""

    name: str
    port: int
    members: frozenset[str] = frozenset()
    """Addresses, in the form that `plain` gives them."""
    invited: Mapping[str, int] = field(default_factory=dict)
    """Address -> for how many seconds it is let in yet."""

    @property
    def sources(self) -> frozenset[str]:
        """All that are let in."""
        return self.members | frozenset(self.invited)

    def creation(self) -> list[Json]:
        """The commands that make the table whatever was there before, in one transaction: there is no moment without."""
        return [
            _add("table", name=self.name),  # what does not exist cannot be deleted
            {"delete": {"table": {"family": "inet", "name": self.name}}},
            _add("table", name=self.name),
            *self._frame(),
            *self._elements(),
        ]

    def update(self) -> list[Json]:
        """The commands that bring the sets of an existing table up to date, in one transaction."""
        flushed = [{"flush": {"set": self._inside(name)}} for name in _SETS]
        return [*flushed, *self._elements()]

    def removal(self) -> list[Json]:
        """The commands after which there is no such table, whether there was one or not."""
        return self.creation()[:2]

    def _frame(self) -> list[Json]:
        commands = [
            _add(
                "set",
                **self._inside(name),
                type=_TYPES[name[-1]],
                **({"flags": ["timeout"]} if "invited" in name else {}),
            )
            for name in _SETS
        ]
        commands += [_add("counter", **self._inside(name)) for name in ("admitted", "dropped")]
        hook = {"type": "filter", "hook": "input", "prio": PRIORITY, "policy": "accept"}
        commands.append(_add("chain", **self._inside("input"), **hook))
        return commands + [
            _add("rule", family="inet", table=self.name, chain="input", expr=expression) for expression in self.rules()
        ]

    def rules(self) -> list[Json]:
        """The expressions of the chain's rules, in their order."""
        port = _is({"payload": {"protocol": "tcp", "field": "dport"}}, self.port)
        rules: list[Json] = [[_is({"meta": {"key": "iifname"}}, "lo"), {"accept": None}]]
        for name in _SETS:
            source = {"payload": {"protocol": "ip" if name.endswith("4") else "ip6", "field": "saddr"}}
            rules.append([_is(source, f"@{name}"), port, {"counter": "admitted"}, {"accept": None}])
        rules.append([port, {"counter": "dropped"}, {"drop": None}])
        return rules

    def _elements(self) -> list[Json]:
        commands = []
        for family in _TYPES:
            members = [address for address in sorted(self.members) if _family(address) == family]
            if members:
                commands.append(_add("element", **self._inside(f"members{family}"), elem=members))
            invited = [
                {"elem": {"val": address, "timeout": max(1, seconds)}}
                for address, seconds in sorted(self.invited.items())
                if _family(address) == family
            ]
            if invited:
                commands.append(_add("element", **self._inside(f"invited{family}"), elem=invited))
        return commands

    def _inside(self, name: str) -> dict[str, str]:
        return {"family": "inet", "table": self.name, "name": name}


@dataclass(frozen=True, slots=True)
class Found:
    """A table as the kernel has it."""

    frame: Json
    """All but the sets' elements and the counts."""
    members: frozenset[str]
    invited: dict[str, int]
    admitted: int
    """Packets."""
    dropped: int

    @classmethod
    def read(cls, listing: Iterable[Json], name: str) -> Self | None:
        """The table of that name in nft's listing; None when it is not there."""
        frame: list[Json] = []
        members: set[str] = set()
        invited: dict[str, int] = {}
        packets = {"admitted": 0, "dropped": 0}
        for each in listing:
            ((kind, body),) = each.items()
            if body.get("family") != "inet" or (body.get("name") if kind == "table" else body.get("table")) != name:
                continue
            if kind == "set" and body["name"] in _SETS:
                for element in body.get("elem", ()):
                    held = element.get("elem", element) if isinstance(element, dict) else {"val": element}
                    address = _read(held.get("val", held))
                    if "timeout" in held:
                        invited[address] = int(held.get("expires", held["timeout"]))
                    else:
                        members.add(address)
            if kind == "counter" and body["name"] in packets:
                packets[body["name"]] = int(body.get("packets", 0))
            frame.append({kind: {key: value for key, value in body.items() if key not in _VOLATILE}})
        return cls(frame, frozenset(members), invited, **packets) if frame else None

    def is_framed_as(self, table: Table) -> bool:
        """Whether all but the elements is as `table` has it: nobody has changed it, nor has the port changed."""
        wanted = [each["add"] for each in table.creation()[2:] if "element" not in each["add"]]
        return _sorted(wanted) == _sorted(self.frame)

    def lets_in(self, table: Table) -> bool:
        """Whether the elements are as `table` has them."""
        return (
            self.members == table.members
            and set(self.invited) == set(table.invited)
            and all(abs(self.invited[each] - table.invited[each]) <= SLACK_SECONDS for each in self.invited)
        )


def table_name(node_id: str) -> str:
    """A node's table: two nodes on one host have one each."""
    return f"raftcluster_{node_id.replace('-', '')[:12]}"


def plain(address: str) -> str:
    """An address in its one form; an IPv4 address that IPv6 wraps as IPv4, as the kernel compares it. Raises `ValueError`."""
    parsed = ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _read(element: Json) -> str:
    """An address in its one form; what others have put there, which need be none, as it is."""
    try:
        return plain(str(element))
    except ValueError:
        return str(element)


def without_ours(listing: Iterable[Json], name: str | None = None) -> list[Json]:
    """A rule set's lasting content: no handles, no counts, no elements that come and go; without the table `name`."""
    return [
        {kind: _lasting(kind, body)}
        for each in listing
        for kind, body in each.items()
        if kind != "metainfo" and (body.get("name") if kind == "table" else body.get("table")) != name
    ]


_SETS: Final = ("members4", "invited4", "members6", "invited6")
_VOLATILE: Final = ("handle", "elem", "packets", "bytes", "index")


def _lasting(kind: str, body: Json) -> Json:
    comes_and_goes = kind in ("set", "map") and {"timeout", "dynamic"} & set(body.get("flags", ()))
    kept = {key: value for key, value in body.items() if key != "handle" and not (key == "elem" and comes_and_goes)}
    return _zeroed(kept)


def _zeroed(value: Json) -> Json:
    """With packets, bytes and remaining times left out, at any depth."""
    if isinstance(value, dict):
        return {key: _zeroed(each) for key, each in value.items() if key not in ("packets", "bytes", "expires", "used")}
    return [_zeroed(each) for each in value] if isinstance(value, list) else value


def _add(kind: str, **body: Json) -> Json:
    return {"add": {kind: {"family": "inet", **body}}}


def _is(left: Json, right: Json) -> Json:
    return {"match": {"op": "==", "left": left, "right": right}}


def _family(address: str) -> str:
    return str(ip_address(address).version)


def _sorted(objects: list[Json]) -> list[str]:
    """Rules in their order, for it matters; everything else in any."""
    rules = [repr(sorted(each["rule"].items())) for each in objects if "rule" in each]
    return [*rules, *sorted(repr([(kind, sorted(body.items())) for kind, body in each.items()]) for each in objects)]
