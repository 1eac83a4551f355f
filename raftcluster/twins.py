"""Twins for asyncio: `aset` is `set`, awaited.

A call that waits for the cluster, for the node's own turn or for a disk blocks the event loop that makes it, so each has a twin whose
name begins with `a`. Those that come often (`greylist.acheck`, `apropose`, ...) wait in the loop itself; the others, made here, in a
thread of the loop's default executor. Cancelled, such a call goes on in its thread: it may have been carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")


def twin(call: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """The method `call` for asyncio: the same arguments, result and errors."""

    @wraps(call)
    async def awaited(self: S, /, *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.to_thread(call, self, *arguments, **named)

    awaited.__name__ = f"a{call.__name__}"
    awaited.__doc__ = f"`{call.__name__}` from asyncio."
    return awaited
