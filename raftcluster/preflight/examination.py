"""All checks of all hosts: `examine`. Nothing is changed there; while the ports are tried, each host listens at its own."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from raftcluster.discovery.candidate import PORT, Candidate
from raftcluster.discovery.checked import Checked, Host
from raftcluster.preflight.checks import PYTHON, host_rows, way_rows
from raftcluster.preflight.meeting import WELL, WORKERS, Meetings, Met, Party, meet
from raftcluster.preflight.report import Check, Outcome, Report, Row
from raftcluster.remote import hostkeys
from raftcluster.remote.facts import Facts
from raftcluster.remote.shell import Local, Shell
from raftcluster.remote.ssh import PORT as SSH_PORT
from raftcluster.remote.ssh import Failure, Login, SshFailed
from raftcluster.transport import sockets

_WORDS: Final = {
    Met.ANOTHER: "another host answers",
    Met.REFUSED: "refused",
    Met.SILENT: "no answer",
    Met.UNREACHABLE: "no route",
    Met.UNRESOLVED: "the name is not known there",
}


def examine(
    checked: Checked,
    shell: Callable[[Candidate], Shell],
    here: Facts | None,
    *,
    login: Login,
    directory: str,
    port: int = PORT,
) -> Report:
    """A row a check and host of `checked`; `here` is what this host says, which takes part in trying the ports."""
    offenders = checked.mixed.subject.split(", ") if checked.mixed is not None else []
    word = checked.mixed.message if checked.mixed is not None else ""
    met = meet(_parties(checked.hosts, shell, here, port))
    known = {each.name: each.candidate for each in checked.hosts}
    inner = {
        each.name: host_rows(each, each.candidate.port, directory, word if each.name in offenders else "")
        for each in checked.hosts
    }
    opening = {name: _opening(rows) for name, rows in inner.items()}
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="raftcluster-preflight") as pool:
        shown = list(pool.map(lambda each: _shown(each, login), checked.hosts))
    found: list[Row] = []
    for host, keys in zip(checked.hosts, shown, strict=True):
        found += way_rows(host, login, keys)
        found += inner[host.name]
        found += _meeting_rows(host, met, known, opening)
    return Report(tuple(found))


def _opening(rows: Sequence[Row]) -> str:
    """The commands that open a host's port where its own rules are known to close it; empty when they are not."""
    closed = [each for each in rows if each.check is Check.FIREWALL and each.outcome is Outcome.FAILED]
    return " && ".join(each.remedy for each in closed)


def _shown(host: Host, login: Login) -> str:
    """The fingerprints of the keys of a host whose keys are not known, for a person to compare."""
    if not isinstance(host.failure, SshFailed) or host.failure.failure not in (
        Failure.KEY_UNKNOWN,
        Failure.KEY_CHANGED,
    ):
        return ""
    found = hostkeys.scan(host.candidate.target, login.port or SSH_PORT)
    return ", ".join(f"{each.kind} {each.fingerprint}" for each in found)


def _parties(hosts: Sequence[Host], shell: Callable[[Candidate], Shell], here: Facts | None, port: int) -> list[Party]:
    able = [each for each in hosts if each.facts is not None and _python(each.facts)]
    own = here.host if here is not None else platform.node()
    names = [each.name for each in able] + [own]
    parties = []
    for each in able:
        assert each.facts is not None
        told = dict.fromkeys(names, each.candidate.target)
        parties.append(Party(each.name, shell(each.candidate), _python(each.facts), each.candidate.port, told))
    if able and own not in [each.name for each in able]:
        told = {each.name: sockets.source(each.candidate.addresses[0]) for each in able}
        node = here.node if here is not None else None
        listen = node.get("listen") if node is not None else None
        closed = "this cluster's firewall lets it in once it is invited" if node and node.get("firewall") else ""
        at = int(listen[1]) if isinstance(listen, list) and len(listen) == 2 else port
        parties.append(Party(own, Local(), sys.executable, at, told, closed))
    return parties


def _python(facts: Facts) -> str:
    """An interpreter that can try ports: the one that will be used, else any."""
    best = [each for each in facts.pythons if each.version[:2] >= PYTHON] or [
        each for each in facts.pythons if each.version >= (3, 8, 0)
    ]
    return best[0].path if best else ""


def _meeting_rows(
    host: Host, meetings: Meetings, known: Mapping[str, Candidate], opening: Mapping[str, str]
) -> list[Row]:
    name, port = host.name, host.candidate.port
    if not any(name in pair for pair in meetings.found):
        why = "not tried: there is no way in" if host.facts is None else "not tried: it needs Python"
        return [Row(name, each, Outcome.UNKNOWN, why) for each in (Check.INWARD, Check.OUTWARD)]
    inward = {caller: met for (caller, other), met in meetings.found.items() if other == name}
    outward = {other: met for (caller, other), met in meetings.found.items() if caller == name}
    if trouble := meetings.troubles.get(name):
        first = Row(name, Check.INWARD, Outcome.FAILED, trouble, f"ss -ltnp 'sport = :{port}'")
    elif name in meetings.taken and host.facts is not None and host.facts.node is None:
        said = f"something that is no node listens at TCP port {port} already"
        mend = f"ss -ltnp 'sport = :{port}' shows it; stop it, or use another port: {name}:PORT"
        first = Row(name, Check.INWARD, Outcome.FAILED, said, mend)
    else:
        first = _row(name, Check.INWARD, inward, {}, _inward_remedy(host, inward, opening[name]))
    second = _row(name, Check.OUTWARD, outward, meetings.closed, _outward_remedy(port, outward, known, opening))
    return [first, second]


def _inward_remedy(host: Host, met: Mapping[str, Met], opening: str) -> str:
    port = host.candidate.port
    lost = [caller for caller, each in met.items() if each is Met.UNRESOLVED]
    if lost:
        return f"echo '{host.candidate.addresses[0]} {host.candidate.target}' >> /etc/hosts, at {', '.join(lost)}"
    if Met.ANOTHER in met.values():
        return (
            f"ss -ltnp 'sport = :{port}' shows who has the port; ip -br address, whether another host has the address"
        )
    return opening or f"let TCP port {port} in where a router or iptables-legacy -S drops it: nft shows no such rule"


def _outward_remedy(
    port: int, met: Mapping[str, Met], known: Mapping[str, Candidate], opening: Mapping[str, str]
) -> str:
    lost = [known[other] for other, each in met.items() if each is Met.UNRESOLVED and other in known]
    if lost:
        return " && ".join(f"echo '{each.addresses[0]} {each.target}' >> /etc/hosts" for each in lost)
    wrong = [other for other, each in met.items() if each in _WORDS]
    closed = [f"at {other}: {opening[other]}" for other in wrong if opening.get(other)]
    return "; ".join(closed) or f"nft list ruleset, here outward and at {', '.join(wrong)} inward, for TCP port {port}"


def _row(name: str, check: Check, met: dict[str, Met], closed: dict[str, str], remedy: str) -> Row:
    wrong = [f"{other}: {_WORDS[each]}" for other, each in met.items() if each in _WORDS]
    if wrong:
        return Row(name, check, Outcome.FAILED, "; ".join(wrong), remedy)
    well = [other for other, each in met.items() if each in WELL]
    said = [", ".join(well)] if well else []
    for other, each in met.items():
        if each is Met.UNTRIED:
            said.append(f"not tried with {other}: {closed.get(other, 'it cannot take part')}")
    return Row(name, check, Outcome.PASSED if well else Outcome.UNKNOWN, "; ".join(said) or "there is no other host")
