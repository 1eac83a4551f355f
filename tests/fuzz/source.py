"""Choices out of bytes, so that a fuzzer that changes bytes changes choices. At the end of the bytes all of them are 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

EDGES: Final = (
    0,
    1,
    2,
    -1,
    255,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**53 + 1,
    2**62 - 1,
    2**62,
    2**63 - 1,
    2**64 - 1,
    -(2**63),
)
TEXTS: Final = ("", "a", "local", "mx1.example.org", "é\u200d", "\x00", "a/b", "x" * 64, "x" * 254, "y" * 2000)


class Source:
    """One input, read from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether there are bytes left."""
        return self._at < len(self.data)

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0] if self.more else 0

    def below(self, bound: int) -> int:
        """A number from 0 to below `bound`, of one byte (two, where that is not enough)."""
        number = self.byte() if bound <= 256 else self.byte() << 8 | self.byte()
        return number % bound

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[self.below(len(items))]

    def flag(self, one_in: int = 2) -> bool:
        """True for one byte in so many; False at the end."""
        return self.byte() % one_in == one_in - 1

    def take(self, count: int) -> bytes:
        """Up to `count` of the next bytes."""
        taken = self.data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self.data))

    def integer(self) -> int:
        """A small one, or one at an edge of what fits somewhere."""
        return self.byte() if self.flag() else self.choice(EDGES)

    def value(self, depth: int = 4) -> Any:
        """Any value that msgpack has."""
        kind = self.below(10 if depth else 7)
        if kind == 0:
            return None
        if kind == 1:
            return self.flag()
        if kind == 2:
            return self.integer()
        if kind == 3:
            return self.choice((0.0, -1.5, 1e300, float("inf"), float("nan"), 0.25))
        if kind == 4:
            return self.take(self.byte())
        if kind == 5:
            return self.choice(TEXTS)
        if kind == 6:
            return self.take(self.byte() % 32).decode("utf-8", "replace")
        if kind in (7, 8):
            return [self.value(depth - 1) for _ in range(self.below(6))]
        return {self._key(): self.value(depth - 1) for _ in range(self.below(5))}

    def _key(self) -> Any:
        return self.choice((self.integer(), self.choice(TEXTS), self.take(4), None, True))

    def spoilt(self, value: Any, one_in: int = 16) -> Any:
        """`value`, or now and then something else in its place."""
        return self.value() if self.flag(one_in) else value

    def spoilt_number(self, number: int) -> int:
        """`number`, or now and then another one of 64 bits."""
        return max(0, self.choice(EDGES)) if self.flag(16) else min(number, 2**64 - 1)

    def damaged(self, data: bytes) -> bytes:
        """`data` with a bit flipped, cut short, or longer."""
        how, place = self.byte(), self.below(max(1, len(data)))
        if how < 128 and data:
            return data[:place] + bytes([data[place] ^ (1 << how % 8)]) + data[place + 1 :]
        return data[:place] if how < 200 else data + self.take(3)
