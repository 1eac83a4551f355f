"""The certificate hierarchy."""

from __future__ import annotations

import click

from raftcluster.cli import output
from raftcluster.cli.context import Commands, Context, json_option


@click.group(cls=Commands, invoke_without_command=True)
@json_option
@click.pass_context
def certs(ctx: click.Context, as_json: bool) -> None:
    """Show the certificate hierarchy; with a command, change it."""
    if ctx.invoked_subcommand is None:
        found = ctx.obj.client.certs.show()
        output.as_json(found) if as_json else output.document({k: v for k, v in found.items() if k != "root"})


@certs.command()
@json_option
@click.pass_obj
def rotate(obj: Context, as_json: bool) -> None:
    """Begin a new hierarchy: new keys for all nodes. `certs` shows how far it is."""
    number = obj.client.certs.rotate()
    output.as_json({"generation": number}) if as_json else click.echo(f"generation {number} has begun")
