"""`raftcluster config`: one configuration for the whole cluster."""

from __future__ import annotations

import json

import click

from raftcluster.cli import output
from raftcluster.cli.context import (
    Commands,
    Context,
    author,
    json_option,
    json_or_text,
    reason_option,
    until_interrupted,
)
from raftcluster.errors import RaftclusterError


@click.group(cls=Commands)
def config() -> None:
    """Read and change the cluster's configuration."""


node_option = click.option("--node", metavar="NAME", help="Only on the node NAME.")
local_option = click.option("--local", "is_local", is_flag=True, help="On this node, never shared: a key below local/.")


@config.command()
@click.argument("key")
@click.option("--node", metavar="NAME", help="As the node NAME has it; by default, as this one has it.")
@click.option("--cluster", is_flag=True, help="As it is set for the cluster, whatever a node overrides.")
@json_option
@click.pass_obj
def get(obj: Context, key: str, node: str | None, cluster: bool, as_json: bool) -> None:
    """Print the value of KEY; with --json also its revision, author and reason.

    Exit code 1 when it is not set.
    """
    if key.startswith("local/"):
        found = {"key": key, "value": obj.client.config.get(key)} if key in obj.client.config.keys(key) else None
    else:
        found = obj.client.config.entry(key) if cluster else obj.client.config.effective(key, node)
    if found is None:
        raise RaftclusterError(f"{key} is not set", subject=key)
    if as_json:
        output.as_json(found)
    else:
        value = found["value"]
        click.echo(value if isinstance(value, str) else json.dumps(value))


@config.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--text", is_flag=True, help="Take VALUE as text even if it is valid JSON.")
@click.option("--expect-revision", type=int, help="Only if the key's revision is still this one (0: not set).")
@node_option
@local_option
@reason_option
@json_option
@click.pass_obj
def set_(
    obj: Context,
    key: str,
    value: str,
    text: bool,
    expect_revision: int | None,
    node: str | None,
    is_local: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Set KEY to VALUE on every node: JSON (5, true, "text", [1, 2]), or else text."""
    parsed = value if text else json_or_text(value)
    if is_local:
        obj.client.config.set_local(key, parsed)
        output.as_json({"key": key}) if as_json else click.echo(f"{key} set on this node")
        return
    revision = obj.client.config.set(
        key, parsed, node=node, reason=reason, author=author(), expect_revision=expect_revision
    )
    output.as_json({"key": key, "revision": revision}) if as_json else click.echo(f"{key} set at revision {revision}")


@config.command()
@click.argument("key")
@node_option
@local_option
@reason_option
@json_option
@click.pass_obj
def delete(obj: Context, key: str, node: str | None, is_local: bool, reason: str, as_json: bool) -> None:
    """Unset KEY on every node. Its history stays."""
    if is_local:
        obj.client.config.delete_local(key)
        output.as_json({"key": key}) if as_json else click.echo(f"{key} unset on this node")
        return
    revision = obj.client.config.delete(key, node=node, reason=reason, author=author())
    output.as_json({"key": key, "revision": revision}) if as_json else click.echo(f"{key} unset at revision {revision}")


@config.command()
@click.argument("key")
@json_option
@click.pass_obj
def history(obj: Context, key: str, as_json: bool) -> None:
    """Show what KEY was, since when, by whom and why."""
    changes = obj.client.config.history(key)
    if as_json:
        output.as_json(changes)
    else:
        columns = ("revision", "value", "author", "reason")
        output.table(columns, [[each.get(name) for name in columns] for each in changes])


@config.command()
@click.argument("prefix", default="")
@json_option
@click.pass_obj
def keys(obj: Context, prefix: str, as_json: bool) -> None:
    """List the keys that are set and begin with PREFIX: the cluster's, or below local/ this node's."""
    found = obj.client.config.keys(prefix)
    output.as_json(found) if as_json else click.echo("".join(f"{key}\n" for key in found), nl=False)


@config.command()
@click.argument("prefix", default="")
@click.option("--since", type=int, help="Begin with the changes after this revision.")
@json_option
@click.pass_obj
def watch(obj: Context, prefix: str, since: int | None, as_json: bool) -> None:
    """Print each change of a key that begins with PREFIX, as it happens, until interrupted."""
    until_interrupted()
    for change in obj.client.config.watch(prefix, since):
        if as_json:
            output.as_json(change)
        else:
            value = "(unset)" if change["deleted"] else json.dumps(change["value"])
            click.echo(f"{change['revision']}  {change['key']} = {value}")
