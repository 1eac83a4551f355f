"""`raftcluster config`: one configuration for the whole cluster."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, BinaryIO

import click

import raftcluster
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
@click.argument("value", required=False)
@click.option("--file", type=click.File("rb"), help="Take the value from FILE; - is standard input.")
@click.option("--text", is_flag=True, help="Take the value as text even if it is valid JSON.")
@click.option("--expect-revision", type=int, help="Only if the key's revision is still this one (0: not set).")
@node_option
@local_option
@reason_option
@json_option
@click.pass_obj
def set_(
    obj: Context,
    key: str,
    value: str | None,
    file: BinaryIO | None,
    text: bool,
    expect_revision: int | None,
    node: str | None,
    is_local: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Set KEY to VALUE, or to what FILE holds, on every node: JSON (5, true, "text", [1, 2]), or else text."""
    given = _given(value, file)
    parsed = given if text else json_or_text(given)
    if is_local:
        obj.client.config.set_local(key, parsed)
        output.as_json({"key": key}) if as_json else click.echo(f"{key} set on this node")
        return
    revision = obj.client.config.set(
        key, parsed, node=node, reason=reason, author=author(), expect_revision=expect_revision
    )
    output.as_json({"key": key, "revision": revision}) if as_json else click.echo(f"{key} set at revision {revision}")


def _given(value: str | None, file: BinaryIO | None) -> str:
    if (value is None) == (file is None):
        raise click.UsageError("name a VALUE or a --file")
    if file is None:
        return str(value)
    try:
        return file.read().decode()
    except UnicodeDecodeError as error:
        raise raftcluster.Rejected("the file is no UTF-8 text", subject=file.name, remedy="JSON or text") from error


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


class Moment(click.ParamType[float]):
    """A revision, or a time as ISO 8601 has it (UTC unless it says otherwise)."""

    name = "revision|time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A revision as a number below 0, a time as seconds since the epoch: see `_revision`."""
        text = str(value)
        if text.isascii() and text.isdigit():
            return -1.0 - int(text)
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is no revision and no time; examples: 17, 2026-11-24, 2026-11-24T18:30", param, ctx)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _revision(obj: Context, moment: float) -> int:
    return round(-1 - moment) if moment < 0 else obj.client.config.revision_at(moment)


def _shown(entry: dict[str, Any] | None) -> str:
    return "(unset)" if entry is None or entry["deleted"] else output.one_line(entry["value"])


@config.command()
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@click.option("--before", type=int, help="Only changes at revisions below this one.")
@json_option
@click.pass_obj
def log(obj: Context, prefix: str, limit: int, before: int | None, as_json: bool) -> None:
    """Show the newest changes of keys that begin with PREFIX: what, when, by whom, from where and why."""
    found = obj.client.config.log(prefix, limit=limit, before=before)
    if as_json:
        output.as_json(found)
    else:
        rows = [
            [e["revision"], output.moment(e["time"]), e["author"], e["node"], e["key"], _shown(e), e["reason"]]
            for e in found
        ]
        output.table(("revision", "time", "author", "node", "key", "value", "reason"), rows)


@config.command()
@click.argument("moment", type=Moment())
@click.argument("prefix", default="")
@json_option
@click.pass_obj
def at(obj: Context, moment: float, prefix: str, as_json: bool) -> None:
    """Show what was set at MOMENT, a revision or a time (UTC): the keys that begin with PREFIX."""
    found = obj.client.config.at(_revision(obj, moment), prefix)
    if as_json:
        output.as_json(found)
    else:
        output.table(("key", "value", "revision"), [[key, _shown(e), e["revision"]] for key, e in found.items()])


@config.command()
@click.argument("first", type=Moment())
@click.argument("second", type=Moment(), required=False)
@click.option("--prefix", default="", help="Only keys that begin with this.")
@json_option
@click.pass_obj
def diff(obj: Context, first: float, second: float | None, prefix: str, as_json: bool) -> None:
    """Show which values differ between two moments, revisions or times (UTC); the SECOND is now by default."""
    until = None if second is None else _revision(obj, second)
    found = obj.client.config.diff(_revision(obj, first), until, prefix)
    if as_json:
        output.as_json(found)
    else:
        rows = [[each["key"], _shown(each["before"]), _shown(each["after"])] for each in found]
        output.table(("key", "before", "after"), rows)


@config.command()
@click.argument("moment", type=Moment())
@click.option("--prefix", default="", help="Only keys that begin with this.")
@reason_option
@json_option
@click.pass_obj
def rollback(obj: Context, moment: float, prefix: str, reason: str, as_json: bool) -> None:
    """Make the configuration what it was at MOMENT, a revision or a time (UTC), as one change."""
    revision = obj.client.config.rollback(_revision(obj, moment), prefix, reason=reason, author=author())
    if as_json:
        output.as_json({"revision": revision})
    else:
        click.echo(f"rolled back, revision {revision}" if revision else "it is what it was then, nothing has changed")


@config.command()
@click.option("--offline", is_flag=True, help="Read only the data directory, in which no node runs.")
@json_option
@click.pass_obj
def verify(obj: Context, offline: bool, as_json: bool) -> None:
    """Prove that the record of all changes, and what each of them set, are what they were.

    Each change is bound to the one before by its digest. The last one, which is printed, is the same on every node that has
    applied the same revision: written down, it tells later whether somebody has made the past anew. Exit code 14: the first
    revision that is not what it was is named.
    """
    found = raftcluster.verify_config(obj.directory)._asdict() if offline else obj.client.config.verify()
    if found["bad"] is not None:
        raise raftcluster.Damaged(f"revision {found['bad']}: {found['reason']}", subject="config")
    if as_json:
        output.as_json(found)
    else:
        click.echo(f"revisions {found['first']} to {found['last']} are what they were\ndigest {found['digest']}")


@config.command()
@json_option
@click.pass_obj
def applied(obj: Context, as_json: bool) -> None:
    """Show the revision that each node has applied, and why one trails."""
    found = obj.client.config.reports()
    if as_json:
        output.as_json(found)
    else:
        rows = [[each["node"], each["revision"], output.moment(each["time"]), each["problem"]] for each in found]
        output.table(("node", "revision", "since", "problem"), rows)


@config.command()
@json_option
@click.pass_obj
def schema(obj: Context, as_json: bool) -> None:
    """Show which settings the embedding product has registered, and what they take."""
    found = obj.client.config.schemas()
    if as_json:
        output.as_json(found)
    else:
        rows = [
            [f"{each['prefix']}/{name}", json.dumps(taken), each["version"]]
            for each in found
            for name, taken in each["document"]["properties"].items()
        ]
        output.table(("key", "takes", "version"), rows)


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
