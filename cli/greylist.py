"""`raftcluster greylist`: why a mail waits, and how many do."""

from __future__ import annotations

import click

from raftcluster.cli import output
from raftcluster.cli.context import Commands, Context, author, json_option, json_or_text, reason_option


@click.group(cls=Commands)
def greylist() -> None:
    """Look at the greylist and its settings."""


@greylist.command()
@click.argument("client")
@click.argument("sender")
@click.argument("recipient")
@json_option
@click.pass_obj
def explain(obj: Context, client: str, sender: str, recipient: str, as_json: bool) -> None:
    """Say what CLIENT (an address) sending from SENDER to RECIPIENT would be told now, and why.

    The null sender is written '<>' or ''. Nothing is changed by asking.
    """
    found = obj.client.greylist.explain(client, sender, recipient)
    output.as_json(found) if as_json else output.document(found)


@greylist.command()
@json_option
@click.pass_obj
def stats(obj: Context, as_json: bool) -> None:
    """Count triplets and decisions, in the cluster and on this node."""
    found = obj.client.greylist.stats()
    if as_json:
        output.as_json(found)
    else:
        nodes = [{"node": node, **counts} for node, counts in found["nodes"].items()]
        output.document({**found, "nodes": nodes})


@greylist.command()
@click.argument("changes", metavar="[NAME=VALUE]...", nargs=-1)
@reason_option
@json_option
@click.pass_obj
def settings(obj: Context, changes: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Show the settings, or change them in the whole cluster: `delay=240 'text=Please wait %s s'`.

    Times are in seconds. Values that do not fit together are refused, naming both. NAME=null puts a default back.
    """
    wanted = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise click.BadParameter(f"{change!r} is not NAME=VALUE")
        wanted[name] = json_or_text(value)
    if wanted:
        obj.client.greylist.configure(wanted, reason=reason, author=author())
    found = obj.client.greylist.settings()
    output.as_json(found) if as_json else output.facts(found)
