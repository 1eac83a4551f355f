"""A backup becomes a new cluster of one node.

It is another cluster than the one that was backed up, even where that one is gone: its id, its only node and its
certificates are new, so whoever belonged to the old one is refused until it joins anew. Configuration, greylist and the
embedder's tables are as they were; members, tokens and certificates are not taken over.

    restore.json    written first, removed last: what an interrupted restore has left is thrown away by the next one
    node.json       written when all else is there
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from raftcluster.backup.file import Reader
from raftcluster.backup.offline import Offline, install
from raftcluster.backup.summary import Summary, verify
from raftcluster.backup.unfinished import RESTORE
from raftcluster.builtin import all_machines, schemas
from raftcluster.cluster.auditing import attributed
from raftcluster.cluster.create import founding
from raftcluster.cluster.keystore import Keystore, Trust
from raftcluster.cluster.records import product_name
from raftcluster.cluster.rows import check_address, check_name
from raftcluster.codec import unpack
from raftcluster.errors import BackupDamaged, BackupForeign
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.machine import StateMachine
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.ports import Address


@dataclass(frozen=True, slots=True)
class Restored:
    """The new cluster."""

    cluster: str
    cluster_id: str
    node: str
    node_id: str
    generation: int
    """Its first; the numbers go on from the old cluster's."""
    index: int
    """Where its log begins."""
    backup: Summary


def restore(
    path: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    node: str,
    listen: Address,
    advertise: Address,
    product: str,
    cluster: str | None = None,
    machines: Sequence[StateMachine] = (),
    outlet: Outlet | None = None,
    firewall: Mapping[str, Any] | None = None,
    reason: str = "",
    author: str = "",
) -> Restored:
    """Make `path` the data directory of the first node of a new cluster with the state in the backup `file`.

    `cluster` is the new cluster's name (default: the old one's); `machines` are the embedder's, `outlet` is for the event, as for `Node.open`;
    `firewall`, `author` and `reason` are as for `create.init`.
    Raises `BackupDamaged`, `BackupForeign`, `Rejected` for a bad name or address, `StorageRefusal` when `path` is not empty,
    `StorageFull`, `Refusal`. The whole backup is checked before anything is made.
    """
    check_name(node)
    check_address(*advertise)
    summary = verify(file)
    everything = all_machines(machines)
    _check(summary, product, schemas(everything))
    node_id, cluster_id = str(uuid.uuid4()), str(uuid.uuid4())
    with DataDirectory.begin(path, lambda root: (root / RESTORE).exists()) as directory, Reader(file) as reader:
        _clear(directory)
        install(directory, reader.header.index, reader.header.anchor, reader.chunks())
        if reader.sum.hex() != summary.sha256:
            raise BackupDamaged(f"{file} has changed meanwhile", subject=summary.path, remedy="try again")
        with Offline(directory, everything, ()) as state:
            old = state.view()
            if old.facts is None:
                raise BackupDamaged(f"{file} holds no cluster", subject=summary.path, remedy="use another backup")
            facts = replace(
                old.facts, cluster_id=cluster_id, name=cluster or old.facts.name, product=product, founder=node_id
            )
            generation = 1 + int(unpack(state.applier.tables("cluster").get("facts", b"last") or b"\x00"))
            keystore = Keystore(directory, cluster_id, node_id)
            genesis = founding(keystore, generation, facts, node, advertise, product)
            why = attributed(["restored", old.facts.cluster_id, summary.index], author, node, reason)
            state.refound(genesis, why, node_id, max(state.applier.stamp, int(time.time() * 1000)), old.revision + 1)
            state.follow()
            index = state.last[0] + 1
        keystore.keep(Trust(old.revision + 1, generation, (generation,), {}))
        former = {"cluster_id": summary.cluster_id, "index": summary.index, "sha256": summary.sha256}
        now = {
            "node_id": node_id,
            "name": node,
            "listen": list(listen),
            "advertise": list(advertise),
            "product": product,
            "cluster_id": cluster_id,
            "cluster": facts.name,
            "founder": node_id,
            "realm": facts.realm,
            "lab": facts.lab,
            "firewall": firewall is not None,
            "before": dict(firewall or {}),
            "restored_from": former,
        }
        directory.write_node(now)
        with closing(Recorder(EventLog(directory.events), now, outlet)) as events:
            events.note(
                "cluster-restored",
                former_id=summary.cluster_id,
                index=summary.index,
                checksum=summary.sha256,
                author=author,
                reason=reason,
            )
        directory.remove(RESTORE)
    return Restored(facts.name, cluster_id, node, node_id, generation, index, summary)


def _check(summary: Summary, product: str, schema: dict[str, int]) -> None:
    """Refuse a backup of another product or of other tables, saying what differs."""
    wanted = product_name(product)
    if product_name(summary.product) != wanted:
        raise BackupForeign(
            f"{summary.path} is of product {summary.product!r}, this is {product!r}",
            subject=summary.path,
            remedy=f"any version of {product_name(summary.product)!r} can restore it",
        )
    if summary.schema != schema:
        names = sorted(set(summary.schema) | set(schema))
        differing = [
            f"{name} {summary.schema.get(name, 'absent')} in the backup, {schema.get(name, 'absent')} here"
            for name in names
            if summary.schema.get(name) != schema.get(name)
        ]
        raise BackupForeign(
            f"{summary.path} has other tables: {'; '.join(differing)}",
            subject=summary.path,
            remedy="restore it with the program that ran there, in the same schema versions",
        )


def _clear(directory: DataDirectory) -> None:
    """Say that a restore has begun, and throw away what an interrupted one has left."""
    directory.write(RESTORE, json.dumps({"begun_at": int(time.time())}).encode())
    for folder in (directory.tables, directory.log, directory.path / "certificates"):
        for each in folder.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    (directory.path / "node.json").unlink(missing_ok=True)
