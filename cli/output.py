"""How results look: tables for people, JSON for programs. Without rich the tables are plain text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

Cell = object


def as_json(value: Any) -> None:
    """One line of JSON. Bytes are shown as hexadecimal, text that is no UTF-8 as escapes."""
    click.echo(json.dumps(value, ensure_ascii=True, default=_of_bytes))


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table; columns whose every cell is a number are aligned to the right."""
    cells = [[text(cell) for cell in row] for row in rows]
    right = [bool(rows) and all(type(row[n]) in (int, float) for row in rows) for n in range(len(columns))]
    try:  # only here: it takes as long to import as all the rest
        from rich.console import Console
        from rich.table import Table
    except ImportError:  # the extra `cli` is not installed
        _plain(columns, cells, right)
        return
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name, to_right in zip(columns, right, strict=True):
        shown.add_column(name, justify="right" if to_right else "left", overflow="fold")
    for row in cells:
        shown.add_row(*row)
    console = Console(markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 10_000  # a pipe has no width: no row is folded
    console.print(shown)


def facts(values: Mapping[str, Cell]) -> None:
    """Names and values, one per line."""
    shown = {_title(name): _timed(name, value) for name, value in values.items()}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        click.echo(f"{name:<{width}}  {text(value) or '-'}")


def document(value: Mapping[str, Any]) -> None:
    """Simple values first, then a table for each list of records and a block for each record."""
    nested = {name: each for name, each in value.items() if _records(each) or isinstance(each, Mapping)}
    facts({name: each for name, each in value.items() if name not in nested})
    for name, each in nested.items():
        click.echo()
        if isinstance(each, Mapping):
            facts({f"{name} {key}": inner for key, inner in each.items()})
        else:
            columns = list(dict.fromkeys(column for record in each for column in record))
            table([_title(column) for column in columns], [[_timed(c, row.get(c)) for c in columns] for row in each])


def text(value: Cell) -> str:
    """One cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(each)}" for name, each in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(text(each) for each in value) or "-"
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in str(value))  # no terminal codes


def one_line(value: Any) -> str:
    """A value as JSON."""
    return json.dumps(value, default=_of_bytes)


def moment(milliseconds: float) -> str:
    """Cluster time as a date."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _title(name: str) -> str:
    """A field's name as people read it."""
    return name.removesuffix("_ms").replace("_", " ")


def _timed(name: str, value: Cell) -> Cell:
    """Moments as dates: cluster time in milliseconds ends in `_ms`, certificates' seconds begin with `not_`."""
    if not isinstance(value, int | float) or not (name.startswith("not_") or name.endswith("_ms")):
        return value
    seconds = value / 1000 if name.endswith("_ms") else value
    return moment(seconds * 1000)


def _plain(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    widths = [max([len(name), *(len(row[n]) for row in cells)]) for n, name in enumerate(columns)]
    for row in [columns, *cells]:
        padded = [each.rjust(w) if r else each.ljust(w) for each, w, r in zip(row, widths, right, strict=True)]
        click.echo("  ".join(padded).rstrip())


def _records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) for each in value)


def _of_bytes(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} is nothing that JSON knows")


def address(record: Mapping[str, Any]) -> str:
    """`host:port` of a record with these fields."""
    host = record["host"]
    return f"[{host}]:{record['port']}" if ":" in host else f"{host}:{record['port']}"


def invitation(invited: Mapping[str, Any], to_json: bool) -> None:
    """A new token: alone on standard output, with what to do with it on standard error."""
    if to_json:
        as_json(invited)
        return
    click.echo(f"On {invited['name']} run:  raftcluster join {address(invited)}", err=True)
    click.echo("and paste this token when it asks, or pipe it on standard input:", err=True)
    click.echo(invited["token"])
