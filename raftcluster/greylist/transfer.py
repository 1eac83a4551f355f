"""Greylist records out of a cluster into a file, and back: page by page, batch by batch. Whoever calls has the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TextIO

from raftcluster import limits
from raftcluster.codec import Value
from raftcluster.errors import Refusal, Rejected
from raftcluster.greylist import exchange
from raftcluster.greylist.exchange import Format, Header, Row

BATCH_ROWS: Final = 500  # of a command: `merging.ROWS_MAX`
BATCH_BYTES: Final = 96 * limits.KIB  # of packed records in a command

Put = Callable[[list[list[Value]], list[Value] | None], list[int]]
"""Has rows imported; the first ones with [detail, author, reason]."""


def exported(header: dict[str, Value], page: Callable[..., dict[str, Value]], form: Format) -> Iterator[str]:
    """The lines of a file with all records that `page(after=...)` gives."""
    if form not in ("jsonl", "csv"):
        raise Rejected(f"no format {form!r:.20}", subject="format", remedy="jsonl or csv")

    def rows() -> Iterator[Row]:
        after = ""
        while True:
            found = page(after=after)
            yield from ((key, row) for key, row in found["rows"])
            after = found["next"]
            if not after:
                return

    return exchange.write(Header(header["node"], header["time"], header["network4"], header["network6"]), rows(), form)


def loaded(
    path: str | os.PathLike[str], here: dict[str, Value], put: Put, author: str, reason: str
) -> dict[str, Value]:
    """Import a file that `export` wrote: `records` in it, and how many of them were `joined`, had `expired`, were `forgotten`.

    The whole file is checked before the first command; what is wrong is named by its line (`Rejected`), and nothing was
    imported then. Records are joined with those that there are, so importing again, also after it was broken off
    (`Unavailable`, `OutcomeUnknown`), changes nothing more.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            records = 0
            for item in exchange.read(_lines(file)):
                if isinstance(item, Header):
                    _check_networks(item, here)
                else:
                    records += 1
            file.seek(0)
            rows = (item for item in exchange.read(_lines(file)) if not isinstance(item, Header))
            why: list[Value] | None = [f"{records} records of {os.path.basename(path)}"[:200], author, reason]
            total = [0, 0, 0]
            for batch in _batches(rows):
                total = [before + more for before, more in zip(total, put(batch, why), strict=True)]
                why = None
    except OSError as error:
        text = f"{path}: {error.strerror or error}"
        raise Refusal(text, subject=os.fspath(path), remedy="name a file that can be read") from error
    return {"records": records, **dict(zip(("joined", "expired", "forgotten"), total, strict=True))}


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file, no more of each than what is refused for its length."""
    return iter(lambda: file.readline(exchange.LINE_CHARACTERS + 1), "")


def _check_networks(header: Header, here: dict[str, Value]) -> None:
    for name in ("network4", "network6"):
        there = getattr(header, name)
        if there != here[name]:
            raise Rejected(
                f"line 1: the records are of networks of /{there}, here they are of /{here[name]}",
                subject=name,
                remedy=f"set the greylist's {name} to {there} first; nothing was imported",
            )


def _batches(rows: Iterable[Row]) -> Iterator[list[list[Value]]]:
    iterator = iter(rows)
    batch: list[list[Value]] = []
    size = 0
    for key, row in iterator:
        batch.append([key, 0, row])
        size += len(row)
        if len(batch) == BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
