"""The record of all changes as a hash chain, and its proof. Pure.

A row of `changes` holds the SHA-256 of the row before it and of every version that it made; `state` has the digest of the
newest. So whoever has written down one digest can tell whether anything before it is another now; and a row, a version or a
part of a large value that has decayed is found by itself, and named by its revision. What proves nothing: a chain that was
made anew as a whole, unless its last digest is compared with one from elsewhere, such as another node's.

Versions that the history has dropped cannot be proven any more, only that what is left is what it was; changes that are no
longer listed are the chain's beginning.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.config.blobs import DIGEST_BYTES, STATE, read_packed
from raftcluster.config.reading import BLOB, CHANGES, DELETED, FORGOTTEN, HISTORY, LAST, STAMP, VALUES, read_kept
from raftcluster.errors import FrameError
from raftcluster.machine import ReadTables, Tables

HEAD: Final = b"head"
"""In `state`: the digest of the newest change."""
DROPPED: Final = b"dropped"
"""In `state`: the newest revision that is no longer listed."""
LISTED: Final = b"listed"
"""In `state`: how many changed keys are listed."""
_NOTHING: Final = bytes(DIGEST_BYTES)


class Place(NamedTuple):
    """How far a proof has come."""

    revision: int = 0
    digest: bytes | None = None
    """Of that change; None before the first."""
    key: bytes = b""
    """After the last change: how far the histories are looked through."""
    proven: int = 0
    done: bool = False
    bad: int | None = None
    """The first revision that is not what it was."""
    reason: str = ""


class Proof(NamedTuple):
    """Whether the configuration's past is what it was."""

    first: int
    """The oldest revision that is listed."""
    last: int
    digest: str
    """Of the newest change, hexadecimal: equal on every node that has applied it."""
    bad: int | None
    """The first revision that is not what it was; None when all is sound."""
    reason: str


def append(tables: Tables, revision: int, time: int, changed: list[list[Value]]) -> None:
    """Record that `changed`, [key, number, digest of the version], have changed; the oldest of too many are dropped."""
    stamp = STAMP.pack(revision)
    row = codec.pack([tables.get(STATE, HEAD) or _NOTHING, time, changed])
    tables.put(CHANGES, stamp, row)
    tables.put(STATE, HEAD, _digest(stamp, row))
    listed = _number(tables, LISTED) + len(changed)
    while listed > limits.CONFIG_CHANGES:
        ((oldest, dropped),) = tables.scan(CHANGES, limit=1)
        listed -= len(codec.unpack(dropped)[2])
        tables.delete(CHANGES, oldest)
        tables.put(STATE, DROPPED, oldest)
        forget(tables, oldest)
    tables.put(STATE, LISTED, STAMP.pack(listed))


def forget(tables: Tables, stamp: bytes) -> None:
    """Whoever has seen no more than what was before `stamp` may have missed something."""
    if stamp > (tables.get(STATE, FORGOTTEN) or b""):
        tables.put(STATE, FORGOTTEN, stamp)


def digest_of(version: bytes) -> bytes:
    """Of a row of `history`."""
    return sha256(version).digest()


def read_proof(tables: ReadTables, place: Place) -> Proof:
    """What was found, once `place.done`."""
    head = tables.get(STATE, HEAD) or _NOTHING
    return Proof(_number(tables, DROPPED) + 1, _number(tables, LAST), head.hex(), place.bad, place.reason)


def prove(tables: ReadTables, place: Place, limit: int) -> Place:
    """Go on from `place`, over some `limit` rows. Between two steps changes may be made."""
    if place.revision < _number(tables, LAST):
        return _prove_changes(tables, place, limit)
    if place.digest is not None and place.digest != tables.get(STATE, HEAD):
        return _bad(place, place.revision, "the record of this change is not what it was")
    return _prove_histories(tables, place, limit)


def _prove_changes(tables: ReadTables, place: Place, limit: int) -> Place:
    dropped = _number(tables, DROPPED)
    if place.revision < dropped or place.digest is None:
        place = Place(dropped)
    size = versions = 0
    for stamp, row in tables.scan(CHANGES, STAMP.pack(place.revision + 1), limit=limit):
        revision = place.revision + 1
        if stamp != STAMP.pack(revision):
            break
        digest = _digest(stamp, row)
        try:
            before, _, changed = codec.unpack(row)
            if place.digest is not None and before != place.digest:
                named = revision - 1 if digest == _expected(tables, revision) else revision
                return _bad(place, named, "the record of this change is not what it was")
            for key, number, expected in changed:
                problem, read = _problem(tables, key.encode(), stamp, number, expected)
                if problem:
                    return _bad(place, revision, f"{key}: {problem}")
                size, versions = size + read, versions + 1
        except (ValueError, TypeError, AttributeError, FrameError) as error:
            return _bad(place, revision, f"the record of this change cannot be read: {error}"[:200])
        place = place._replace(revision=revision, digest=digest)
        if size >= limits.CONFIG_PAGE_BYTES or versions >= limit:
            return place
    if place.revision < _number(tables, LAST) and tables.get(CHANGES, STAMP.pack(place.revision + 1)) is None:
        return _bad(place, place.revision + 1, "the record of this change is missing")
    return place


def _problem(tables: ReadTables, name: bytes, stamp: bytes, number: int, expected: bytes) -> tuple[str, int]:
    """What is wrong with the version that `name` got with `stamp`, and how many bytes were read."""
    version, kept = tables.get(HISTORY, name + b"\0" + stamp), read_kept(tables, name)
    if number <= kept.forgotten:
        return ("", 0) if version is None else ("a version that was dropped is there", 0)
    if version is None:
        return "its version is missing", 0
    if digest_of(version) != expected:
        return "its version is not what it was", 0
    _, kind, content, *_ = codec.unpack(version)
    if kind == BLOB and sha256(read_packed(tables, content[0])).digest() != content[0]:
        return "the parts of its value are not what they were", 0
    if number == kept.changes and tables.get(VALUES, name) != (None if kind == DELETED else version):
        return "its value is not that of its newest version", 0
    return "", len(version) + (content[1] if kind == BLOB else 0)


def _prove_histories(tables: ReadTables, place: Place, limit: int) -> Place:
    """That no version, and no value, is there that no change has made."""
    dropped = _number(tables, DROPPED)
    known: dict[bytes, set[str]] = {}  # what each revision has changed: many versions are of one
    for table, mark in ((HISTORY, b"h"), (VALUES, b"v")):
        if place.key[:1] > mark:
            continue
        start = place.key[1:] if place.key[:1] == mark else b""
        rows = tables.scan(table, start, limit=limit)
        for key, row in rows:
            name, _, stamp = (key, b"", row and STAMP.pack(_revision(row))) if table == VALUES else key.partition(b"\0")
            if stamp not in known:
                listed = tables.get(CHANGES, stamp)
                known[stamp] = set() if listed is None else {each[0] for each in codec.unpack(listed)[2]}
            made = name.decode(errors="replace") in known[stamp]
            old = stamp <= STAMP.pack(dropped) and tables.get(HISTORY, name + b"\0" + stamp) == row
            if not (made or old) or (table == VALUES and tables.get(HISTORY, name + b"\0" + stamp) != row):
                revision = int.from_bytes(stamp[:8])
                return _bad(place, revision, f"{name.decode(errors='replace')}: no change has made this in {table}")
        if len(rows) == limit:
            return place._replace(key=mark + rows[-1][0] + b"\0")
        place = place._replace(key=bytes([mark[0] + 1]))
    return place._replace(done=True)


def _expected(tables: ReadTables, revision: int) -> bytes | None:
    """The digest of this change as what comes after it has it."""
    after = tables.get(CHANGES, STAMP.pack(revision + 1))
    return tables.get(STATE, HEAD) if after is None else bytes(codec.unpack(after)[0])


def _revision(version: bytes) -> int:
    """0 when it cannot be told: no change has that one."""
    try:
        revision = codec.unpack(version)[0]
    except (FrameError, TypeError, IndexError, KeyError):
        return 0
    return revision if type(revision) is int and 0 <= revision < 2**63 else 0


def _bad(place: Place, revision: int, reason: str) -> Place:
    return place._replace(done=True, bad=revision, reason=reason)


def _digest(stamp: bytes, row: bytes) -> bytes:
    return sha256(stamp + row).digest()


def _number(tables: ReadTables, key: bytes) -> int:
    row = tables.get(STATE, key)
    return 0 if row is None else int(STAMP.unpack(row)[0])
