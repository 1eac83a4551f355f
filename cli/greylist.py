"""`raftcluster greylist`: why a mail waits, how many do, and who never waits."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import Commands, Context, Duration, author, json_option, json_or_text, reason_option

EFFECTS = click.Choice(["allow", "greylist", "opt-in", "opt-out"])
KINDS = click.Choice(["client", "client-name", "sender", "sender-domain", "recipient", "recipient-domain"])

_SWITCH = {"on": True, "off": False}
_NAMED = {
    "--client": "An address or a network, as in 192.0.2.0/24.",
    "--sender": "An envelope sender; the null sender is written '<>'.",
    "--sender-domain": "A domain, and all below it.",
    "--recipient": "A recipient, also with an extension.",
    "--recipient-domain": "A domain, and all below it.",
}


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

    Times are in seconds; what is on or off takes these words, too. Values that do not fit together are refused, naming both.
    NAME=null puts a default back.
    """
    wanted = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise click.BadParameter(f"{change!r} is not NAME=VALUE")
        wanted[name] = _SWITCH[value] if value in _SWITCH else json_or_text(value)
    if wanted:
        obj.client.greylist.configure(wanted, reason=reason, author=author())
    found = obj.client.greylist.settings()
    output.as_json(found) if as_json else output.facts(found)


def named_options(command: Any) -> Any:
    """Which records are meant."""
    for option, text in reversed(_NAMED.items()):
        command = click.option(option, help=text)(command)
    return command


@greylist.command("list")
@named_options
@click.option("--limit", type=click.IntRange(1), help="Not more than so many.", show_default="all")
@json_option
@click.pass_obj
def list_(obj: Context, /, limit: int | None, as_json: bool, **named: str | None) -> None:
    """List the triplets that are known; all that is named must hold. With --json a line each.

    They come in the order of their keys, page by page, each as it is at that moment.
    """
    rows = islice(_records(obj, named), limit)
    if as_json:
        for each in rows:
            output.as_json(each)
        return
    columns = ("network", "sender", "recipient", "first seen", "last seen", "expires", "passed")
    output.table(columns, [[*(each[c] for c in _SHOWN[:3]), *_times(each), each["passed"]] for each in rows])


@greylist.command()
@named_options
@reason_option
@json_option
@click.pass_obj
def forget(obj: Context, /, reason: str, as_json: bool, **named: str | None) -> None:
    """Forget triplets on all nodes, as if they had never been seen; all that is named must hold.

    With an address as client, a sender and a recipient that one triplet; a client that is named alone is no longer allowed by
    itself, either. What a node that is cut off has kept is forgotten when it is back.
    """
    found = obj.client.greylist.records.forget(author=author(), reason=reason, **named)
    output.as_json(found) if as_json else click.echo(f"{found['forgotten']} triplets were forgotten: {found['named']}")


@greylist.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True, help="Of the lines."
)
@json_option
@click.pass_obj
def export(obj: Context, form: Literal["jsonl", "csv"], file: Path, as_json: bool) -> None:
    """Write all triplets that are known to the new FILE, which `import` reads: with a digest at its end."""
    around = 2 if form == "jsonl" else 3  # lines that are no triplet
    count = 0

    def content() -> Iterator[bytes]:
        nonlocal count
        for line in obj.client.greylist.records.export(form):
            count += 1
            yield line.encode("utf-8", "surrogateescape")

    raftcluster.backup.save(file, content())
    if as_json:
        output.as_json({"file": str(file), "triplets": count - around})
    else:
        click.echo(f"{count - around} triplets were written to {file}")


@greylist.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@reason_option
@json_option
@click.pass_obj
def import_(obj: Context, file: Path, reason: str, as_json: bool) -> None:
    """Join the triplets in FILE, which `export` has written, with those that are known.

    The file is checked as a whole first; what is wrong is named by its line, and nothing is imported then. To import it
    again changes nothing more.
    """
    found = obj.client.greylist.records.load(file, author=author(), reason=reason)
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
@reason_option
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
    reason: str,
    as_json: bool,
) -> None:
    """Add an entry on all nodes, as in `add allow client 192.0.2.0/24 --comment 'our backup' --expires 30d`."""
    made = obj.client.greylist.lists.add(
        effect, kind, pattern, comment=comment, author=author(), reason=reason, lifetime=expires, replace=replace
    )
    output.as_json({"revision": made}) if as_json else click.echo(f"added; the lists are at revision {made}")


@lists.command()
@click.argument("effect", type=EFFECTS)
@click.argument("kind", type=KINDS)
@click.argument("pattern")
@reason_option
@json_option
@click.pass_obj
def remove(obj: Context, effect: str, kind: str, pattern: str, reason: str, as_json: bool) -> None:
    """Remove an entry on all nodes."""
    made = obj.client.greylist.lists.remove(effect, kind, pattern, author=author(), reason=reason)
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


_SHOWN = ("network", "sender", "recipient", "first_ms", "last_ms", "expires_ms")


def _times(record: dict[str, Any]) -> list[str]:
    return [output.moment(record[name]) for name in _SHOWN[3:]]


def _records(obj: Context, named: dict[str, Any]) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = obj.client.greylist.records.show(after=after, **named)
        yield from page["records"]
        after = page["next"]
        if not after:
            return


def _entries(obj: Context) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        page = obj.client.greylist.lists.show(after)
        yield from page["entries"]
        after = page["next"]
        if not after:
            return
