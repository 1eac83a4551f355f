"""What one node does for the end of its cluster, as `dismantling` decides: sign, record, and believe a tombstone.

Thread: the reconciler's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raftcluster import failpoints
from raftcluster.cluster import destroy
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.manifests import Link, is_endorsed
from raftcluster.cluster.records import rejected
from raftcluster.cluster.tombstone import Statement, Tombstone, signature, signers
from raftcluster.cluster.view import View
from raftcluster.codec import Value
from raftcluster.events.recorder import Recorder
from raftcluster.storage.directory import DataDirectory


class Teardown:
    """One per node."""

    def __init__(
        self,
        directory: DataDirectory,
        keystore: Keystore,
        node_id: str,
        recorder: Recorder,
        sync: Callable[[], object] = lambda: None,
        software: str = "",
    ) -> None:
        """`sync` has the system's log write what it was sent. `software` is where the program lies, when that was put here for
        this node and has to go with it; empty: it stays."""
        self._directory, self._keystore, self._node_id = directory, keystore, node_id
        self._recorder, self._sync = recorder, sync
        self._recorded, self._software = False, software

    def local(self, view: View) -> dict[str, Any]:
        """What is true on this node of the destruction, for `actions.Local`."""
        if view.destruction is None or view.head is None or view.facts is None:
            return {}
        statement = Statement.of_view(view).pack()
        manifest = view.head.content()
        signed = signers(manifest, statement, view.destruction.signatures)
        self._recorded = self._recorded or destroy.is_recorded(
            self._directory, view.facts.cluster_id, view.destruction.event_id
        )
        return {
            "signed": self._node_id in signed,
            "entombed": is_endorsed(manifest.voters, signed),
            "recorded": self._recorded,
        }

    def signing(self, view: View) -> Value:
        """The command that brings this node's signature of the tombstone."""
        assert view.head is not None
        key = self._keystore.identity(view.head.content().generation).key
        return ["signed", self._node_id, *signature(key, Statement.of_view(view).pack())]

    def record(self, view: View, links: list[Link]) -> None:
        """Event record and tombstone, from the tables and the chain in them. Raises `OSError`."""
        assert view.destruction is not None
        self._record(Tombstone(Statement.of_view(view).pack(), view.destruction.signatures, links))

    def verify(self, data: bytes) -> Statement:
        """The statement of a tombstone from outside, when it proves to this node that its cluster was destroyed. Thread: any.
        Raises `Rejected`, `FrameError`."""
        known = self._keystore.chain()
        if not known:
            raise rejected("chain-unknown", "this node knows no manifest to begin with", subject="tombstone")
        return Tombstone.unpack(data).verify(known[-1], self._keystore.cluster_id)

    def believe(self, data: bytes, source: str) -> Statement:
        """The same, and keep tombstone and event record. Raises `OSError` as well."""
        said, tombstone = self.verify(data), Tombstone.unpack(data)
        if not destroy.is_recorded(self._directory, said.cluster_id, said.event_id):
            self._recorder.write("tombstone-accepted", event_id=said.event_id, source=source)
            self._record(tombstone)
        return said

    def mark(self, event_id: str, keep_software: bool, unheard: Sequence[str] = ()) -> None:
        """The directory is one to be removed, and with it the software, unless that is kept. `unheard` are the names of members
        that have not said that they have recorded the end."""
        if unheard:
            self._recorder.note("members-not-heard", event_id=event_id, members=[*unheard])
        failpoints.reach("destroy.mark.before")
        destroy.mark(self._directory, event_id, "" if keep_software else self._software)
        failpoints.reach("destroy.mark.after")

    def _record(self, tombstone: Tombstone) -> None:
        said = tombstone.content()
        manifest = tombstone.links[-1].content()
        names = {node_id: str(about[0]) for node_id, about in said.members.items()}
        by = [names.get(each, each) for each in signers(manifest, tombstone.statement, tombstone.signatures)]
        destroy.record(self._directory, tombstone, by, self._recorder, self._sync)
