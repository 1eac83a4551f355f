"""`raftcluster verify`: whether all members hold the same, and whether what they hold is sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import Context, Duration, json_option

_EXITS = {each.code: each.exit_code for each in (raftcluster.Damaged, raftcluster.Unavailable)}


@click.command()
@click.option("--within", type=Duration(), default="10m", show_default=True, help="How long it may take.")
@click.option("--offline", is_flag=True, help="Read only the data directory, in which no node runs.")
@json_option
@click.pass_context
def verify(ctx: click.Context, within: float, offline: bool, as_json: bool) -> None:
    """Compare all tables of all members at one log index, and read through what each has stored.

    While the cluster works, at any member. Exit code 0: everything equal and sound; 14: a difference or damage, named; 5: none,
    but a member did not answer, or there is no quorum.
    """
    obj: Context = ctx.obj
    found: Mapping[str, Any] = (
        raftcluster.scrub(obj.directory).values()
        if offline
        else obj.client.verify(deadline=within, progress=lambda text: click.echo(text, err=True))
    )
    output.as_json(found) if as_json else _show(found)
    if found["error"] is not None:
        click.echo(f"error: {found['error']['message']} ({found['error']['remedy']})", err=True)
        ctx.exit(_EXITS[found["error"]["code"]])


def _show(found: Mapping[str, Any]) -> None:
    names = [node["name"] for node in found["nodes"]]
    click.echo(f"as of log entry {found['index']}\n")
    rows = [[each["table"], each["rows"], *(each["nodes"][name] for name in names)] for each in found["tables"]]
    rows.append(["stored data", "", *(_state(node) for node in found["nodes"])])
    output.table(["table", "rows", *names], rows)
    if found["rows"]:
        click.echo()
        shown = [[each["table"], _key(each["key"]), *_digests(each["nodes"], names)] for each in found["rows"]]
        output.table(["row of", "key", *names], shown)
    if found["more_ranges"]:
        click.echo(f"\nand rows in {found['more_ranges']} more ranges")
    for node in found["nodes"]:
        for each in node["troubles"]:
            click.echo(f"{node['name']}: {each['where']} {_key(each['key'])}: {output.text(each['text'])}")
        if node["more_troubles"]:
            click.echo(f"{node['name']}: and {node['more_troubles']} more")
        if node["reason"]:
            click.echo(f"{node['name']} did not answer: {output.text(node['reason'])}")


def _state(node: Mapping[str, Any]) -> str:
    if node["reason"]:
        return "not answered"
    return "damaged" if node["troubles"] else "sound"


def _digests(nodes: Mapping[str, str | None], names: Sequence[str]) -> list[str]:
    return [(nodes[name] or "absent")[:12] if name in nodes else "-" for name in names]


def _key(key: bytes | None) -> str:
    """As text where it is printable, as hexadecimal otherwise."""
    if key is None:
        return ""
    return key.decode() if key.isascii() and key.decode().isprintable() else key.hex()
