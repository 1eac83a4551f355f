"""What is to be done on a host: what is there is compared with what shall be. Pure.

Nothing remembers how far an earlier push came: each looks at the host and does what is missing, so one that was ended anywhere
is finished by the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from raftcluster.errors import Refusal
from raftcluster.push.artefact import Artefact
from raftcluster.push.place import Place


class Step(StrEnum):
    """In their order."""

    COPY = "copy"
    INSTALL = "install"
    ARRANGE = "arrange"
    """User, directory, unit, scripts."""
    SWITCH = "switch"
    """The release is the one that runs from the next start on."""
    ENTER = "join"
    """The host begins the cluster, or joins it."""
    START = "start"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Found:
    """What is on a host."""

    begun: bool = False
    """There was a push before."""
    copied: str = ""
    """Hash of the release of this artefact; empty: it is not there."""
    installed: bool = False
    arranged: str = ""
    """Digest of what was written."""
    current: str = ""
    """Id of the release that runs from the next start on."""
    node: bool = False
    running: str = ""
    """The interpreter of the node that runs."""
    systemd: bool = False
    foreign: str = ""
    """A unit of that name which no push has written."""
    joining: str = ""
    """Node id of a join that was cut off there: the cluster may have a member of that id, which will never run."""

    @classmethod
    def read(cls, text: str) -> Found:
        """Of what `script.LOOK` prints."""
        told = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        return cls(
            begun="begun" in told,
            copied=told.get("copied", ""),
            installed="installed" in told,
            arranged=told.get("arranged", ""),
            current=told.get("current", ""),
            node="node" in told,
            joining=told.get("joining", ""),
            running=told.get("running", ""),
            systemd="systemd" in told,
            foreign=told.get("foreign", ""),
        )


def plan(found: Found, artefact: Artefact, place: Place, *, enter: bool, upgrade: bool, host: str) -> list[Step]:
    """The steps that are missing. With `enter` the host becomes a node if it is none; with `upgrade` a node that runs another
    release is restarted with this one.

    Raises `Refusal` when a node is there that this is not for.
    """
    replaced = found.current != artefact.id or (bool(found.running) and not _runs(found, artefact, place))
    if found.node and replaced and not upgrade:
        raise Refusal(
            f"{host} is a node of another release" + (f", {found.current}" if found.current else ""),
            subject=host,
            remedy="raftcluster push --upgrade replaces the program, node by node",
        )
    steps: list[Step] = []
    if not found.installed or found.copied != artefact.hash:
        steps += [Step.INSTALL] if found.copied == artefact.hash else [Step.COPY, Step.INSTALL]
    if found.arranged != place.digest:
        steps.append(Step.ARRANGE)
    if found.current != artefact.id:
        steps.append(Step.SWITCH)
    if enter and not found.node:
        steps.append(Step.ENTER)
    if (found.node or enter) and not _runs(found, artefact, place):
        steps.append(Step.START)
    return [*steps, Step.VERIFY] if found.node or enter else steps


def _runs(found: Found, artefact: Artefact, place: Place) -> bool:
    return found.running == f"{place.prefix}/releases/{artefact.id}/venv/bin/python"
