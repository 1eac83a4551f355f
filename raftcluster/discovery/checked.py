"""Candidates looked at where they are: `check` makes a list of hosts that can become nodes of one cluster.

Through SSH each host is asked what it is (`remote.probe`), which finds what names and addresses cannot tell: that two of them are
one machine, that one is a member already or belongs to another cluster, whom it trusts, how its clock goes. A host that cannot be
asked stays on the list, with the reason. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final

from raftcluster import limits
from raftcluster.discovery.candidate import Candidate, Reach
from raftcluster.discovery.typed import BadHost
from raftcluster.errors import ChecksFailed, MixedRealms, RaftclusterError
from raftcluster.remote.facts import STANDALONE, Facts
from raftcluster.remote.probe import ask
from raftcluster.remote.shell import Shell

WORKERS: Final = 16


@dataclass(frozen=True, slots=True)
class Host:
    """A candidate, and what it says of itself."""

    candidate: Candidate
    facts: Facts | None = None
    """None when it cannot be asked."""
    failure: RaftclusterError | None = None
    """Why not."""
    realm: str | None = None
    """None when it cannot be told."""
    clock_off: float | None = None
    """Seconds ahead of the median of all clocks, as far as that is certain."""
    problems: tuple[str, ...] = ()
    """Why it cannot become a node as it is."""

    @property
    def name(self) -> str:
        """Of the candidate."""
        return self.candidate.name

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.candidate.as_dict() | {
            "realm": self.realm,
            "clock_off": self.clock_off,
            "version": self.facts.version if self.facts is not None else None,
            "problems": list(self.problems),
        }


@dataclass(frozen=True, slots=True)
class Checked:
    """Hosts to add, each once, of one realm."""

    hosts: tuple[Host, ...]
    realm: str
    """Of the cluster: its own, else what its hosts have in common, else what was declared."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(host, why) of those that are not to be added: this host, past members, members."""
    remarks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of the providers that were asked, as in `Survey`."""
    mixed: MixedRealms | None = None
    """They are not of one realm; only where that was not to be raised."""

    @property
    def problems(self) -> tuple[tuple[str, str], ...]:
        """(host, what is wrong) of all."""
        return tuple((host.name, problem) for host in self.hosts for problem in host.problems)

    @property
    def error(self) -> ChecksFailed | None:
        """What there is to raise when a host has problems."""
        if not self.problems:
            return None
        names = ", ".join(dict(self.problems))
        return ChecksFailed(f"not fit to become nodes: {names}", subject=names, remedy="mend what is named for each")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "error": told(self.error),
            "hosts": [each.as_dict() for each in self.hosts],
            "realm": self.realm,
            "left_out": dict(self.left_out),
            "remarks": {name: list(said) for name, said in self.remarks.items()},
        }


def told(error: RaftclusterError | None) -> dict[str, str] | None:
    """An error for JSON."""
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "subject": error.subject, "remedy": error.remedy}


def check(
    candidates: Sequence[Candidate],
    shell: Callable[[Candidate], Shell],
    here: Facts | None,
    *,
    directory: str,
    product: str,
    realm: str | None = None,
    strict: bool = True,
) -> Checked:
    """Ask all `candidates`, side by side. `here` is what this host says: the cluster is the one whose node is here, if any.

    `realm` is declared for hosts that are enrolled in none. If `strict`, raises `BadHost` when a name leads nowhere, `MixedRealms`
    naming the offenders; else the first is a host's failure, the second `Checked.mixed`. Thread: any; waits for SSH.
    """
    lost = [each.name for each in candidates if not each.addresses]
    if lost and strict:
        raise _lost(lost)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="raftcluster-browse") as pool:
        asked = list(pool.map(lambda each: _asked(each, shell(each), directory), candidates))
    node = here.node if here is not None else None
    cluster = node.get("cluster_id") if node else None
    members = tuple(each.name for each in asked if cluster and _cluster(each) == cluster)
    hosts = [replace(each, realm=_realm(each.facts, realm)) for each in _distinct(asked) if each.name not in members]
    own = str(node.get("realm", STANDALONE)) if node else None
    mixed = None
    try:
        common = one_realm(hosts, own) or realm or STANDALONE
    except MixedRealms as error:
        if strict:
            raise
        mixed, common = error, own or realm or STANDALONE
    clock = _clock(hosts)
    judged = [_judged(replace(each, clock_off=_off(each.facts, clock)), node, product) for each in hosts]
    return Checked(tuple(judged), common, tuple((name, "a member of the cluster") for name in members), mixed=mixed)


def one_realm(hosts: Iterable[Host], own: str | None) -> str | None:
    """The realm of all of them; `own` is the cluster's. None when nobody's is known. Raises `MixedRealms`."""
    by_realm: dict[str, list[str]] = {}
    for host in hosts:
        if host.realm is not None:
            by_realm.setdefault(host.realm, []).append(host.name)
    if own is not None:
        offenders = {name: hosts for name, hosts in by_realm.items() if name != own}
        told = f"the cluster belongs to the realm {own}"
    else:
        offenders = by_realm if len(by_realm) > 1 else {}
        told = "they belong to different realms"
    if not offenders:
        return own or next(iter(by_realm), None)
    who = "; ".join(f"{', '.join(hosts)}: {name}" for name, hosts in sorted(offenders.items()))
    raise MixedRealms(
        f"these hosts cannot form one cluster, {told} -- {who}",
        subject=", ".join(name for _, hosts in sorted(offenders.items()) for name in hosts),
        remedy="leave out those of another realm, or enrol all in one (realm join), or take all out (realm leave)",
    )


def _lost(names: Sequence[str]) -> BadHost:
    return BadHost(
        f"no address is known for {', '.join(names)}",
        subject=", ".join(names),
        remedy="give its address, or enter the name in DNS or /etc/hosts",
    )


def _asked(candidate: Candidate, shell: Shell, directory: str) -> Host:
    try:
        if not candidate.addresses:
            raise _lost([candidate.name])
        return Host(candidate, ask(shell, directory))
    except RaftclusterError as error:
        return Host(candidate, failure=error, problems=(str(error),))


def _distinct(hosts: Sequence[Host]) -> list[Host]:
    """Each machine once, under the name that was first; what else it is called is kept."""
    found: dict[object, Host] = {}
    for each in hosts:
        facts = each.facts
        identity: object = facts.identity if facts is not None and facts.machine else each.name
        first = found.setdefault(identity, each)
        if first is not each:
            one, other = first.candidate, each.candidate
            joined = replace(
                one,
                addresses=tuple(dict.fromkeys((*one.addresses, *other.addresses))),
                aliases=tuple(dict.fromkeys((*one.aliases, other.name, *other.aliases))),
                provenance=tuple(dict.fromkeys((*one.provenance, *other.provenance))),
                conflicts=(*one.conflicts, f"{other.name} is the same machine"),
            )
            found[identity] = replace(first, candidate=joined)
    return list(found.values())


def _realm(facts: Facts | None, declared: str | None) -> str | None:
    """Where it is enrolled; else what was declared; else standalone, if that could be looked at."""
    if facts is not None and facts.realm not in (None, STANDALONE):
        return facts.realm
    return declared if declared is not None else facts.realm if facts is not None else None


def _cluster(host: Host) -> str | None:
    node = host.facts.node if host.facts is not None else None
    return str(node.get("cluster_id")) if node else None


def _clock(hosts: Iterable[Host]) -> float:
    """The median of all clocks, this host's among them, in seconds ahead of this host's."""
    known = [each.facts.clock_off for each in hosts if each.facts is not None and each.facts.clock_off is not None]
    middles = [sum(each) / 2 for each in known]
    return median([0.0, *middles]) if len(middles) > 1 else 0.0


def _off(facts: Facts | None, clock: float) -> float | None:
    """The least by which it is off; 0 when it may be right."""
    if facts is None or facts.clock_off is None:
        return None
    least, most = (each - clock for each in facts.clock_off)
    return least if least > 0 else most if most < 0 else 0.0


def _judged(host: Host, node: Mapping[str, Any] | None, product: str) -> Host:
    """With what keeps it from becoming a node of the cluster of `node`, if there is one."""
    if host.facts is None:
        return host
    facts, found = host.facts, list(host.problems)
    if host.realm is None:
        found.append(f"whom it trusts cannot be told: {facts.unread}; give --realm, or an account that becomes root")
    if host.clock_off is not None and abs(host.clock_off) > limits.CLOCK_ALARM_SECONDS:
        found.append(f"its clock is {host.clock_off:+.1f} s off")
    if facts.node is not None:
        theirs = str(facts.node.get("product", ""))
        wanted = str(node.get("product")) if node else product
        found.append(
            f"it belongs to the cluster {facts.node.get('cluster', '?')} ({facts.node.get('cluster_id', '?')})"
        )
        if theirs.partition("/")[0] != wanted.partition("/")[0]:
            found.append(f"it runs the product {theirs}, this is {wanted}")
    elif host.candidate.cluster is Reach.OPEN:
        found.append(f"something listens at its port {host.candidate.port} already")
    return replace(host, problems=tuple(found))
