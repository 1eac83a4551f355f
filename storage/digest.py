"""Whether two nodes' tables are equal: one SHA-256 per table."""

from __future__ import annotations

import hashlib
from contextlib import closing

from raftcluster.storage.ports import Snapshot


def digest(snapshot: Snapshot) -> dict[str, str]:
    """Table -> hexadecimal SHA-256 over its rows in key order (each length-prefixed); tables without rows are left out.

    Comparable between nodes at an equal `snapshot.index`, whatever their chunks. Consumes and closes the snapshot; about
    1 us a row. Thread: any.
    """
    hashes: dict[str, hashlib._Hash] = {}
    with closing(snapshot.chunks) as chunks:
        for table, rows in chunks:
            parts = [part for key, value in rows for part in (len(key).to_bytes(2), key, len(value).to_bytes(4), value)]
            hashes.setdefault(table, hashlib.sha256()).update(b"".join(parts))
    return {table: found.hexdigest() for table, found in hashes.items()}
