"""The certificate hierarchies as an administrator's program sees them, on any node. Threads and errors: see `api`."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from raftcluster.cluster import carried
from raftcluster.cluster.admission import Admission
from raftcluster.cluster.asking import MACHINE, administer, facts_of, read, unfounded
from raftcluster.cluster.auditing import attributed
from raftcluster.cluster.features import lacking
from raftcluster.cluster.lifecycle import is_due
from raftcluster.cluster.progress import progress
from raftcluster.cluster.records import Generation, differences, rejected
from raftcluster.cluster.verification import Report, verify
from raftcluster.cluster.view import View, generation, generations
from raftcluster.codec import Value
from raftcluster.errors import Unavailable
from raftcluster.host import Host
from raftcluster.transport.certificates import Token, certificate_hash, fingerprint, request_fingerprint, validity
from raftcluster.twins import twin

WAIT_SECONDS: Final = 60.0
"""More than all deadlines of a generation together."""
LOOK_SECONDS: Final = 0.05
EXPORT_SECONDS: Final = 300
"""The life of the invitation that an export makes for itself."""
SHOWN: Final = 10
"""So many differences are told."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """One node's certificate of a generation."""

    node_id: str
    name: str
    pin: str
    """SHA-256 of the public key, hexadecimal."""
    not_before: float
    not_after: float
    """Seconds since the epoch."""
    days_left: float


@dataclass(frozen=True, slots=True)
class Step:
    """One generation in the table of `show`."""

    generation: int
    phase: str
    root: str
    """SHA-256 of the root certificate, hexadecimal; "" before it is minted."""
    members: list[str]
    """Names of those that hold, or are to hold, a certificate of it."""
    endorsed_by: list[str]
    excluded: list[str]
    reason: str
    """Why it was given up."""
    begun: str
    took_s: float | None
    """From its first entry to its last, in cluster time; None when it never came into force, or has not yet."""
    days_left: float | None
    """Until the first certificate of it expires; None when there is none any more, or not yet."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The generation in force, what is on its way, and what was."""

    cluster_id: str
    generation: int
    root_hash: str
    """SHA-256 of the root certificate, hexadecimal: the end of a token."""
    root: bytes
    certificates: list[Certificate]
    pending: Generation | None
    asleep: list[str]
    """Names of members that hold no certificate of the generation in force, or have not used theirs."""
    due: bool
    """Whether a generation has to begin by itself: the one in force names a removed member, or is two thirds of its life old."""
    generations: list[Step]


class Certs:
    """The certificate hierarchy of a running node."""

    def __init__(
        self,
        host: Host,
        directory: Path | None = None,
        admission: Admission | None = None,
        machines: Mapping[str, int] | None = None,
    ) -> None:
        """`directory`: the node's, for `verify`. `admission`, and `machines` (state machine -> schema version): for `export`."""
        self._host = host
        self._machines = dict(machines or {})
        self._directory = directory
        self._admission = admission

    def show(self) -> Hierarchy:
        """What is in force. Raises `Unavailable` before genesis."""
        view, steps = self._host.query(MACHINE, lambda tables, now: (View.read(tables, now), generations(tables)))
        facts, active = facts_of(view), view.active
        if active is None:
            raise unfounded()
        rows = []
        for node_id, pem in active.certificates.items():
            begin, end = validity(pem)
            left = round((end - datetime.now(UTC)).total_seconds() / 86_400, 1)
            pin = fingerprint(pem).hex()
            rows.append(Certificate(node_id, _name(view, node_id), pin, begin.timestamp(), end.timestamp(), left))
        asleep = sorted(each.name for each in view.live().values() if each.asleep_since)
        root_hash = certificate_hash(active.root).hex()
        table = [_step(view, each) for each in steps]
        return Hierarchy(
            facts.cluster_id, active.number, root_hash, active.root, rows, view.pending, asleep, is_due(view), table
        )

    ashow = twin(show)

    def rotate(self, *, exclude: Sequence[str] = (), reason: str = "", author: str = "") -> int:
        """Begin a new hierarchy, without the members `exclude` (names or ids); the result is its number. Returns at once:
        `wait` or `show` tells how far it is.

        When a member that takes part does not answer in time, the generation is given up: name it here then. Raises
        `Rejected` (`generation-under-way`, `no-quorum-left`, `endorsement-needed`, `no-member`).
        """
        view = read(self._host)
        ids: list[Value] = []
        for name in exclude:
            member = view.named(name)
            if member is None:
                raise rejected("no-member", f"{name} is no member", subject=name)
            ids.append(member.node_id)
        return int(administer(self._host, ["rotate", str(uuid.uuid4()), ids, True], author, reason))

    arotate = twin(rotate)

    def abort(self, *, reason: str = "", author: str = "") -> int:
        """Give up the generation under way, until it is minted; the result is its number. Raises `Rejected`."""
        pending = read(self._host).pending
        if pending is None:
            raise rejected("not-under-way", "no generation is under way", remedy="nothing to do")
        why = f": {reason}" if reason else ""
        command = ["abort", pending.number, f"an administrator has asked for it{why}"]
        administer(self._host, command, author, reason)
        return pending.number

    aabort = twin(abort)

    def progress(self, number: int) -> str:
        """How far this generation is, in one line: what has been done by how many members, and who is missing."""
        return self._host.query(MACHINE, lambda tables, now: progress(View.read(tables, now), number))

    aprogress = twin(progress)

    def wait(self, number: int, *, seconds: float = WAIT_SECONDS) -> None:
        """Return when this generation is in force. Raises `Rejected` (`aborted`) when it was given up, saying why, and
        `Unavailable` after `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            view, record = self._host.query(
                MACHINE, lambda tables, now: (View.read(tables, now), generation(tables, number))
            )
            if view.active is not None and view.active.number >= number:
                return
            if record is not None and record.phase == "aborted":
                raise rejected(
                    "aborted",
                    f"generation {number} was given up: {record.reason}",
                    subject=str(number),
                    remedy="start who is missing, remove it, or name it: raftcluster certs rotate --exclude NAME",
                )
            threading.Event().wait(LOOK_SECONDS)
        raise Unavailable(f"generation {number} is not in force after {seconds:g} s", remedy="raftcluster certs show")

    await_ = twin(wait)

    def verify(self) -> Report:
        """What `verification.verify` finds in this node's directory. Raises nothing that it reports."""
        if self._directory is None:
            raise rejected("no-directory", "this node has no directory here")
        return verify(self._directory)

    averify = twin(verify)

    def export(self, request: Value, *, reason: str = "", author: str = "") -> dict[str, Value]:
        """Let in the host that made this request file (see `carried.request`); the result is what to carry back to it.

        Whoever may ask this node may invite, so no token is needed; the bundle is worth something for the one key of the
        request only. Raises `Rejected` as joining does.
        """
        if self._admission is None:
            raise rejected("no-directory", "this node does not let anybody in")
        joiner = carried.read_request(request)
        view = read(self._host)
        if view.active is None:
            raise unfounded()
        pin = request_fingerprint(joiner.request)
        told = carried.quiet
        facts = facts_of(view)
        differing = differences(facts, joiner.product, joiner.schema, joiner.realm)
        if joiner.machines != self._machines:  # nobody else sees this before it tries to link
            differing.append(_difference(self._machines, joiner.machines))
        if missing := lacking(view.enabled, joiner.features):
            differing.append(missing)
        if differing:
            raise rejected("incompatible", f"{joiner.name} cannot join: {'; '.join(differing)}", subject=joiner.name)
        known = view.live().get(joiner.node_id)
        if known is not None and pin in known.pins:  # asked again: the same answer
            return self._admission.bundle(joiner.node_id, known.generation, [pin], told).message()
        token = Token.new(view.active.root)
        sources: list[Value] = [joiner.host] if carried.is_address(joiner.host) else []
        command = ["invite", token.id, token.public_key(), joiner.name, EXPORT_SECONDS, sources]
        administer(self._host, command, author, reason)
        command = ["begin", str(uuid.uuid4()), joiner.command(token.id)]
        number = self._admission.begin(attributed(command, author, self._host.name, reason), told)
        return self._admission.bundle(joiner.node_id, number, [pin], told).message()

    aexport = twin(export)


def _difference(ours: Mapping[str, int], theirs: Mapping[str, int]) -> str:
    names = sorted({name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name)}, key=str)[:SHOWN]
    shown = (
        f"{name!s:.64}: {ours.get(name, 'absent')} here, {theirs.get(name, 'absent')!r:.20} there" for name in names
    )
    return f"state machines: {'; '.join(shown)}; only the same in the same schema versions may join"


def _name(view: View, node_id: str) -> str:
    member = view.members.get(node_id)
    return member.name if member else node_id


def _step(view: View, each: Generation) -> Step:
    ends = [validity(pem)[1] for pem in each.certificates.values()]
    left = round((min(ends) - datetime.now(UTC)).total_seconds() / 86_400, 1) if ends else None
    return Step(
        each.number,
        each.phase,
        certificate_hash(each.root).hex() if each.root else "",
        sorted(_name(view, node_id) for node_id in each.holders()),
        sorted(_name(view, node_id) for node_id in each.endorsements),
        sorted(_name(view, node_id) for node_id in each.excluded),
        each.reason,
        datetime.fromtimestamp(each.begun / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        (each.retired - each.begun) / 1000 if each.retired else None,
        left,
    )
