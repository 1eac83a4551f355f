"""Backups, and a new cluster from one, or from what a survivor holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.cluster import advertise_option, firewall_option, listen_option, name_option
from raftcluster.cli.context import Commands, Context, author, json_option, reason_option

FILE = click.Path(path_type=Path, dir_okay=False)


class Backups(Commands):
    """`backup FILE` is `backup write FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What is no command of this group is meant for the first one."""
        words = [each for each in args if not each.startswith("-")]
        if words and words[0] not in self.commands:
            args = ["write", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Backups)
def backup() -> None:
    """Write the state of the whole cluster to a file: `raftcluster backup FILE`, short for `backup write FILE`."""


@backup.command()
@click.argument("file", type=FILE)
@click.option("--local", is_flag=True, help="What this node has applied: works without a quorum too.")
@json_option
@click.pass_obj
def write(obj: Context, file: Path, local: bool, as_json: bool) -> None:
    """Write all that was acknowledged so far to the new FILE, while the cluster works on.

    FILE must not exist; only its owner can read it. It holds configuration, greylist, members -- and no private key.
    """
    _summary(obj.client.backup(file.absolute(), local=local), as_json)


@backup.command("verify")
@click.argument("file", type=FILE)
@json_option
def verify_(file: Path, as_json: bool) -> None:
    """Compare the checksums of the backup FILE and say what is in it. Needs nothing but the file."""
    _summary(asdict(raftcluster.backup.verify(file)), as_json)


@click.command()
@click.argument("file", type=FILE)
@name_option
@listen_option
@advertise_option
@firewall_option
@click.option("--name", help="The new cluster's name.", show_default="the old one's")
@reason_option
@json_option
@click.pass_obj
def restore(
    obj: Context,
    file: Path,
    node_name: str,
    listen: tuple[str, int],
    advertise: tuple[str, int] | None,
    no_firewall: bool,
    name: str | None,
    reason: str,
    as_json: bool,
) -> None:
    """Begin a new cluster with the state in the backup FILE. Then: `raftcluster serve`.

    Its id, its one node and its certificates are new: members of the old cluster have to join it.
    """
    done = raftcluster.restore(
        obj.directory,
        file,
        node=node_name,
        listen=listen,
        advertise=advertise,
        cluster=name,
        firewall=not no_firewall,
        reason=reason,
        author=author(),
        progress=lambda text: click.echo(text, err=True),
    )
    if as_json:
        output.as_json(asdict(done))
    else:
        click.echo(
            f"cluster {done.cluster} ({done.cluster_id}) begun at {obj.directory} with the state of entry "
            f"{done.backup.index}; start it with: raftcluster -C {obj.directory} serve"
        )


@click.command()
@click.option("--preview", "only_show", is_flag=True, help="Show what would be kept and lost, and change nothing.")
@click.option("--confirm", metavar="NAME", help="The cluster's name, to show that you mean it; asked for otherwise.")
@click.option(
    "--force", is_flag=True, help="Also while a majority of the members answers: there are two clusters then."
)
@reason_option
@json_option
@click.pass_obj
def recover(obj: Context, only_show: bool, confirm: str | None, force: bool, reason: str, as_json: bool) -> None:
    """Make a new cluster of what this stopped node holds, when a majority of the voters is gone for good.

    Look at `recover --preview` on every survivor first. Members of the old cluster have to join the new one.
    """
    if only_show or (confirm is None and not as_json):
        shown = asdict(raftcluster.backup.preview(obj.directory))
        output.as_json(shown) if as_json else output.document(shown)
    if only_show:
        return
    if confirm is None:
        confirm = click.prompt("This cannot be undone. The cluster's name", err=True)
    done = raftcluster.backup.recover(obj.directory, confirm=confirm, force=force, reason=reason, author=author())
    if as_json:
        output.as_json(asdict(done))
    else:
        click.echo(
            f"cluster {done.cluster} goes on as {done.cluster_id}, generation {done.generation}, with {done.node} alone; "
            f"start it with: raftcluster -C {obj.directory} serve"
        )
        for gone in done.removed:
            click.echo(f"{gone} has to join anew, with an empty data directory: raftcluster invite {gone}")


def _summary(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.as_json(found)
        return
    shown = {f"{name}_ms" if name == "written_at" else name: value for name, value in found.items()}
    output.facts({**shown, "written_at_ms": 1000 * int(found["written_at"])})
