"""The Postfix policy delegation protocol, without any IO.

A request is a sequence of `name=value` lines ended by an empty line; a connection carries any number of them, one after
the other. The answer to each is one `action=...` line and an empty line. Source: Postfix, SMTPD_POLICY_README.

Rules that hold here:

1. The order of the attributes is free, unknown ones are kept but mean nothing, a repeated name takes its last value.
2. A value may be empty and may hold any byte but a newline. Text is UTF-8; a byte that is not becomes `\\xNN`, so that
   what comes out can always be encoded again (in a log, a table, an answer).
3. What is no request at all -- a line without `=`, without a name, too long, too many of them, nothing before the empty
   line -- breaks the connection: there is no way to say so in the protocol, so the client must be left unanswered.
4. How the bytes were cut into pieces makes no difference to the requests that come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raftcluster import limits
from raftcluster.errors import FrameError

REQUEST_BYTES: Final = 8 * limits.POLICY_LINE_BYTES  # sender, recipient and every other attribute together
Attributes = Mapping[str, str]

assert 2 * limits.ADDRESS_BYTES < REQUEST_BYTES, "a sender and a recipient of the greatest length fit one request"


class Parser:
    """Turns the bytes of one connection into requests.

    Feed bytes, then call `next` until it returns None. Holds at most one unfinished request (`REQUEST_BYTES`) and what
    was fed but not yet asked for. Not thread-safe: one connection, one owner.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # bytes of the buffer that are known to hold no newline
        self._attributes: dict[str, str] = {}
        self._lines = 0
        self._bytes = 0  # of the request under way, its lines that are parsed already
        self._trouble: FrameError | None = None

    @property
    def unfinished(self) -> bool:
        """Whether a request has begun and its end has not come yet (ask after `next` returned None)."""
        return bool(self._buffer) or self._lines > 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the connection."""
        self._buffer += data

    def next(self) -> Attributes | None:
        """The next whole request, or None when more bytes are needed.

        Raises `FrameError` when the bytes are no request; from then on every call raises it.
        """
        if self._trouble is not None:
            raise self._trouble
        try:
            return self._next()
        except FrameError as error:
            self._trouble = error
            self._buffer.clear()
            raise

    def _next(self) -> Attributes | None:
        if not self._lines and (attributes := self._whole()) is not None:
            return attributes
        buffer, start = self._buffer, 0
        while (end := buffer.find(b"\n", max(start, self._scanned))) >= 0:
            line = bytes(buffer[start:end])
            start = end + 1
            if not line:
                del buffer[:start]
                self._scanned = 0
                return self._finish()
            self._take(line)
        del buffer[:start]
        self._scanned = len(buffer)
        self._bound(self._scanned)
        return None

    def _whole(self) -> Attributes | None:
        """The usual case, at a quarter of the cost: a small, sound request that is all there. None in any other."""
        end = self._buffer.find(b"\n\n")
        if not 0 < end <= limits.POLICY_LINE_BYTES:
            return None
        lines = self._buffer[:end].decode("utf-8", "backslashreplace").split("\n")
        try:
            attributes = dict(line.split("=", 1) for line in lines)
        except ValueError:  # a line without `=`
            return None
        if len(lines) > limits.POLICY_ATTRIBUTES or "" in attributes:
            return None
        del self._buffer[: end + 2]
        self._scanned = 0
        return attributes

    def _take(self, line: bytes) -> None:
        self._bound(len(line))
        self._bytes += len(line) + 1
        self._lines += 1
        if self._lines > limits.POLICY_ATTRIBUTES:
            raise _trouble(f"more than {limits.POLICY_ATTRIBUTES} attributes")
        name, equals, value = line.decode("utf-8", "backslashreplace").partition("=")
        if not equals or not name:
            raise _trouble(f"no name=value line: {line[:80]!r}")
        self._attributes[name] = value

    def _bound(self, line_bytes: int) -> None:
        if line_bytes > limits.POLICY_LINE_BYTES:
            raise _trouble(f"a line longer than {limits.POLICY_LINE_BYTES} bytes")
        if self._bytes + line_bytes > REQUEST_BYTES:
            raise _trouble(f"a request longer than {REQUEST_BYTES} bytes")

    def _finish(self) -> Attributes:
        if not self._attributes:
            raise _trouble("an empty request")
        attributes, self._attributes, self._lines, self._bytes = self._attributes, {}, 0, 0
        return attributes


def response(action: str) -> bytes:
    """The answer that carries `action`, such as `DUNNO` or `DEFER_IF_PERMIT 4.2.0 Greylisted`.

    Raises `ValueError` when `action` is empty or holds a control character: it would end the answer early.
    """
    if not action or not action.isprintable():
        raise ValueError(f"no action can be made of {action!r}")
    return b"action=" + action.encode("utf-8") + b"\n\n"


def _trouble(what: str) -> FrameError:
    return FrameError(what, subject="policy request")
