"""`raftcluster lease`: which node does which job."""

from __future__ import annotations

import click

from raftcluster.cli import output
from raftcluster.cli.context import Commands, Context, json_option


@click.group(cls=Commands)
def lease() -> None:
    """Look at the leases, by which a job runs on one node at a time."""


@lease.command("list")
@json_option
@click.pass_obj
def list_(obj: Context, as_json: bool) -> None:
    """List who holds what, with its fencing token; times are the cluster's."""
    found = obj.client.lease.list()
    columns = ("name", "node", "token", "since", "expires", "released")
    output.as_json(found) if as_json else output.table(columns, [[row[each] for each in columns] for row in found])
