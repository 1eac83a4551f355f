"""One request id for all that a call proposes: asked again under it, nothing is done twice.

with once(ident):
    node.config.set("antispam/threshold", 5)     # and the same again after `OutcomeUnknown`, with the same id
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import Final

from raftcluster.errors import Rejected

ID_BYTES: Final = 16


class _Ids:
    """The first proposal has the id itself, each further one an id that is derived from it: a call that is repeated takes the
    same ones in the same order."""

    def __init__(self, ident: bytes) -> None:
        self._ident, self._count = ident, 0

    def next(self) -> bytes:
        self._count += 1
        if self._count == 1:
            return self._ident
        return blake2b(self._ident, digest_size=ID_BYTES, salt=self._count.to_bytes(ID_BYTES, "big")).digest()


_ids: Final[ContextVar[_Ids | None]] = ContextVar("raftcluster.request_ids", default=None)


@contextmanager
def once(ident: bytes) -> Iterator[None]:
    """What this thread (or task) proposes within it goes under ids made from `ident`, 16 bytes that name one call for ever.

    See `host.Host` for how long results are remembered. Raises `Rejected` when `ident` is none.
    """
    if type(ident) is not bytes or len(ident) != ID_BYTES:
        raise Rejected(f"a request id has {ID_BYTES} bytes", subject="request id")
    token = _ids.set(_Ids(ident))
    try:
        yield
    finally:
        _ids.reset(token)


def request_id(chosen: bytes | None) -> bytes | None:
    """The id for the next proposal: the one that its caller has chosen, else the next one of the `once` around it, else none."""
    ids = _ids.get()
    return chosen if chosen is not None or ids is None else ids.next()
