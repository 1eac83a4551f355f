"""Commands of the cluster's own machine -- members, tokens, generations --, well-formed and not, through the applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.cluster.machine import ClusterMachine
from tests.fuzz.commands import agree
from tests.fuzz.source import Source

IDS = ("id-1", "id-2", "id-3", "id-4", "", "i" * 65, "\u00e9" * 500)
NAMES = ("mx1.example.org", "mx2.example.org", "mx3.example.org", "MX", "", "-")
HASH = b"h" * 32
FACTS = ["c1", "mail", True, "mta/1", 1, "standalone", "id-1"]
FOUNDER = ["id-1", "mx1.example.org", "192.0.2.1", 9777, "mta/1"]
MINTED = [1, b"root", b"certificate", HASH]


def seeds() -> Iterable[bytes]:
    for salt in range(8):
        yield bytes((salt * 43 + n * (salt + 7)) % 256 for n in range(120))
    yield bytes([9, 0, 1, 0, 1, 0, 0, 1, 63]) * 12


def run(data: bytes) -> str:
    founded = data[:1] != b"\xff"
    first = [["genesis", FACTS, FOUNDER, MINTED]] if founded else []
    return agree(data, lambda: [ClusterMachine()], "cluster", first, command)


def command(source: Source) -> Any:
    """One of its commands with arguments that may fit, or not, or no command at all."""
    node, name, number = source.choice(IDS[:4]), source.choice(NAMES[:4]), 1 + source.below(4)
    token, request = f"t{source.below(3)}", bytes([source.below(3)]) * 8
    joiner = [
        node,
        name,
        "192.0.2.2",
        9777 + source.below(3),
        "mta/2",
        1,
        "standalone",
        token,
        request[:1] * 32,
        request,
    ]
    issued = {each: [request, b"certificate", HASH] for each in IDS[: source.below(4)]}
    commands: list[list[Any]] = [
        ["genesis", list(FACTS), list(FOUNDER), list(MINTED)],
        [
            "invite",
            token,
            HASH,
            name,
            1 + source.byte(),
            [source.choice(("192.0.2.2", "::1", "x", 5))][: source.below(2)],
        ],
        ["begin", "tx", joiner],
        ["begin", "tx", None],
        ["csr", number, node, request],
        ["minted", number, b"root", issued],
        ["trusted", number, node],
        ["switched", number, node],
        ["retire", number],
        ["address", node, "192.0.2.3", 9777 + source.below(3)],
        ["promoted", node],
        ["leaving", node],
        ["removed", node],
        ["revoke", token],
        ["destroy", "event", source.choice(("mail", "other")), source.flag(), "reason"],
        ["recorded", node],
    ]
    made = source.choice(commands)
    spoil = source.below(48)
    if spoil < len(made):
        inner = made[spoil]
        if isinstance(inner, list) and inner and source.flag():
            inner[source.below(len(inner))] = source.choice((*IDS, *NAMES, source.value()))
        else:
            made[spoil] = source.choice((*IDS, source.value()))
    return source.value() if source.flag(64) else made
