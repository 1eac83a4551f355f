"""Commands of the cluster's own machine -- members, tokens, generations, amendments --, well-formed and not, through the
applier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.view import View
from raftcluster.machine import ReadTables
from tests.cluster_log import genesis, key, minting, vouch
from tests.fuzz.commands import agree
from tests.fuzz.source import Source

IDS = ("id-1", "id-2", "id-3", "id-4", "", "i" * 65, "\u00e9" * 500)
NAMES = ("mx1.example.org", "mx2.example.org", "mx3.example.org", "MX", "", "-")
HASH = b"h" * 32
FACTS = ["c1", "mail", True, "mta/1", 1, "standalone", "id-1"]
FOUNDER = ["id-1", "mx1.example.org", "192.0.2.1", 9777, "mta/1"]
GENESIS = genesis(FACTS, FOUNDER)


def seeds() -> Iterable[bytes]:
    for salt in range(8):
        yield bytes((salt * 43 + n * (salt + 7)) % 256 for n in range(120))
    yield bytes([9, 0, 1, 0, 1, 0, 0, 1, 63]) * 12


def run(data: bytes) -> str:
    founded = data[:1] != b"\xff"
    return agree(data, lambda: [ClusterMachine()], "cluster", [GENESIS] if founded else [], command)


def command(source: Source, tables: ReadTables) -> Any:
    """One of its commands with arguments that may fit, or not, or no command at all."""
    commands = _next(source, View.read(tables, 0))
    made = source.choice(commands)
    spoil = source.below(48)
    if spoil < len(made):
        inner = made[spoil]
        if isinstance(inner, list) and inner and source.flag():
            inner[source.below(len(inner))] = source.choice((*IDS, *NAMES, source.value()))
        else:
            made[spoil] = source.choice((*IDS, source.value()))
    return source.value() if source.flag(64) else made


def _next(source: Source, view: View) -> list[list[Any]]:
    node, name, number = source.choice(IDS[:4]), source.choice(NAMES[:4]), 1 + source.below(4)
    if view.pending is not None and source.byte() < 200:
        number = view.pending.number
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
    signed = [key(view.head.content().generation, node) if view.head else b"key", b"signature"]
    commands: list[list[Any]] = [
        ["genesis", *(list(each) for each in GENESIS[1:])],
        [
            "invite",
            token,
            HASH,
            name,
            1 + source.byte(),
            [source.choice(("192.0.2.2", "::1", "x", 5))][: source.below(2)],
        ],
        ["begin", "tx", joiner],
        ["return", "tx", node, HASH, request],
        ["rotate", "tx", [source.choice(IDS)][: source.below(2)], source.flag()],
        ["abort", number, "reason"],
        ["csr", number, node, request],
        ["overdue", number],
        ["trusted", number, node, signed],
        ["switch", number],
        ["switched", number, node],
        ["retire", number],
        ["awake", node],
        ["amend", "tx", source.choice(("", node))],
        ["amended", number, node, signed],
        ["address", node, "192.0.2.3", 9777 + source.below(3)],
        ["promoted", node],
        ["leaving", node],
        ["removed", node],
        ["revoke", token],
        ["destroy", "event", source.choice(("mail", "other")), source.flag(), "reason", source.flag()],
        ["recorded", node],
        ["mark"],
    ]
    if view.pending is not None and view.facts is not None and view.head is not None and view.active is not None:
        coming = [minting(view), vouch(view, node), ["csr", number, node, request]]
        return coming if source.flag() else commands + coming
    return commands
