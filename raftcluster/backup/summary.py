"""What a backup holds, and that it is whole: nothing but the file is needed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from raftcluster.backup.file import Reader
from raftcluster.cluster.records import SCHEMA, Member


@dataclass(frozen=True, slots=True)
class Summary:
    """One backup. Times are seconds since the epoch, cluster time is in milliseconds."""

    path: str
    cluster: str
    cluster_id: str
    product: str
    realm: str
    node: str
    """Name of the node that wrote it."""
    index: int
    """Everything up to this log index is in it, and nothing later."""
    term: int
    cluster_time_ms: int
    written_at: int
    members: list[str]
    """Names of those that belonged to the cluster; empty when they are kept as another version does."""
    schema: dict[str, int]
    rows: dict[str, int]
    """table -> number of rows."""
    bytes: int
    sha256: str
    """The checksum of the last block, which covers all of the file."""


def verify(path: str | os.PathLike[str]) -> Summary:
    """Read the whole backup and compare its checksums.

    Raises `BackupDamaged`, `BackupForeign` when its format is newer, `Refusal` and its kinds when it cannot be read.
    """
    with Reader(path) as reader:
        names: list[str] = []
        for table, rows in reader.chunks():
            if table == "cluster.members" and reader.header.schema.get("cluster") == SCHEMA:
                members = [Member.unpack(value) for _, value in rows]
                names += [each.name for each in members if each.role != "removed"]
        header = reader.header
        return Summary(
            os.fspath(path),
            header.cluster,
            header.cluster_id,
            header.product,
            header.realm,
            header.node,
            header.index,
            header.term,
            header.cluster_time_ms,
            header.written_at,
            sorted(names),
            dict(header.schema),
            dict(reader.rows),
            reader.bytes,
            reader.sum.hex(),
        )
