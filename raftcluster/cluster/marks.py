"""Marks: entries that change nothing. `mark` is a place in the log which every member finds: `verify` compares tables there.
The others are decisions that are carried out elsewhere -- by the engine, or before the cluster began -- and are told here so
that they are remembered with who made them: see `auditing`."""

from __future__ import annotations

from typing import Final

from raftcluster.cluster.rows import Commands, check_member
from raftcluster.codec import Value
from raftcluster.machine import Tables


def _mark(tables: Tables, time: int) -> Value:
    """Nothing."""
    return None


def _transfer(tables: Tables, time: int, node_id: str) -> Value:
    """Leadership is to go to this member, or to whoever has most ("")."""
    if node_id:
        check_member(tables, node_id)
    return None


def _begun(tables: Tables, time: int, former_id: str, index: int) -> Value:
    """This cluster was begun with another one's state, at that entry of its log."""
    return None


COMMANDS: Final[Commands] = {
    "mark": (_mark, ()),
    "transfer": (_transfer, (str,)),
    "restored": (_begun, (str, int)),
    "recovered": (_begun, (str, int)),
}
