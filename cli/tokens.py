"""The invitations."""

from __future__ import annotations

import click

from raftcluster.cli import output
from raftcluster.cli.context import Commands, Context, author, json_option, reason_option


@click.group(cls=Commands, invoke_without_command=True)
@json_option
@click.pass_context
def tokens(ctx: click.Context, as_json: bool) -> None:
    """List the invitations; with a command, change them."""
    if ctx.invoked_subcommand is None:
        found = ctx.obj.client.tokens.list()
        rows = [
            [row["token_id"], row["name"], output.moment(row["expires"]), row["used_by"] is not None, row["revoked"]]
            for row in found
        ]
        output.as_json(found) if as_json else output.table(("token", "name", "expires", "used", "revoked"), rows)


@tokens.command()
@click.argument("token_id")
@reason_option
@json_option
@click.pass_obj
def revoke(obj: Context, token_id: str, reason: str, as_json: bool) -> None:
    """Make the token TOKEN_ID (its second part) worthless."""
    obj.client.tokens.revoke(token_id, reason=reason, author=author())
    output.as_json({"token_id": token_id, "revoked": True}) if as_json else click.echo(f"{token_id} is revoked")
