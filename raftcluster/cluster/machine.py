"""The replicated record of membership, invitations and certificate generations.

A generation walks through phases, and the record in the tables is all there is: any leader carries on from it.

    begin --> collect --csr...--> minted --> trust --trusted...--> switch --switched...--> retire --> active
                 |--overdue, abort--> aborted

Rules:

1. one generation at a time; its number, and the number of its manifest, are greater than any before, also after an abort;
   whoever asks to join while requests are collected is let into the same one;
2. a token is consumed by `begin`, bound to the hash of one certificate request: the same request again is answered as
   before, any other is a replay. A generation that is given up gives its tokens back;
3. `minted` is accepted once, only for exactly the nodes and requests that were collected, and with the one manifest that
   follows from the tables;
4. a joiner, and a member that returns, count as trusting and presenting the generation that lets them in, for they have no
   other: their death then holds up nobody;
5. a report that was made already changes nothing; a report out of order is refused, saying why;
6. what a removed member may show is empty from that entry on;
7. who is down is waited for until a deadline of cluster time; what goes on without it needs a majority: of the voters, of
   the endorsements. It is *asleep* then, no voter if it has no certificate, and may return;
8. a removal that would leave too few to endorse the generation without that member happens when that generation, which it
   still endorses, is switched to.

Each noun has a file with its commands; this one finds the command, checks its arguments, counts revisions, and has who
decided it remembered (`auditing`).
"""

from __future__ import annotations

from typing import Final

from raftcluster.cluster import (
    amendments,
    auditing,
    beginnings,
    destruction,
    generations,
    genesis,
    marks,
    members,
    tokens,
)
from raftcluster.cluster.auditing import AUDIT
from raftcluster.cluster.inspection import (
    inspect_change,
    inspect_fact,
    inspect_generation,
    inspect_invitation,
    inspect_link,
    inspect_member,
)
from raftcluster.cluster.records import SCHEMA, rejected
from raftcluster.cluster.rows import Commands, of_kind
from raftcluster.cluster.view import CHAIN, FACTS, GENERATION, MEMBERS, TOKENS, facts, revision
from raftcluster.cluster.view import destruction as destroyed
from raftcluster.codec import Value, pack
from raftcluster.machine import Tables

COMMANDS: Final[Commands] = {
    **genesis.COMMANDS,
    **tokens.COMMANDS,
    **members.COMMANDS,
    **beginnings.COMMANDS,
    **generations.COMMANDS,
    **amendments.COMMANDS,
    **destruction.COMMANDS,
    **marks.COMMANDS,
}
"""Verb -> its handler, called as handler(tables, time, *arguments), and the kinds of its arguments."""

_INSPECTIONS: Final = {
    MEMBERS: inspect_member,
    TOKENS: inspect_invitation,
    GENERATION: inspect_generation,
    FACTS: inspect_fact,
    CHAIN: inspect_link,
    AUDIT: inspect_change,
}


class ClusterMachine:
    """State machine `cluster`. See `raftcluster.machine.StateMachine`; every command is a list, its verb first, alone or in the
    envelope that `auditing.attributed` makes."""

    name = "cluster"
    schema = SCHEMA
    tables = (MEMBERS, TOKENS, GENERATION, FACTS, CHAIN, AUDIT)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """Carry out one command. Raises `Rejected` with a stable code."""
        note, command = auditing.opened(command)
        if (
            not isinstance(command, list)
            or not command
            or not isinstance(command[0], str)
            or command[0] not in COMMANDS
        ):
            raise rejected("malformed", "unknown cluster command")
        verb = command[0]
        handler, types = COMMANDS[verb]
        arguments = command[1:]
        if len(arguments) != len(types) or not all(
            of_kind(value, kind) for value, kind in zip(arguments, types, strict=True)
        ):
            raise rejected("malformed", f"malformed arguments of {verb}", subject=verb)
        if verb != "genesis":
            if facts(tables) is None:
                raise rejected("no-cluster", "the cluster has no genesis yet")
            if verb not in destruction.AFTER and destroyed(tables) is not None:
                raise rejected("destroyed", "the cluster is being destroyed: nothing changes any more")
        repeated = note is not None and auditing.is_repeated(tables, verb, arguments)
        result = handler(tables, time, *arguments)
        if note is not None and not repeated:
            auditing.keep(tables, time, verb, arguments, result, note)
        tables.put(FACTS, b"revision", pack(revision(tables) + 1))
        return result

    def tick(self, tables: Tables, time: int) -> None:
        """Nothing expires in the background: invitations are pruned by the next one."""

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """See `raftcluster.machine.Inspectable`."""
        _INSPECTIONS[table](key, value)
