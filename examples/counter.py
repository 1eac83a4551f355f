"""A state machine of one's own on every node: counters that all nodes agree about.

python examples/counter.py DIR NAME     adds one to NAME in the cluster that DIR is a node of, and prints it
"""

import sys

from raftcluster import Node
from raftcluster.codec import Value
from raftcluster.machine import Tables


class Counter:
    name, schema, tables = "counter", 1, ("totals",)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        total = int(tables.get("totals", command.encode()) or b"0") + 1
        tables.put("totals", command.encode(), str(total).encode())
        return total

    def tick(self, tables: Tables, time: int) -> None:
        """A counter has nothing to clean up."""


if __name__ == "__main__":
    with Node.open(sys.argv[1], machines=[Counter()]) as node:
        print(node.propose("counter", sys.argv[2]))
