"""What `verify` needs of a node: its machines' inspections, the image of its tables, the other members, the mark."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from raftcluster import limits
from raftcluster.cluster.api import Members
from raftcluster.engine.inspection import inspect_ring
from raftcluster.engine.operations import Ring
from raftcluster.engine.replica import Replica
from raftcluster.errors import Unavailable
from raftcluster.machine import Inspectable, StateMachine
from raftcluster.runtime import Runtime
from raftcluster.storage.ports import Log
from raftcluster.transport.handshake import VERIFY
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.stream import Stream
from raftcluster.twins import twin
from raftcluster.verify.examination import Examiner, Inspect
from raftcluster.verify.report import Report
from raftcluster.verify.verifier import Named, Verifier


def inspectors(machines: Sequence[StateMachine]) -> dict[str, Inspect]:
    """By name of the machine, of those that know their rows; the engine's own among them."""
    found = {machine.name: machine.inspect for machine in machines if isinstance(machine, Inspectable)}
    return {**found, Ring.MACHINE: inspect_ring}


def verifier(
    runtime: Runtime,
    replica: Replica,
    log: Log,
    machines: Sequence[StateMachine],
    members: Members,
    mesh: Mesh,
    ending: threading.Event,
) -> Verifier:
    """A node's, before its tick thread runs. `ending` is set when it closes."""

    def rest(seconds: float) -> None:
        if ending.wait(seconds):
            raise Unavailable("the node is closed", subject=replica.me)

    examiner = Examiner(replica.journal.get, replica.applier.overlay.image, log, inspectors(machines), rest)
    runtime.on_apply("cluster", examiner.applied)
    return Verifier(
        replica.me,
        examiner,
        lambda: [Named(each.node_id, each.name) for each in members.list()],
        lambda peer: mesh.open_stream(peer, VERIFY),
        lambda mark, seconds: runtime.propose("cluster", ["mark"], id=mark, deadline=seconds),
    )


class Verifying:
    """The part of a node that verifies."""

    _verifier: Verifier

    def verify(
        self, *, deadline: float = limits.VERIFY_SECONDS, progress: Callable[[str], None] = lambda text: None
    ) -> Report:
        """Compare all tables of all members at one log index, and read through what each has stored; see `verify.report`.

        Goes on beside the work of all nodes and takes some seconds for a million rows. A member that does not answer within
        `deadline` seconds is named in the report. Raises `Unavailable` without a quorum; `Report.check` raises what was found.
        """
        return self._verifier.verify(deadline, progress)

    averify = twin(verify)

    def verification(self, *, deadline: float = limits.VERIFY_SECONDS) -> Iterator[str | Report]:
        """The same step by step: texts about how far it is, at least one a second, then the report. Ends when closed."""
        return self._verifier.steps(deadline)

    def examine(self, peer: str, stream: Stream) -> None:
        """A member verifies. Called on a stream thread (`transport.Services`)."""
        self._verifier.serve(stream)
