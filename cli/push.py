"""The program on other hosts, and nodes there."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import json_option, secret
from raftcluster.cli.discovery import selecting

F = TypeVar("F", bound=Callable[..., Any])
_COLUMNS = ("host", "done", "left", "role", "generation", "artefact", "result")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@json_option
def artefact(folder: Path, as_json: bool) -> None:
    """Build what is installed on hosts in FOLDER, or verify what is there: this program and all it needs, as wheels.

    It is built of the versions that run here. One hash stands for all of it: equal hashes are equal programs.
    """
    found = raftcluster.artefact(folder)
    wheels = [{"name": each.name, "sha256": each.sha256, "size": each.size} for each in found.wheels]
    if as_json:
        output.as_json({"version": found.version, "hash": found.hash, "size": found.size, "wheels": wheels})
    else:
        output.facts({"version": found.version, "hash": found.hash, "bytes": found.size})
        output.table(("wheel", "bytes", "sha256"), [[each.name, each.size, each.sha256] for each in found.wheels])


def _plain(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9:./\[\]_-]*", value):
        raise click.BadParameter(f"{value!r} is no address")
    return value


def _pushing(command: F) -> F:
    """Options of how it is done; the command gets them as `way`, in the place of `how`."""

    @wraps(command)
    def pushing(
        *args: Any,
        how: dict[str, Any],
        wheels: Path | None,
        ask_pass: bool,
        accepted: tuple[str, ...],
        policy: str,
        **rest: Any,
    ) -> Any:
        way = raftcluster.Way(
            **how,
            password=secret("password") if ask_pass else "",
            accept=partial(_accept, accepted),
            artefact=wheels,
            options=f"--policy {policy}" if policy else "",
            say=lambda host, text: click.echo(f"{output.text(host)}  {output.text(text)}", err=True),
        )
        return command(*args, way=way, **rest)

    for option in (
        click.option("--policy", default="", callback=_plain, help="Where Postfix asks there, as for `serve`."),
        click.option(
            "--accept-host-key",
            "accepted",
            multiple=True,
            metavar="SHA256:...",
            help="The fingerprint of a host's key that is not known yet; may be repeated.",
            show_default="such hosts are refused, or asked about at a terminal",
        ),
        click.option(
            "--ask-pass", is_flag=True, help="Read the account's password, for ssh and sudo; from standard input."
        ),
        click.option(
            "--artefact",
            "wheels",
            type=click.Path(path_type=Path, exists=True, file_okay=False),
            help="The wheelhouse to push.",
            show_default="what this program was installed from, else one is built",
        ),
    ):
        pushing = option(pushing)
    return pushing  # type: ignore[return-value]


def _hosts() -> Sequence[str]:
    said = click.prompt("Hosts, with blanks between (none: look for them)", default="", show_default=False, err=True)
    return str(said).split()


def _asking(command: F) -> F:
    return selecting(command, _hosts)


@click.command()
@selecting
@_pushing
@click.option("--upgrade", is_flag=True, help="Replace the program of nodes, one after the other, the leader last.")
@click.option("--remove", is_flag=True, help="Take away what a push has put there; hosts with a node are refused.")
@click.option("--no-join", is_flag=True, help="Install only, also where a node runs on this host.")
@click.option("--check", is_flag=True, help="Change nothing; print what would be done.")
@json_option
@click.pass_context
def push(
    ctx: click.Context,
    wanted: raftcluster.Wanted,
    way: raftcluster.Way,
    upgrade: bool,
    remove: bool,
    no_join: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Install this program on HOSTs, as HOST, HOST:PORT or USER@HOST:PORT; - reads them from standard input.

    Where this host's node runs, they join its cluster. What is there already is not done again; what fails is undone, as long as the
    host is no node. The exit code is 17 when a host has failed.
    """
    if remove:
        done = raftcluster.uninstall(wanted, way)
    elif upgrade:
        done = raftcluster.upgrade(wanted, way, check=check)
    else:
        done = raftcluster.install(wanted, way, check=check, join=not no_join)
    _end(ctx, done, as_json)


@click.command()
@_asking
@_pushing
@click.option("--name", default="", help="The cluster's name, where it is a new one.")
@click.option("--lab", is_flag=True, help="A cluster for trying out: waits below a minute are allowed.")
@click.option("--check", is_flag=True, help="Change nothing; print what would be done.")
@json_option
@click.pass_context
def setup(
    ctx: click.Context,
    wanted: raftcluster.Wanted,
    way: raftcluster.Way,
    name: str,
    lab: bool,
    check: bool,
    as_json: bool,
) -> None:
    """From bare HOSTs to a cluster: check them, install this program, begin the cluster at the first, let the others join.

    Run again it does what is missing: members stay as they are, hosts that are new join. At a terminal, without a HOST, it asks. When
    a check fails nothing is done, and the exit code is 16; 17 when a host has failed.
    """
    _end(ctx, raftcluster.setup(wanted, way, cluster=name, lab=lab, check=check), as_json)


def _end(ctx: click.Context, done: raftcluster.Pushed, as_json: bool) -> None:
    error = done.error
    if as_json:
        told = error and {
            "code": error.code,
            "message": error.message,
            "subject": error.subject,
            "remedy": error.remedy,
        }
        output.as_json({**done.as_dict(), "error": told})
    else:
        _show(done)
    if error is not None:
        click.echo(f"error: {error}", err=True)
        ctx.exit(error.exit_code)


def _show(done: raftcluster.Pushed) -> None:
    if done.report is not None:
        failed = done.report.failed
        output.table(("host", "check", "found", "mend it"), [[e.host, e.check, e.said, e.remedy] for e in failed])
        return
    rows = []
    for each in done.rows():
        result = each["error"] or ("as it was" if each["undone"] else "ok")
        short = each["artefact"] and each["artefact"][:16]
        rows.append([each["host"], each["done"], each["left"], each["role"], each["generation"], short, result])
    output.table(_COLUMNS, rows)
    for name, why in done.left_out:
        click.echo(f"{output.text(name)}: left out, {output.text(why)}", err=True)


def _accept(accepted: Sequence[str], host: str, keys: Sequence[raftcluster.HostKey]) -> list[raftcluster.HostKey]:
    """Those of the keys that were named; at a terminal the person is asked."""
    for each in keys:
        click.echo(f"{output.text(host)} shows {each.kind} {each.fingerprint}", err=True)
    if accepted or not sys.stdin.isatty():
        return [each for each in keys if each.fingerprint in accepted]
    return list(keys) if click.confirm("Are these its keys?", err=True) else []
