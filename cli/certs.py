"""The certificate hierarchies."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.cluster import advertise_option, firewall_option, listen_option, name_option, realm_option
from raftcluster.cli.context import Commands, Context, author, json_option, reason_option
from raftcluster.errors import Unavailable

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
_LEFT_OUT = ("root", "pending")
WAIT_SECONDS = 60.0
"""More than all deadlines of a generation together."""
LOOK_SECONDS = 1.0


@click.group(cls=Commands, invoke_without_command=True)
@json_option
@click.pass_context
def certs(ctx: click.Context, as_json: bool) -> None:
    """Show the certificate hierarchies; with a command, change or check them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, as_json=as_json)


@certs.command()
@json_option
@click.pass_obj
def show(obj: Context, as_json: bool) -> None:
    """Show the generations, the members, their keys' fingerprints and the days that are left."""
    found = obj.client.certs.show()
    output.as_json(found) if as_json else output.document({k: v for k, v in found.items() if k not in _LEFT_OUT})


@certs.command()
@click.option("--abort", is_flag=True, help="Give up the one that is under way, as long as it is not minted.")
@click.option("--exclude", multiple=True, metavar="NAME", help="Go on without this member, which is down; repeatable.")
@click.option("--no-wait", is_flag=True, help="Return at once; `certs` shows how far it is.")
@reason_option
@json_option
@click.pass_obj
def rotate(obj: Context, abort: bool, exclude: tuple[str, ...], no_wait: bool, reason: str, as_json: bool) -> None:
    """Begin a new hierarchy: a new root and new keys for all nodes. Nothing stops meanwhile."""
    certificates, why = obj.client.certs, {"reason": reason, "author": author()}
    number = certificates.abort(**why) if abort else certificates.rotate(exclude=exclude, **why)
    if not abort and not no_wait:
        _wait(certificates, number)
    outcome = "given up" if abort else "begun" if no_wait else "in force"
    found = {"generation": number, "state": outcome}
    output.as_json(found) if as_json else click.echo(f"generation {number}: {outcome}")


def _wait(certificates: Any, number: int) -> None:
    """Until it is in force; says how far it is while that takes more than a moment, each thing once."""
    said, end = "", time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        try:
            certificates.wait(number, seconds=LOOK_SECONDS)
        except Unavailable:
            with suppress(Unavailable):
                text = certificates.progress(number)
                if text not in (said, f"generation {number}: in force"):
                    click.echo(text, err=True)
                said = text
        else:
            return
    raise Unavailable(f"not in force after {WAIT_SECONDS:.0f} s: {said}", remedy="it goes on; see raftcluster certs")


@certs.command()
@json_option
@click.pass_obj
def verify(obj: Context, as_json: bool) -> None:
    """Check this node's files, offline: no private key of a root, and a chain of manifests without a gap."""
    report = raftcluster.verify_certificates(obj.directory)
    output.as_json(asdict(report)) if as_json else output.facts(asdict(report))
    if report.problems:
        raise raftcluster.Rejected(f"{len(report.problems)} problems: {'; '.join(report.problems)}")


@certs.command()
@file_argument
@name_option
@listen_option
@advertise_option
@realm_option
@firewall_option
@json_option
@click.pass_obj
def request(
    obj: Context,
    file: Path,
    node_name: str,
    listen: tuple[str, int],
    advertise: tuple[str, int] | None,
    realm: str | None,
    no_firewall: bool,
    as_json: bool,
) -> None:
    """Join without a network path, step 1: make this node's key and write its request to FILE. Carry it to a member."""
    made = raftcluster.request_certificate(
        obj.directory, file, node=node_name, listen=listen, advertise=advertise, realm=realm, firewall=not no_firewall
    )
    found = {"node_id": made.node_id, "name": made.name, "file": str(file)}
    output.as_json(found) if as_json else click.echo(f"on a member: raftcluster certs export --request {file} DIR")


@certs.command()
@click.option(
    "--request", "file", required=True, type=click.Path(path_type=Path, exists=True), help="The request file."
)
@folder_argument
@reason_option
@json_option
@click.pass_obj
def export(obj: Context, file: Path, folder: Path, reason: str, as_json: bool) -> None:
    """Step 2, on a member: let in the host that made the request, and write what it needs to DIR. Carry it back."""
    bundle = obj.client.certs.export(file.read_bytes(), reason=reason, author=author())
    raftcluster.write_bundle(folder, bundle)
    found = {"folder": str(folder), "generation": bundle["generation"]}
    output.as_json(found) if as_json else click.echo(f"on the new host: raftcluster certs import {folder}")


@certs.command("import")
@folder_argument
@json_option
@click.pass_obj
def import_(obj: Context, folder: Path, as_json: bool) -> None:
    """Step 3, on the new host: take the files in DIR. Then: `raftcluster serve`."""
    joined = raftcluster.import_bundle(obj.directory, folder)
    if as_json:
        output.as_json(asdict(joined))
    else:
        click.echo(f"joined {joined.cluster}; start this node with: raftcluster -C {obj.directory} serve")
