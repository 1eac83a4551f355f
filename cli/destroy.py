"""`raftcluster destroy`: the plan, the decision, and what is to be seen of it from here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import Context, author, json_option, reason_option
from raftcluster.errors import MissingPrivilege, NotRunning, OutcomeUnknown, Refusal, Rejected, Unavailable

LOOK_SECONDS = 0.2
PATIENCE_SECONDS = 90.0
"""A teardown takes some seconds; with a member down, ten."""
SOFTWARE_SECONDS = 20.0
"""The removal of the program takes one."""


@click.command()
@click.option("--confirm", metavar="NAME", help="The cluster's name, to show that you mean it; asked for otherwise.")
@click.option("--every-node", is_flag=True, help="Needed when the cluster has other members: their data goes too.")
@click.option("--keep-software", is_flag=True, help="Leave the program that `push` has put on the hosts.")
@click.option("--dry-run", is_flag=True, help="Print what would be done on every node, and change nothing.")
@click.option(
    "--tombstone",
    type=click.File("rb"),
    metavar="FILE",
    help="Tear down this node alone: the cluster was destroyed while it was away, as FILE proves.",
)
@reason_option
@json_option
@click.pass_obj
def destroy(
    obj: Context,
    confirm: str | None,
    every_node: bool,
    keep_software: bool,
    dry_run: bool,
    tombstone: BinaryIO | None,
    reason: str,
    as_json: bool,
) -> None:
    """Dismantle the cluster: every node records it, then stops, and is as it was before it became a member.
    What `push` or `setup` has put on a host goes, too.

    First a majority signs the tombstone. A member that is down meanwhile tears itself down when it returns.
    """
    if tombstone is not None:
        event_id = _bury(obj, tombstone.read())
        _gone(obj.directory)
        output.as_json({"event_id": event_id}) if as_json else click.echo(f"torn down; event {event_id} is recorded")
    elif dry_run:
        plan = obj.client.teardown.plan(keep_software=keep_software)
        output.as_json(plan) if as_json else _show(plan)
    else:
        if confirm is None:
            confirm = click.prompt("This cannot be undone. The cluster's name", err=True)
        events = raftcluster.read_events  # imported while it is there: the program may go under this command
        options = {"every_node": every_node, "keep_software": keep_software}
        try:
            event_id = obj.client.destroy(confirm, **options, reason=reason, author=author())
        except Rejected as error:
            if error.code == "has-members":
                error.remedy = "look at it with --dry-run, then say --every-node; or remove the others first"
            raise
        seen = _follow(obj)
        _gone(obj.directory)
        _tell(event_id, seen.get("tombstone"), _unheard(events(obj.directory), event_id), as_json)


def _bury(obj: Context, data: bytes) -> str:
    """By the node when it runs, else in its directory."""
    try:
        return obj.client.bury(data)
    except NotRunning:
        return raftcluster.bury(obj.directory, data)


def _follow(obj: Context) -> dict[str, Any]:
    """Say how far it is until the node has stopped; the last that it said."""
    seen: dict[str, Any] = {}
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        try:
            now = obj.client.teardown.progress()
        except (NotRunning, OutcomeUnknown, Unavailable, MissingPrivilege):
            if not (obj.directory / "control.sock").exists():
                return seen
        else:
            if now != seen:
                signed, recorded = len(now["signed"]), len(now["recorded"])
                click.echo(f"signed {signed} of {now['needed']} needed; recorded on {recorded} nodes", err=True)
            seen = now
        threading.Event().wait(LOOK_SECONDS)
    raise Unavailable(
        f"not finished after {PATIENCE_SECONDS:.0f} s", subject=str(obj.directory), remedy="it goes on; see status"
    )


def _gone(directory: Path) -> None:
    """Wait until nothing of the node is left; the program may go under this command, so nothing is imported any more."""
    marker, left = directory / "DESTROYED", time.monotonic() + SOFTWARE_SECONDS
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and ((directory / "VERSION").exists() or marker.exists()):
        threading.Event().wait(LOOK_SECONDS)
        if not _wiped(directory):
            left = time.monotonic() + SOFTWARE_SECONDS
        elif time.monotonic() > left:
            click.echo(
                "nobody has removed the program: as root, run the script `uninstall` that lies with it", err=True
            )
            return
    if marker.exists():
        raise Rejected(
            f"{directory} is not removed yet", subject=str(directory), remedy="see the node's log; start it to go on"
        )


def _wiped(directory: Path) -> bool:
    """Only the marker is left, which whoever removes the program waits for."""
    try:
        return {each.name for each in directory.iterdir()} <= {"DESTROYED", "destroyed"}
    except FileNotFoundError:
        return True


def _unheard(events: Iterator[dict[str, Any]], event_id: str) -> list[str]:
    """Who had not recorded the end when this node went, by its own record."""
    try:
        told = [each["fields"] for each in events if each["event"] == "members-not-heard"]
    except (Refusal, OSError):
        return []
    return [name for fields in told if fields["event_id"] == event_id for name in fields["members"]]


def _tell(event_id: str, tombstone: str | None, missing: list[str], as_json: bool) -> None:
    if as_json:
        output.as_json({"event_id": event_id, "missing": missing, "tombstone": tombstone})
        return
    click.echo(f"destroyed; event {event_id} is recorded on each node; the tombstone is in {tombstone}")
    for name in missing:
        click.echo(
            f"{name} was not heard to have recorded it. If it was down it asks for the tombstone when it returns; or run there:"
        )
        click.echo("  raftcluster destroy --tombstone FILE")


def _show(plan: Any) -> None:
    for row in plan:
        click.echo(f"{output.text(row['node'])}:")
        for number, step in enumerate(row["steps"], 1):
            click.echo(f"  {number}. {output.text(step)}")
