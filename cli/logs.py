"""`raftcluster logs`: what was decided about mail, on this node or on all."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import Context, Duration, json_option, until_interrupted

COLUMNS = ("helo", "client", "sender", "recipient", "action", "seconds_left", "reason")


class Since(click.ParamType[float]):
    """How long ago, or a time as ISO 8601 has it (UTC unless it says otherwise)."""

    name = "duration|time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds since the epoch."""
        text = str(value)
        if re.fullmatch(r"[0-9.]+[smhd]?", text):
            return time.time() - Duration().convert(text, param, ctx)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is no duration and no time; examples: 30m, 2d, 2026-11-24, 2026-11-24T18:30", param, ctx
            )
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@click.command()
@click.option("--all-nodes", is_flag=True, help="Those of all members, merged by time; this node must run for that.")
@click.option("--since", type=Since(), help="Only what is not older: 90, 30m, 2d, or a time (UTC).", show_default="all")
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted; without --since only that.")
@json_option
@click.pass_context
def logs(ctx: click.Context, all_nodes: bool, since: float | None, follow: bool, as_json: bool) -> None:
    """Print the mail log, the oldest entry first: what was decided about each recipient of each message.

    Each node keeps its own and its own time; nothing of it is replicated. With --all-nodes a node that does not answer is named on
    standard error, and the exit code is 5. Columns: docs/logs.md.
    """
    obj: Context = ctx.obj
    if follow:
        until_interrupted()
    silent = set[str]()
    for batch in obj.client.logs(since, follow=follow) if all_nodes else _own(obj, since, follow):
        for node, reason in batch["notices"]:
            silent.add(node) if reason else silent.discard(node)
            what = f"does not answer: {output.text(reason)}" if reason else "answers again"
            click.echo(f"{output.text(node)} {what}", err=True)
        _print(batch["entries"], as_json, all_nodes)
    if silent:
        ctx.exit(raftcluster.Unavailable.exit_code)


def _own(obj: Context, since: float | None, follow: bool) -> Iterator[Mapping[str, Any]]:
    """This node's, from its files: it need not run."""
    for entries, notices in raftcluster.read_logs(obj.directory, since, follow=follow):
        yield {"entries": [(node, entry.record()) for node, entry in entries], "notices": notices}


def _print(entries: Iterable[Sequence[Any]], as_json: bool, with_node: bool) -> None:
    for node, entry in entries:
        if as_json:
            output.as_json({"node": node, **entry})
            continue
        at = datetime.fromtimestamp(entry["time"], UTC).strftime("%Y-%m-%d %H:%M:%S")
        shown = [output.text(entry.get(name) or "-") for name in COLUMNS]
        if entry.get("category", "greylisting") != "greylisting":
            shown[-1] = f"{output.text(entry['category'])}: {output.text(entry.get('reason', ''))}"
        click.echo("  ".join([at, *([output.text(node)] if with_node else []), *shown]))
