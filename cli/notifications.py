"""`raftcluster notifications`: what the nodes have to say to the people who run them."""

from __future__ import annotations

import click

from raftcluster.cli import output
from raftcluster.cli.context import (
    Commands,
    Context,
    Duration,
    author,
    json_option,
    json_or_text,
    until_interrupted,
)

COLUMNS = ("position", "severity", "text", "node", "repeats")


@click.group(cls=Commands)
def notifications() -> None:
    """Read, publish and acknowledge the cluster's notifications."""


@notifications.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that somebody has seen to as well.")
@json_option
@click.pass_obj
def list_(obj: Context, everything: bool, as_json: bool) -> None:
    """List the notifications that nobody has seen to yet, oldest first."""
    found = obj.client.notifications.list(acknowledged=everything)
    output.as_json(found) if as_json else output.table(COLUMNS, [[row[each] for each in COLUMNS] for row in found])


@notifications.command()
@click.argument("position", type=int)
@json_option
@click.pass_obj
def ack(obj: Context, position: int, as_json: bool) -> None:
    """Say for the whole cluster that somebody has seen to the notification at POSITION."""
    first = obj.client.notifications.acknowledge(position, author=author())
    text = f"{position} is acknowledged" if first else f"{position} had been acknowledged before"
    output.as_json({"position": position, "first": first}) if as_json else click.echo(text)


@notifications.command()
@click.argument("severity")
@click.argument("text")
@click.option("--key", default="", help="As long as one with this key is open there is no second.")
@click.option("--ttl", type=Duration(), default="7d", show_default=True, help="How long it is kept.")
@click.option("--payload", help="More about it: JSON, or else text.")
@json_option
@click.pass_obj
def publish(obj: Context, severity: str, text: str, key: str, ttl: float, payload: str | None, as_json: bool) -> None:
    """Tell the whole cluster TEXT; SEVERITY is info, warning, error or critical."""
    more = None if payload is None else json_or_text(payload)
    position = obj.client.notifications.publish(severity, text, key=key, payload=more, ttl=ttl)
    output.as_json({"position": position}) if as_json else click.echo(f"published at {position}")


@notifications.command()
@click.option("--since", type=click.IntRange(0), help="Begin after this position.", show_default="what is kept")
@click.option("--consumer", metavar="NAME", help="Go on where NAME was, on whichever node; --since is for a new one.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="How many NAME may get again.")
@json_option
@click.pass_obj
def follow(obj: Context, since: int | None, consumer: str | None, batch: int, as_json: bool) -> None:
    """Print each notification, as it comes, until interrupted.

    With --consumer the cluster remembers what NAME has got: the next one is asked for when the one before is printed. After a
    crash at most --batch of them come again, else each comes once. One process at a time reads for a consumer.
    """
    until_interrupted()
    for each in obj.client.notifications.follow(since, consumer=consumer, batch=batch):
        if as_json:
            output.as_json(each)
        else:
            click.echo(f"{each['position']}  {each['severity']}  {each['node']}  {each['text']}")


@notifications.command()
@click.argument("consumer")
@click.argument("position", type=click.IntRange(0))
@json_option
@click.pass_obj
def seek(obj: Context, consumer: str, position: int, as_json: bool) -> None:
    """Have CONSUMER go on after POSITION, wherever it was."""
    obj.client.notifications.seek(consumer, position)
    told = {"consumer": consumer, "position": position}
    output.as_json(told) if as_json else click.echo(f"{consumer} goes on after {position}")


@notifications.command()
@click.argument("consumer")
@json_option
@click.pass_obj
def forget(obj: Context, consumer: str, as_json: bool) -> None:
    """Remember nothing of CONSUMER any more: it would begin anew."""
    known = obj.client.notifications.forget(consumer)
    told = {"consumer": consumer, "known": known}
    output.as_json(told) if as_json else click.echo(f"{consumer} {'is forgotten' if known else 'was not known'}")
