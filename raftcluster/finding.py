"""Hosts that could become nodes: `discover` asks who knows of them, `browse` takes those that are named and looks at them,
`examine` says what keeps each from it.

Nothing is changed, here or elsewhere, and no node need run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raftcluster.builtin import PRODUCT
from raftcluster.discovery import typed
from raftcluster.discovery.candidate import PORT, Candidate, Survey
from raftcluster.discovery.checked import Checked, check
from raftcluster.discovery.inquiry import Inquiry
from raftcluster.discovery.survey import SSH, survey
from raftcluster.errors import RaftclusterError
from raftcluster.preflight import examination
from raftcluster.preflight.report import Report
from raftcluster.remote.facts import Facts
from raftcluster.remote.hostkeys import named
from raftcluster.remote.probe import ask
from raftcluster.remote.shell import Local, Shell
from raftcluster.remote.ssh import Login, Ssh
from raftcluster.remote.sudo import Sudo

__all__ = ["Wanted", "browse", "discover", "examine", "known_hosts"]

DIRECTORY = "/var/lib/raftcluster"


def discover(
    *,
    providers: Sequence[str] = (),
    domains: Sequence[str] = (),
    nameservers: Sequence[str] = (),
    port: int = PORT,
    ssh_port: int = SSH,
    tried: bool = True,
) -> Survey:
    """The hosts that this host's cluster software and DNS know of, one candidate a host, with who says so and whether it can be
    reached.

    `providers` are names of the entry point group `raftcluster.discovery` -- `pacemaker`, `keepalived`, `mx`, `srv`, and those
    of other packages; none: all that are installed, and one that cannot look says so in `remarks`. MX and SRV records are asked
    of `domains`, by default this host's, at `nameservers` (`ADDRESS` or `ADDRESS:PORT`), by default those of the system.
    `port` is the cluster's where no source tells one. With `tried` a connection is made to it and to `ssh_port`, and nothing is
    sent. Waits for commands and name servers, some seconds at most. Thread: any.
    Raises `Refusal`, `MissingPrivilege` or `Unavailable` when one of the providers that were named cannot look.
    """
    inquiry = Inquiry(domains=tuple(domains), nameservers=tuple(nameservers))
    return survey(inquiry, only=providers or None, port=port, ssh_port=ssh_port, tried=tried)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which hosts are meant: those that are named, and with `autodetect` those that `discover` finds."""

    hosts: Sequence[str] = ()
    """`HOST`, `HOST:PORT` or `USER@HOST:PORT`: a name or an address, the cluster's port and the account where they are others."""
    files: Sequence[tuple[str, str]] = ()
    """(text, where from): one or more such words a line, comments after `#`."""
    autodetect: bool = False
    agree: Callable[[Survey], bool] = lambda found: True
    """Shown all of them before any is logged in to; when it does not agree, none is."""
    providers: Sequence[str] = ()
    domains: Sequence[str] = ()
    nameservers: Sequence[str] = ()
    """These three as for `discover`."""
    port: int = PORT
    """The cluster's, where nobody says another one."""


def browse(
    wanted: Wanted | Sequence[str],
    *,
    login: Login | None = None,
    realm: str | None = None,
    directory: str | os.PathLike[str] = DIRECTORY,
    product: str = PRODUCT,
) -> Checked:
    """The hosts that are `wanted` as one list, each once, looked at through SSH. Nothing is changed.

    This host, past members, and members of the cluster whose node is in `directory` here are left out, and said to be. `login` is
    for all hosts but those that say an account themselves. `realm` is declared for hosts that are enrolled in none. A host that
    cannot be asked, or cannot become a node as it is, has `problems`. Thread: any; waits for name servers and SSH.
    Raises `BadHost` (a `Refusal`) for a name that is none or leads nowhere, `MixedRealms` naming the offenders, and what `discover`
    raises.
    """
    checked, _ = looked_at(wanted, login or Login(), realm, str(directory), product, strict=True)
    return checked


def examine(
    wanted: Wanted | Sequence[str],
    *,
    login: Login | None = None,
    realm: str | None = None,
    directory: str | os.PathLike[str] = DIRECTORY,
    product: str = PRODUCT,
) -> Report:
    """Everything that would keep the hosts that are `wanted` from becoming nodes: a row a check and host, with the command that
    mends what failed.

    The arguments are those of `browse`. Nothing is changed; each host that can listens at the cluster's port for a moment, so that
    the others can try to connect. Thread: any; waits for SSH, some seconds. Raises `BadHost` for what is no name at all, and what
    `discover` raises; all else is in the rows.
    """
    login = login or Login()
    looked, here = looked_at(wanted, login, realm, str(directory), product, strict=False)
    port = wanted.port if isinstance(wanted, Wanted) else PORT
    return examination.examine(
        looked, lambda each: shell_of(each, login), here, login=login, directory=str(directory), port=port
    )


def looked_at(
    wanted: Wanted | Sequence[str],
    login: Login,
    realm: str | None,
    directory: str,
    product: str,
    strict: bool,
    everybody: bool = False,
    password: str = "",
) -> tuple[Checked, Facts | None]:
    """The hosts, and what this host says of itself. With `everybody` this host and members are hosts as all others;
    with a `password` sudo is asked, too."""
    search = wanted if isinstance(wanted, Wanted) else Wanted(wanted)
    sightings = typed.hosts(search.hosts)
    for text, origin in search.files:
        sightings += typed.listed(text, origin)
    inquiry = Inquiry(domains=tuple(search.domains), nameservers=tuple(search.nameservers))
    only = (search.providers or None) if search.autodetect else ()
    found = survey(inquiry, only=only, typed=sightings, port=search.port, ssh_port=login.port or SSH)
    listed = [each for each in found.candidates if each.wanted or (everybody and each.here)]
    hosts = listed if search.agree(found) else []
    here = _here(directory) if hosts else None
    checked = check(
        hosts,
        lambda each: shell_of(each, login, password),
        None if everybody else here,
        directory=directory,
        product=product,
        realm=realm,
        strict=strict,
    )
    others = [
        (each.name, "this host" if each.here else "a past member") for each in found.candidates if each not in listed
    ]
    return replace(checked, remarks=found.remarks, left_out=(*others, *checked.left_out)), here


def shell_of(candidate: Candidate, login: Login, password: str = "") -> Shell:
    """The way to a host, none to this one; as root when there is a `password` for sudo."""
    shell = Local() if candidate.here else Ssh(candidate.target, replace(login, user=candidate.user or login.user))
    return Sudo(shell, password) if password else shell


def known_hosts() -> list[str]:
    """The names of hosts that this user's ssh, this host's ssh or /etc/hosts know; for completion."""
    home = Path("~").expanduser()
    return named([home / ".ssh" / "known_hosts", Path("/etc/ssh/ssh_known_hosts"), Path("/etc/hosts")])


def _here(directory: str) -> Facts | None:
    try:
        return ask(Local(), directory)
    except RaftclusterError:  # a host without a shell has no node either
        return None
