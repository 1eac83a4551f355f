"""What every node has: the product's name, and the state machines that come with the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftcluster.cluster.machine import ClusterMachine
from raftcluster.config.machine import ConfigMachine
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.lease.machine import LeaseMachine
from raftcluster.machine import StateMachine
from raftcluster.notifications.machine import NotificationsMachine
from raftcluster.quarantine.machine import QuarantineMachine

PRODUCT: Final = "raftcluster/0.1"
"""Of a node that nobody embeds."""


FEATURES: Final[Sequence[str]] = ()
"""What this version writes into the log that the version before does not understand: see `cluster.features`. None so far."""


def all_machines(embedders: Sequence[StateMachine] = ()) -> list[StateMachine]:
    """The machines of one node, in the order in which they tick: the built-in ones, then the embedder's."""
    return [
        ClusterMachine(),
        ConfigMachine(),
        GreylistMachine(),
        ListsMachine(),
        LeaseMachine(),
        NotificationsMachine(),
        QuarantineMachine(),
        *embedders,
    ]


def schemas(machines: Sequence[StateMachine]) -> dict[str, int]:
    """machine -> version of its tables: equal on all nodes of a cluster."""
    return {machine.name: machine.schema for machine in machines}
