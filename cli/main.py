"""`raftcluster`: the commands. Each is thin: what it does is in the library, under the same name."""

from __future__ import annotations

import platform
from pathlib import Path

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.audit import audit
from raftcluster.cli.backup import backup, recover, restore
from raftcluster.cli.certs import certs
from raftcluster.cli.cluster import init, invite, join, status, transfer
from raftcluster.cli.config import config
from raftcluster.cli.context import DIRECTORY, Commands, Context, json_option
from raftcluster.cli.destroy import destroy
from raftcluster.cli.discovery import add, discover, preflight
from raftcluster.cli.events import events
from raftcluster.cli.greylist import greylist
from raftcluster.cli.lease import lease
from raftcluster.cli.logs import logs
from raftcluster.cli.members import members
from raftcluster.cli.notifications import notifications
from raftcluster.cli.push import artefact, push, setup
from raftcluster.cli.quarantine import quarantine
from raftcluster.cli.serve import serve
from raftcluster.cli.tokens import tokens
from raftcluster.cli.verify import verify

_COMPLETION = {
    "bash": "echo 'eval \"$(_RAFTCLUSTER_COMPLETE=bash_source raftcluster)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(_RAFTCLUSTER_COMPLETE=zsh_source raftcluster)\"' >> ~/.zshrc",
    "fish": "_RAFTCLUSTER_COMPLETE=fish_source raftcluster > ~/.config/fish/completions/raftcluster.fish",
}


@click.group(cls=Commands)
@click.option(
    "-C",
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    default=DIRECTORY,
    envvar="RAFTCLUSTER_DIR",
    show_default=True,
    help="The node's data directory.",
)
@click.version_option(package_name="raftcluster", message="%(version)s", help="Print the version and exit.")
@click.pass_context
def main(ctx: click.Context, directory: Path) -> None:
    """Several mail servers, one cluster: the same configuration and the same greylist on every MX host.

    Every command works at every node: what has to be decided by the leader finds its way there.
    """
    ctx.obj = Context(directory.absolute())


@main.command()
@json_option
def version(as_json: bool) -> None:
    """Print the versions that matter for a bug report."""
    from importlib.metadata import version as installed  # no other command needs it

    packages = ("raftcluster", "pysyncobj", "lmdb", "cryptography", "msgpack", "click")
    found = {name: installed(name) for name in packages} | {"python": platform.python_version()}
    pushed = raftcluster.installed_artefact()
    found |= {} if pushed is None else {"artefact": pushed.hash}
    output.as_json(found) if as_json else output.facts(found)


@main.command()
@click.argument("shell", type=click.Choice(list(_COMPLETION)), default="bash")
def completion(shell: str) -> None:
    """Print the line that installs command completion for SHELL."""
    click.echo(_COMPLETION[shell])


for command in (
    init,
    serve,
    setup,
    setup,
    push,
    artefact,
    push,
    discover,
    add,
    preflight,
    invite,
    join,
    members,
    tokens,
    certs,
    status,
    events,
    audit,
    logs,
    verify,
    greylist,
    config,
    lease,
    notifications,
    quarantine,
    transfer,
    backup,
    restore,
    recover,
    destroy,
):
    main.add_command(command)
