"""corosync.conf: the nodes that it lists. Pure.

The format, from corosync.conf(5): a line is a comment (`#` first), `section {`, `}`, or `key: value`; sections nest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from raftcluster.errors import Refusal


@dataclass(slots=True)
class Section:
    """Of the file; the file itself is one without a name."""

    name: str = ""
    values: dict[str, str] = field(default_factory=dict)
    sections: list[Section] = field(default_factory=list)

    def below(self, name: str) -> Iterator[Section]:
        """Its sections of this name."""
        return (each for each in self.sections if each.name == name)


@dataclass(frozen=True, slots=True)
class ConfiguredNode:
    """A `node` of the `nodelist`."""

    id: str
    """Its nodeid; empty when the file leaves it to corosync."""
    name: str
    """Empty when it has none: then it is known by its address."""
    addresses: tuple[str, ...]
    """ring0_addr, ring1_addr, ...: addresses or names."""


def parse(text: str) -> Section:
    """The file's sections. Raises `Refusal`, naming the line, for what is not of this format."""
    stack = [Section()]
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.endswith("{"):
            opened = Section(line[:-1].strip())
            stack[-1].sections.append(opened)
            stack.append(opened)
        elif line == "}":
            if len(stack) == 1:
                raise _wrong(number, "a } too many")
            stack.pop()
        elif ":" in line:
            key, _, value = line.partition(":")
            stack[-1].values[key.strip()] = value.strip()
        else:
            raise _wrong(number, f"{line[:40]!r} is neither a section nor a value")
    if len(stack) > 1:
        raise _wrong(len(text.splitlines()), f"section {stack[-1].name!r} is not closed")
    return stack[0]


def nodes(text: str) -> list[ConfiguredNode]:
    """Those of every `nodelist`, in the file's order. Raises `Refusal`."""
    listed = [each for nodelist in parse(text).below("nodelist") for each in nodelist.below("node")]
    return [
        ConfiguredNode(each.values.get("nodeid", ""), each.values.get("name", ""), rings(each.values))
        for each in listed
    ]


def rings(values: Mapping[str, str]) -> tuple[str, ...]:
    """The values of ring0_addr to ring7_addr, in this order; corosync has no more links."""
    return tuple(values[key] for key in (f"ring{number}_addr" for number in range(8)) if values.get(key))


def _wrong(line: int, what: str) -> Refusal:
    return Refusal(
        f"corosync.conf, line {line}: {what}",
        subject="corosync.conf",
        remedy="corosync -t says whether corosync reads it",
    )
