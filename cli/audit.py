"""`raftcluster audit`: who has changed what in the cluster."""

from __future__ import annotations

import click

from raftcluster.cli import output
from raftcluster.cli.context import Context, json_option

COLUMNS = ("time", "log", "number", "action", "subject", "author", "origin", "reason")


@click.command()
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="So many, the newest.")
@json_option
@click.pass_obj
def audit(obj: Context, limit: int, as_json: bool) -> None:
    """Show all changes of configuration, members and certificates, newest first: who, when, from where, why.

    What is older is in the nodes' event records: `raftcluster events`, which also outlive the cluster.
    """
    found = obj.client.audit(limit)
    if as_json:
        output.as_json(found)
        return
    rows = [[output.moment(row["time"]), *(row[name] for name in COLUMNS[1:])] for row in found]
    output.table(COLUMNS, rows)
