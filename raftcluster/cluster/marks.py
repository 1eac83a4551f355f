"""Marks: entries that change nothing and are a place in the log which every member finds. `verify` compares tables there."""

from __future__ import annotations

from typing import Final

from raftcluster.cluster.rows import Commands
from raftcluster.codec import Value
from raftcluster.machine import Tables


def _mark(tables: Tables, time: int) -> Value:
    """Nothing."""
    return None


COMMANDS: Final[Commands] = {"mark": (_mark, ())}
