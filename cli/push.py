"""The program on other hosts."""

from __future__ import annotations

from pathlib import Path

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import json_option


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
