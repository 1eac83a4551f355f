"""`raftcluster greylist`: why a mail waits, how many do, and who never waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from raftcluster.cli import output
from raftcluster.cli.context import Commands, Context, Duration, author, json_option, json_or_text, reason_option

EFFECTS = click.Choice(["allow", "greylist", "opt-in", "opt-out"])
KINDS = click.Choice(["client", "client-name", "sender", "sender-domain", "recipient", "recipient-domain"])


@click.group(cls=Commands)
def greylist() -> None:
    """Look at the greylist and its settings."""


@greylist.command()
@click.argument("client")
@click.argument("sender")
@click.argument("recipient")
@click.option("--name", help="The client's verified host name: entries of the lists may be about it.")
@json_option
@click.pass_obj
def explain(obj: Context, client: str, sender: str, recipient: str, name: str | None, as_json: bool) -> None:
    """Say what CLIENT (an address) sending from SENDER to RECIPIENT would be told now, and why: by which rule of the lists,
    of its client or of its record, and when it would pass.

    The null sender is written '<>' or ''. Nothing is changed by asking.
    """
    found = obj.client.greylist.explain(client, sender, recipient, client_name=name)
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


@greylist.group(cls=Commands)
def lists() -> None:
    """Who is never greylisted, who always is, and for which recipients.

    An entry has an effect -- allow, greylist, opt-in, opt-out -- and a kind of pattern: a client's address or network, a
    client's verified name, a sender, a sender's domain, a recipient, a recipient's domain. A name or domain matches what is
    below it, too. The most specific entry about the recipient says first whether it is in or out; then an entry that says
    greylist goes before those that allow.
    """


@lists.command()
@click.argument("effect", type=EFFECTS)
@click.argument("kind", type=KINDS)
@click.argument("pattern")
@click.option("--comment", default="", help="Why; shown with the entry.")
@click.option("--expires", type=Duration(), help="After how long the entry ends.", show_default="never")
@click.option("--replace", is_flag=True, help="Take the place of an entry with this pattern.")
@json_option
@click.pass_obj
def add(
    obj: Context,
    effect: str,
    kind: str,
    pattern: str,
    comment: str,
    expires: float | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Add an entry on all nodes, as in `add allow client 192.0.2.0/24 --comment 'our backup' --expires 30d`."""
    made = obj.client.greylist.lists.add(
        effect, kind, pattern, comment=comment, author=author(), lifetime=expires, replace=replace
    )
    output.as_json({"revision": made}) if as_json else click.echo(f"added; the lists are at revision {made}")


@lists.command()
@click.argument("effect", type=EFFECTS)
@click.argument("kind", type=KINDS)
@click.argument("pattern")
@json_option
@click.pass_obj
def remove(obj: Context, effect: str, kind: str, pattern: str, as_json: bool) -> None:
    """Remove an entry on all nodes."""
    made = obj.client.greylist.lists.remove(effect, kind, pattern)
    output.as_json({"revision": made}) if as_json else click.echo(f"removed; the lists are at revision {made}")


@lists.command()
@json_option
@click.pass_obj
def show(obj: Context, as_json: bool) -> None:
    """List the entries with their comments, authors and ends."""
    found = list(_entries(obj))
    if as_json:
        output.as_json(found)
    else:
        output.document({"entries": found}) if found else click.echo("no entries")


@lists.command()
@click.argument("client")
@click.argument("sender")
@click.argument("recipient")
@click.option("--name", help="The client's verified host name.")
@click.option("--all", "everything", is_flag=True, help="Also more than twenty entries that do not match.")
@json_option
@click.pass_obj
def test(
    obj: Context, client: str, sender: str, recipient: str, name: str | None, everything: bool, as_json: bool
) -> None:
    """Say which entry decides about a mail, and why each other does not.

    The null sender is written '<>' or ''. Matching entries come first.
    """
    opted_in_only = obj.client.greylist.settings()["recipients"] == "opted-in"
    found = obj.client.greylist.lists.test(client, sender, recipient, client_name=name, opted_in_only=opted_in_only)
    if as_json:
        output.as_json(found)
        return
    click.echo(_RULES[found["rule"]])
    judged = found["entries"]
    matching = sum(each["matches"] for each in judged)
    shown = judged if everything else judged[: matching + 20]
    if shown:
        click.echo()
        columns = ("effect", "kind", "pattern", "matches", "why", "comment")
        output.table(columns, [[each[column] for column in columns] for each in shown])
    if len(shown) < len(judged):
        click.echo(f"and {len(judged) - len(shown)} more that do not match; --all shows them")


_RULES = {
    "": "No entry decides: it is greylisted like any other mail.",
    "listed": "It is greylisted, whatever else would exempt it.",
    "allowed": "It passes without a wait: allowed.",
    "opted-out": "It passes without a wait: the recipient has opted out.",
    "not-opted-in": "It passes without a wait: the recipient has not opted in.",
}


def _entries(obj: Context) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = obj.client.greylist.lists.show(after)
        yield from page["entries"]
        after = page["next"]
        if not after:
            return
