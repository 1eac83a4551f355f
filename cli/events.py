"""`raftcluster events`: what this node has recorded; it need not run for that."""

from __future__ import annotations

from datetime import UTC, datetime

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import Context, json_option


@click.command()
@click.option("--event", "names", multiple=True, metavar="NAME", help="Only events of this name; may be repeated.")
@json_option
@click.pass_obj
def events(obj: Context, names: tuple[str, ...], as_json: bool) -> None:
    """Print the events that this node has recorded, the oldest first.

    Also those of destroyed clusters that it was a member of. What there is: docs/events.md.
    """
    for record in raftcluster.read_events(obj.directory):
        if names and record["event"] not in names:
            continue
        if as_json:
            output.as_json(record)
        else:
            at = datetime.fromtimestamp(record["time"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            click.echo(
                f"{at}  {record['severity']:<8}  {output.text(record['event'])}: {output.text(record['message'])}"
            )
