"""Who belongs to the cluster, and where each is."""

from __future__ import annotations

import click

from raftcluster.cli import output
from raftcluster.cli.context import (
    Address,
    Commands,
    Context,
    addresses_option,
    author,
    json_option,
    reason_option,
    ttl_option,
)

_MEMBER = ("name", "address", "role", "generation", "product", "node_id")


@click.group(cls=Commands, invoke_without_command=True)
@click.option("--removed", is_flag=True, help="Also those that were removed.")
@json_option
@click.pass_context
def members(ctx: click.Context, removed: bool, as_json: bool) -> None:
    """List the members; with a command, change them."""
    if ctx.invoked_subcommand is None:
        obj: Context = ctx.obj
        found = obj.client.members.list(removed=removed)
        if as_json:
            output.as_json(found)
        else:
            output.table(
                _MEMBER, [[{**row, "address": output.address(row)}.get(name) for name in _MEMBER] for row in found]
            )


@members.command()
@json_option
@click.pass_obj
def features(obj: Context, as_json: bool) -> None:
    """What the members' programs understand beyond older versions, and whether the cluster uses it.

    A feature is enabled when the last member has reported it, and stays so: older versions are refused from then on.
    """
    found = obj.client.members.features()
    if as_json:
        output.as_json(found)
    else:
        rows = [[row["name"], "yes" if row["enabled"] else "no", ", ".join(row["missing"])] for row in found]
        output.table(("feature", "enabled", "waits for"), rows)


@members.command()
@click.argument("name")
@reason_option
@json_option
@click.pass_obj
def remove(obj: Context, name: str, reason: str, as_json: bool) -> None:
    """Take the member NAME (or node id) out: also one that is down, also the leader, which hands over first.

    Refused, saying why, when too few of the others are up to decide anything without it.
    """
    gone = obj.client.members.remove(name, reason=reason, author=author())
    output.as_json(gone) if as_json else click.echo(f"{gone['name']} is no member any more")


@members.command()
@click.argument("old")
@click.argument("new")
@ttl_option
@addresses_option
@reason_option
@json_option
@click.pass_obj
def replace(
    obj: Context, old: str, new: str, ttl: float, addresses: tuple[str, ...], reason: str, as_json: bool
) -> None:
    """Take the member OLD out, which may be down, and let the host NEW join in its place.

    As `members remove OLD`, then `invite NEW`: standard output is the token alone. Both may have the same name.
    """
    invited = obj.client.members.replace(old, new, ttl, addresses=addresses, reason=reason, author=author())
    output.invitation(invited, as_json)


@members.command()
@click.argument("name")
@click.argument("address", type=Address())
@reason_option
@json_option
@click.pass_obj
def move(obj: Context, name: str, address: tuple[str, int], reason: str, as_json: bool) -> None:
    """Tell the members that NAME is to be reached at ADDRESS (HOST:PORT) from now on."""
    obj.client.members.move(name, *address, reason=reason, author=author())
    where = {"name": name, "host": address[0], "port": address[1]}
    output.as_json(where) if as_json else click.echo(f"{name} is at {output.address(where)} now")
