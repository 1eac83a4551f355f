"""The program on other hosts: `install` puts it there, `setup` makes nodes of one cluster of them, `upgrade` replaces it node by node.

Each looks at the hosts first and does what is missing, so that one that was ended anywhere is finished by asking again; on hosts
where nothing is missing nothing is done. Secrets -- a password, the tokens -- are in memory and go through pipes.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from raftcluster.builtin import PRODUCT
from raftcluster.discovery.candidate import PORT
from raftcluster.discovery.checked import Checked, Host
from raftcluster.errors import ChecksFailed, RaftclusterError, Refusal
from raftcluster.finding import DIRECTORY, Wanted, looked_at, shell_of
from raftcluster.preflight import examination
from raftcluster.preflight.report import Check, Report
from raftcluster.push import growth
from raftcluster.push.artefact import Artefact, installed_from, read
from raftcluster.push.build import build, given_or_built
from raftcluster.push.growth import Here, Seat
from raftcluster.push.host import Target
from raftcluster.push.place import PREFIX, Place
from raftcluster.push.rollout import Rollout, Work, failed
from raftcluster.push.upgrade import roll
from raftcluster.remote import hostkeys
from raftcluster.remote.askpass import Askpass
from raftcluster.remote.facts import Facts
from raftcluster.remote.hostkeys import HostKey
from raftcluster.remote.ssh import PORT as SSH_PORT
from raftcluster.remote.ssh import Failure, Login, SshFailed

__all__ = ["Artefact", "Pushed", "Way", "artefact", "install", "installed_artefact", "setup", "uninstall", "upgrade"]

KNOWN_HOSTS: Final = Path("~/.ssh/known_hosts")


@dataclass(frozen=True, slots=True)
class Way:
    """How the hosts are reached, and where things are on them."""

    login: Login = field(default_factory=Login)
    password: str = field(default="", repr=False)
    """Of the account: for ssh and for sudo, where they ask for one."""
    accept: Callable[[str, Sequence[HostKey]], Sequence[HostKey]] = lambda host, keys: ()
    """Shown the keys of a host whose key is not known; those of them that are its own are pinned, and no other."""
    realm: str | None = None
    directory: str | os.PathLike[str] = DIRECTORY
    """Of the node: there, and here."""
    prefix: str = PREFIX
    """Of the program."""
    artefact: Path | None = None
    """A wheelhouse; None: the one that this program was installed from, else one is built."""
    options: str = ""
    """Of `raftcluster serve`, for hosts that have none yet."""
    say: Callable[[str, str], None] = lambda host, text: None
    """(host, what was done), as it happens. Thread: any."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What has become of the hosts."""

    artefact: Artefact | None
    works: tuple[Work, ...] = ()
    report: Report | None = None
    """Of the checks, when one failed: then nothing was done."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(host, why)."""
    members: tuple[dict[str, Any], ...] = ()
    """The cluster's, as a member sees them in the end."""

    @property
    def error(self) -> RaftclusterError | None:
        """What there is to raise when not all is as it was asked for."""
        return (self.report.error if self.report is not None else None) or failed(self.works)

    def rows(self) -> list[dict[str, Any]]:
        """By host: what was done, what is left, and what its node is."""
        seen = {each["name"]: each for each in self.members}
        return [
            {
                "host": each.name,
                "done": [str(step) for step in each.done],
                "left": [str(step) for step in each.left],
                "undone": each.undone,
                "error": str(each.error) if each.error is not None else None,
                "artefact": self.artefact.hash if self.artefact is not None and each.error is None else None,
                "role": seen.get(each.name, {}).get("role"),
                "generation": seen.get(each.name, {}).get("generation"),
            }
            for each in self.works
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "artefact": None if self.artefact is None else self.artefact.hash,
            "version": None if self.artefact is None else self.artefact.version,
            "hosts": self.rows(),
            "left_out": dict(self.left_out),
            "members": list(self.members),
            "checks": None if self.report is None else self.report.as_dict(),
        }


def artefact(folder: str | os.PathLike[str]) -> Artefact:
    """The wheelhouse in `folder`, read through and compared with its sums; built there, of the versions that run here, when the
    folder is not there or empty. Waits for pip then. Raises `Refusal` when it is none or has changed, or pip cannot build it."""
    place = Path(folder)
    return read(place) if place.exists() and any(place.iterdir()) else build(place)


def installed_artefact() -> Artefact | None:
    """The wheelhouse from which this program was installed by a push or by the Debian package; None: in another way."""
    place = installed_from()
    return read(place) if place is not None else None


def install(
    wanted: Wanted | Sequence[str], way: Way | None = None, *, check: bool = False, join: bool = True
) -> Pushed:
    """Install the program on the hosts that are `wanted`, side by side; where this host's node runs, and `join`, they become
    members of its cluster, all in one generation of certificates.

    With `check` nothing is changed, and `left` says what would be done. A host that fails leaves the others alone, and what was
    changed on it is undone. Waits. Thread: any. Raises what `browse` does; what has failed on hosts is in the result.
    """
    return _Session(way or Way()).run(wanted, check=check, join=join)


def setup(
    wanted: Wanted | Sequence[str], way: Way | None = None, *, cluster: str = "", lab: bool = False, check: bool = False
) -> Pushed:
    """From bare hosts to a verified cluster: look, check, install, begin the cluster named `cluster` at the first host unless
    this host or one of them is a member of one, let the others join, wait until all vote.

    Asked again it does what is missing: hosts that are members are left as they are. When a check fails nothing is done, and
    `report` says how to mend it. Otherwise as `install`.
    """
    return _Session(way or Way()).run(wanted, check=check, join=True, begin=(cluster, lab), examined=True)


def upgrade(wanted: Wanted | Sequence[str], way: Way | None = None, *, check: bool = False) -> Pushed:
    """Have the nodes on these hosts run the artefact, one after the other, the leader last, as `push.upgrade` describes.

    The first that does not come back gets its former release again, and the others stay as they are. Waits until all is done.
    """
    return _Session(way or Way()).upgrade(wanted, check=check)


def uninstall(wanted: Wanted | Sequence[str], way: Way | None = None) -> Pushed:
    """Take away what a push has put on the hosts: they are as they were before. A host with a node is refused: destroy the
    cluster, or remove the member, first."""
    return _Session(way or Way()).uninstall(wanted)


class _Session:
    """One of the above."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._directory = str(way.directory)

    def run(
        self,
        wanted: Wanted | Sequence[str],
        *,
        check: bool,
        join: bool,
        begin: tuple[str, bool] | None = None,
        examined: bool = False,
    ) -> Pushed:
        with self._login() as login, tempfile.TemporaryDirectory(prefix="raftcluster-artefact-") as built:
            looked, here = self._looked(wanted, login)
            members = [each for each in looked.hosts if each.facts is not None and each.facts.node is not None]
            new = [each for each in looked.hosts if each not in members]
            _one_cluster(members, here)
            report = self._examined(looked, new, here, login, wanted) if examined else None
            if report is not None and report.failed:
                return Pushed(None, report=report, left_out=looked.left_out)
            if unfit := [each for each in new if each.facts is None]:
                raise ChecksFailed(
                    "; ".join(f"{each.name}: {each.failure}" for each in unfit),
                    subject=", ".join(each.name for each in unfit),
                    remedy="see raftcluster preflight",
                )
            rollout = Rollout(given_or_built(self._way.artefact, Path(built) / "a"), self._way.options, self._way.say)
            seat = self._seat(here, members, login) if join else None
            works = [Work(self._target(each, login), enter=True) for each in members]
            works += [Work(self._target(each, login), enter=seat is not None or begin is not None) for each in new]
            rollout.look(works)
            if not check:
                hosts = {each.name: each for each in looked.hosts}
                growth.grow(rollout, works, hosts_of(hosts), seat, begin)
            seen = growth.settled(seat or growth.first(works), works) if not check and (seat or begin) else ()
            return Pushed(rollout.artefact, tuple(works), left_out=looked.left_out, members=tuple(seen))

    def upgrade(self, wanted: Wanted | Sequence[str], *, check: bool) -> Pushed:
        with self._login() as login, tempfile.TemporaryDirectory(prefix="raftcluster-artefact-") as built:
            looked, _ = self._looked(wanted, login)
            strange = [each.name for each in looked.hosts if each.facts is None or each.facts.node is None]
            if strange:
                raise Refusal(
                    f"there is no node on {', '.join(strange)}", subject=strange[0], remedy="push without --upgrade"
                )
            rollout = Rollout(given_or_built(self._way.artefact, Path(built) / "a"), self._way.options, self._way.say)
            works = [Work(self._target(each, login), enter=True) for each in looked.hosts]
            rollout.look(works, upgrade=True)
            if not check:
                rollout.prepare(works, switch=False)
                if failed(works) is None:
                    roll(rollout, works)
            return Pushed(rollout.artefact, tuple(works), left_out=looked.left_out)

    def uninstall(self, wanted: Wanted | Sequence[str]) -> Pushed:
        with self._login() as login:
            looked, _ = self._looked(wanted, login)
            works = [Work(self._target(each, login)) for each in looked.hosts if each.facts is not None]
            for work in works:
                try:
                    work.target.undo()
                    work.undone = True
                except RaftclusterError as error:
                    work.error = error
            return Pushed(None, tuple(works), left_out=looked.left_out)

    @contextlib.contextmanager
    def _login(self) -> Iterator[Login]:
        if not self._way.password:
            yield self._way.login
            return
        with Askpass(self._way.password) as ask:
            yield replace(self._way.login, askpass=ask.path)

    def _looked(self, wanted: Wanted | Sequence[str], login: Login) -> tuple[Checked, Facts | None]:
        """All hosts, and what this one says; those whose keys are accepted now are looked at once more."""

        def look() -> tuple[Checked, Facts | None]:
            way = self._way
            return looked_at(
                wanted, login, way.realm, self._directory, PRODUCT, True, everybody=True, password=way.password
            )

        looked, here = look()
        accepted = False
        for host in looked.hosts:
            if isinstance(host.failure, SshFailed) and host.failure.failure is Failure.KEY_UNKNOWN:
                port = login.port or SSH_PORT
                keys = hostkeys.scan(host.candidate.target, port)
                if own := self._way.accept(host.name, keys):
                    hostkeys.pin((login.known_hosts or KNOWN_HOSTS).expanduser(), host.candidate.target, own, port)
                    accepted = True
        return look() if accepted else (looked, here)

    def _examined(
        self, looked: Checked, new: Sequence[Host], here: Facts | None, login: Login, wanted: Wanted | Sequence[str]
    ) -> Report:
        """The checks of those that are to become nodes, without what a push takes care of by itself."""
        port = wanted.port if isinstance(wanted, Wanted) else PORT
        report = examination.examine(
            replace(looked, hosts=tuple(new)),
            lambda each: shell_of(each, login, self._way.password),
            here,
            login=login,
            directory=self._directory,
            port=port,
        )
        begun = {each.name for each in new if each.facts is not None and each.facts.directory == "yes"}
        # A directory that is begun, and no node's, is that of a push that did not end: it is finished.
        return Report(tuple(e for e in report.rows if e.check is not Check.INSTALLED or e.host not in begun))

    def _target(self, host: Host, login: Login) -> Target:
        assert host.facts is not None
        place = Place(self._way.prefix, self._directory)
        return Target(host.name, shell_of(host.candidate, login, self._way.password), host.facts, place)

    def _seat(self, here: Facts | None, members: Sequence[Host], login: Login) -> Seat | None:
        """A member to ask: the node here, else the first of the hosts that are members."""
        if here is not None and here.node is not None:
            return Here(sys.executable, self._directory)
        return self._target(members[0], login) if members else None


def hosts_of(hosts: dict[str, Host]) -> dict[str, tuple[tuple[str, int], tuple[str, ...]]]:
    """By name: where others reach its node, and from where it comes."""
    return {
        name: ((each.candidate.target, each.candidate.port), each.candidate.addresses) for name, each in hosts.items()
    }


def _one_cluster(members: Sequence[Host], here: Facts | None) -> None:
    """Raises `Refusal` when hosts are members of different clusters."""
    nodes = {each.name: each.facts.node for each in members if each.facts is not None and each.facts.node is not None}
    if here is not None and here.node is not None:
        nodes["this host"] = here.node
    clusters = {str(node.get("cluster_id")) for node in nodes.values()}
    if len(clusters) > 1:
        told = "; ".join(f"{name}: {node.get('cluster')} ({node.get('cluster_id')})" for name, node in nodes.items())
        raise Refusal(
            f"these are nodes of different clusters -- {told}", subject=", ".join(nodes), remedy="name those of one"
        )
