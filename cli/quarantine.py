"""`raftcluster quarantine`: what the embedding product holds back, and whom it is released to."""

from __future__ import annotations

from typing import Any

import click

from raftcluster.cli import output
from raftcluster.cli.context import Commands, Context, Duration, author, json_option

RECIPIENTS = ("number", "address", "state", "node", "author", "claims", "deliveries", "detail")


@click.group(cls=Commands)
def quarantine() -> None:
    """Look at the messages held back, and release them to those for whom they were.

    A recipient is one that the SMTP connection gave in RCPT, and is named by its number; what the message's header says does not
    matter here.
    """


@quarantine.command("list")
@json_option
@click.pass_obj
def list_(obj: Context, as_json: bool) -> None:
    """List what is kept, in the order of capture."""
    found, after = [], ""
    while True:
        page = obj.client.quarantine.list(after)
        found += [_readable(each) for each in page["messages"]]
        if not (after := page["next"]):
            break
    columns = ("id", "captured", "node", "sender", "first", "delivered", "size", "reason")
    if as_json:
        output.as_json(found)
        return
    for each in found:
        each["delivered"] = f"{each['delivered']} of {each['recipients']}"
        each["captured"] = output.moment(each["captured"])
    output.table(columns, [[row[each] for each in columns] for row in found])


@quarantine.command()
@click.argument("id")
@json_option
@click.pass_obj
def show(obj: Context, id: str, as_json: bool) -> None:
    """Show the message ID: its envelope as captured, and how far each recipient is."""
    found = _readable(obj.client.quarantine.show(id))
    if as_json:
        output.as_json(found)
        return
    recipients = [[each[column] for column in RECIPIENTS] for each in found.pop("recipients")]
    moments = {what: output.moment(found[what]) for what in ("captured", "expires")}
    output.facts({**found, **moments})
    output.table(RECIPIENTS, recipients)


@quarantine.command()
@click.argument("id")
@click.argument("number", type=int)
@click.option(
    "--claim",
    type=Duration(),
    default="2m",
    show_default=True,
    help="For how long nobody else may try, should the node crash meanwhile.",
)
@json_option
@click.pass_obj
def release(obj: Context, id: str, number: int, claim: float, as_json: bool) -> None:
    """Deliver the message ID to its recipient NUMBER, as `show` counts them; nobody else gets it.

    Of two who do so at once, at whichever nodes, one delivers it.
    """
    done = _readable(obj.client.quarantine.release(id, number, author=author(), claim=claim))
    output.as_json(done) if as_json else click.echo(f"delivered to {output.text(done['address'])}: {done['detail']}")


@quarantine.command()
@click.argument("id")
@json_option
@click.pass_obj
def discard(obj: Context, id: str, as_json: bool) -> None:
    """Forget the message ID, for ever and on all nodes."""
    was = obj.client.quarantine.discard(id, author=author())
    output.as_json({"id": id, "was_there": was}) if as_json else click.echo("discarded" if was else "it was not there")


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    """Addresses as text: what is no UTF-8 in them is escaped."""
    made = {name: _address(value) if name != "digest" else value for name, value in record.items()}
    if "recipients" in made and isinstance(made["recipients"], list):
        made["recipients"] = [_readable(each) for each in made["recipients"]]
    return made


def _address(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
