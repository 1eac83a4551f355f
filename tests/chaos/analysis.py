"""From recorded histories to verdicts: what each checker is given, and what it says."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from raftcluster.quarantine.rules import AlreadyDelivered
from tests.chaos.clients import CLAIM_SECONDS, HANDED_AGAIN
from tests.chaos.recorder import load
from tests.checkers import (
    entries,
    gaps,
    greylisting,
    leadership,
    leases,
    notices,
    once,
    order,
    register,
    releases,
    sessions,
    tables,
)
from tests.checkers.entries import Change
from tests.checkers.gaps import Gap, Loss
from tests.checkers.greylisting import Check, Look, Rules
from tests.checkers.leadership import Sample
from tests.checkers.leases import Belief, Grant
from tests.checkers.notices import Handed, Publication, Seen
from tests.checkers.once import Attempt
from tests.checkers.order import Numbered
from tests.checkers.register import Step
from tests.checkers.releases import Delivery, Refusal, Standing
from tests.checkers.sessions import Sight
from tests.checkers.tables import Digest

Event = dict[str, Any]


class Operation(NamedTuple):
    """A call with its answer. Without one `ret` is infinite and the outcome unknown."""

    call: float
    ret: float
    outcome: str
    result: Any
    session: str
    asked: Event
    answered: float = math.inf
    """When the call ended, whatever it was told."""

    @property
    def decided(self) -> bool:
        """For a greylist check: the cluster has decided it."""
        return self.outcome == "ok" and not self.result[3]


@dataclass
class Final:
    """The state after everything has healed."""

    ledger: list[tuple[str, int, int]]
    counted: int
    digests: list[Digest]
    notices: dict[int, str] = field(default_factory=dict)
    """Position -> text."""
    listed: dict[str, list[str]] = field(default_factory=dict)
    """Node -> the patterns on its lists."""
    held: dict[str, list[Any]] = field(default_factory=dict)
    """Id of a held message -> how its release stands, and how often it was delivered."""


@dataclass
class Verdict:
    """What was checked, and what was found."""

    checks: dict[str, int] = field(default_factory=dict)
    """Name of a check -> how many things it looked at."""
    violations: list[str] = field(default_factory=list)
    leader_changes: int = 0
    gap: Gap | None = None
    operations: dict[str, Counter[str]] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    """Greylist answers: committed passes and deferrals; degraded ones apart."""
    undecided: list[str] = field(default_factory=list)
    """Keys whose operations overlap too much for a search: nothing is known of them, and nothing checked is counted."""

    def note(self, name: str, looked_at: int, found: Iterable[str]) -> None:
        self.checks[name] = looked_at
        self.violations += [f"{name}: {text}" for text in found]


class History:
    """All that the processes of one run have recorded."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.events: list[Event] = []
        for path in sorted(files):
            node, _, incarnation = path.stem.partition("-")
            self.events += [{**event, "process": f"{node}.{incarnation}"} for event in load(path)]
        self.events.sort(key=lambda event: float(event["t"]))
        self.operations: dict[str, list[Operation]] = defaultdict(list)
        answers = {event["id"]: event for event in self.events if event["e"] in ("ok", "never", "unknown")}
        for event in self.events:
            if event["e"] == "call":
                answer = answers.get(event["id"], {"t": math.inf, "e": "unknown"})
                ret = math.inf if answer["e"] == "unknown" else answer["t"]
                self.operations[event["op"]].append(
                    Operation(event["t"], ret, answer["e"], answer.get("result"), event["session"], event, answer["t"])
                )
                self.operations[event["op"]][-1].asked["code"] = answer.get("code", "")

    def of(self, *names: str, outcome: str | None = None) -> list[Operation]:
        """Operations of these kinds, by the time of their calls."""
        found = [operation for name in names for operation in self.operations[name]]
        return sorted((o for o in found if outcome in (None, o.outcome)), key=lambda operation: operation.call)


def judge(history: History, final: Final, rules: Rules, losses: Sequence[Loss]) -> Verdict:
    """Run every checker."""
    verdict = Verdict()
    for name, operations in sorted(history.operations.items()):
        verdict.operations[name] = Counter(operation.outcome for operation in operations)
    checks: tuple[Callable[[Verdict, History, Final, Rules], None], ...] = (
        _clients,
        _registers,
        _revisions,
        _ledger,
        _sessions,
        _leaders,
        _tables,
        _greylist,
        _leases,
        _notices,
        _lists,
        _releases,
    )
    for check in checks:
        check(verdict, history, final, rules)
    writes = [(o.call, o.ret) for o in history.of("set", "cas", "add", outcome="ok")]
    verdict.gap = gaps.worst(losses, writes)
    return verdict


def _clients(verdict: Verdict, history: History, _final: Final, _rules: Rules) -> None:
    """A call may end in an error of the library and in nothing else."""
    broken = [f"{event['session']} ended with {event['error']}" for event in history.events if event["e"] == "broken"]
    sessions_seen = {operation.session for name in history.operations for operation in history.operations[name]}
    verdict.note("clients", len(sessions_seen), broken)


def _registers(verdict: Verdict, history: History, _final: Final, _rules: Rules) -> None:
    keys: dict[str, list[Step]] = defaultdict(list)
    for operation in history.of("read", "set", "cas"):
        step = _step(operation)
        if step is not None:
            keys[operation.asked["key"]].append(step)
    found, decided = [], 0
    for key, steps in keys.items():
        try:
            text = register.violation(steps)
        except register.Undecided as undecided:
            verdict.undecided.append(f"{key}: {undecided}")
            continue
        decided += len(steps)
        if text is not None:
            found.append(f"{key}: {text}")
    verdict.note("linearizable registers", decided, found)


def _step(operation: Operation) -> Step | None:
    """None for what did not take place or has shown nothing."""
    asked, call, ret, who = operation.asked, operation.call, operation.ret, operation.session
    if asked["op"] == "read":
        value = operation.result[1] if operation.result else None
        return Step(call, ret, "read", value, who=who) if operation.outcome == "ok" else None
    kind, expected = ("cas", asked["expected"]) if asked["op"] == "cas" else ("write", None)
    if operation.outcome != "never":
        return Step(call, ret, "cas" if kind == "cas" else "write", asked["value"], expected, who)
    if asked["code"] == "revision-mismatch":
        return Step(call, ret, "mismatch", asked["value"], expected, who)
    return None


def _revisions(verdict: Verdict, history: History, _final: Final, _rules: Rules) -> None:
    written = [
        Numbered(o.call, o.ret, o.result, f"{o.asked['key']} = {o.asked['value']}")
        for o in history.of("set", "cas", outcome="ok")
    ]
    found = order.violations(written)
    owners = {change.number: change.what for change in written}
    for operation in history.of("read", "local", outcome="ok"):
        if operation.result:
            revision, value = operation.result
            what = f"{operation.asked['key']} = {value}"
            if owners.setdefault(revision, what) != what:
                found.append(f"revision {revision} is {owners[revision]}, {operation.session} read {what}")
    verdict.note("configuration revisions", len(written), found)


def _ledger(verdict: Verdict, history: History, final: Final, _rules: Rules) -> None:
    operations = history.of("add")
    attempts = [Attempt(o.asked["name"], NAMES[o.outcome], o.result) for o in operations]
    counts = {name: count for name, count, _ in final.ledger}
    places = {name: place for name, _, place in final.ledger}
    verdict.note("exactly once, nothing lost, no phantom", len(attempts), once.violations(attempts, counts, places))
    earliest: dict[str, Numbered] = {}
    for operation in operations:
        if operation.outcome == "ok":
            change = Numbered(operation.call, operation.ret, operation.result, operation.asked["name"])
            known = earliest.get(change.what)
            earliest[change.what] = change if known is None or change.ret < known.ret else known
    # The place was given before the first answer, and after the first call of anybody who asked for it.
    calls: dict[str, float] = {}
    for operation in operations:
        calls.setdefault(operation.asked["name"], operation.call)
    placed = [change._replace(call=calls[change.what]) for change in earliest.values()]
    verdict.note("places follow real time", len(placed), order.violations(placed))


def _sessions(verdict: Verdict, history: History, _final: Final, _rules: Rules) -> None:
    sights = []
    for o in history.of("read", "local", "revision", "set", "cas", outcome="ok"):
        kind = o.asked["op"]
        if kind == "revision":
            sights.append(Sight(o.session, "the revision", o.result, "read", o.ret))
        elif kind in ("set", "cas"):
            sights.append(Sight(o.session, o.asked["key"], o.result, "write", o.ret))
            sights.append(Sight(o.session, "the revision", o.result, "write", o.ret))
        else:
            sights.append(Sight(o.session, o.asked["key"], o.result[0] if o.result else 0, "read", o.ret))
    for event in history.events:
        if event["e"] == "status":
            sights.append(Sight(event["process"], "the applied entry", event["applied_index"], "read", event["t"]))
            sights.append(Sight(event["process"], "the cluster's time", event["cluster_time_ms"], "read", event["t"]))
    verdict.note("monotonic sessions", len(sights), sessions.violations(sights))


def _leaders(verdict: Verdict, history: History, _final: Final, _rules: Rules) -> None:
    samples = [
        Sample(event["t"], event["node"], event["process"], event["term"], event["leader"], event["role"] == "leader")
        for event in history.events
        if event["e"] == "status"
    ]
    verdict.leader_changes = leadership.changes(samples)
    verdict.note("one leader per term", len(samples), leadership.violations(samples))


def _tables(verdict: Verdict, history: History, final: Final, _rules: Rules) -> None:
    digests = [Digest(e["process"], e["index"], e["hash"]) for e in history.events if e["e"] == "tables"]
    verdict.note("equal tables after equal entries", tables.compared(digests), tables.violations(digests))
    verdict.note("equal tables in the end", tables.compared(final.digests), tables.violations(final.digests))


def _greylist(verdict: Verdict, history: History, final: Final, rules: Rules) -> None:
    asked = history.of("check")
    checks = [_check(operation) for operation in asked]
    looks = [Look(str(o.asked["triplet"]), o.call, o.ret, o.result) for o in history.of("look", outcome="ok")]
    verdict.note("greylist", len(checks) + len(looks), greylisting.violations(checks, looks, rules))
    requests: dict[str, bool] = {}
    for number, operation in enumerate(asked):
        request = operation.asked["request"] or str(number)
        requests[request] = requests.get(request, False) or operation.decided
        if operation.outcome == "ok":
            verdict.verdicts["degraded" if operation.result[3] else operation.result[0]] += 1
    decided = sum(requests.values())
    verdict.note(
        "greylist counts",
        len(requests),
        greylisting.count_violations(decided, len(requests) - decided, final.counted),
    )


def _leases(verdict: Verdict, history: History, _final: Final, _rules: Rules) -> None:
    grants = [
        Grant(o.asked["name"], o.result, o.call, o.ret, o.session)
        for o in history.of("acquire", outcome="ok")
        if o.result
    ]
    beliefs = [Belief(e["name"], e["token"], e["since"], e["session"]) for e in history.events if e["e"] == "believes"]
    verdict.note("leases", len(grants) + len(beliefs), leases.violations(grants, beliefs))


NAMES: Mapping[str, Any] = {"ok": "done", "never": "never", "unknown": "unknown"}
"""What the checkers call the outcomes."""


def _notices(verdict: Verdict, history: History, final: Final, _rules: Rules) -> None:
    published = [Publication(o.asked["text"], NAMES[o.outcome], o.result) for o in history.of("publish")]
    seen = [Seen(o.asked["position"], NAMES[o.outcome], bool(o.result)) for o in history.of("acknowledge")]
    handed = [
        Handed(e["consumer"], e["subscription"], e["position"], e["text"]) for e in history.events if e["e"] == "handed"
    ]
    verdict.note("notifications", len(published) + len(seen), notices.violations(published, seen, final.notices))
    verdict.note("notifications handed on", len(handed), notices.stream_violations(handed, final.notices, HANDED_AGAIN))


def _lists(verdict: Verdict, history: History, final: Final, _rules: Rules) -> None:
    actions: Mapping[str, Any] = {"list": "add", "unlist": "remove"}
    changes = [Change(o.asked["name"], actions[o.asked["op"]], NAMES[o.outcome]) for o in history.of("list", "unlist")]
    found = [text for node, held in final.listed.items() for text in entries.violations(changes, held, node)]
    verdict.note("entries of lists", len(changes), found)


def _releases(verdict: Verdict, history: History, final: Final, _rules: Rules) -> None:
    asked = history.of("release")
    by_session: dict[str, list[Operation]] = defaultdict(list)
    for operation in asked:
        by_session[operation.session].append(operation)
    delivered = []
    for event in history.events:
        if event["e"] == "delivered":  # a releaser does one thing at a time
            mine = [each for each in by_session[event["session"]] if each.call < event["t"]][-1]
            told = mine.ret if mine.outcome == "ok" else math.inf
            delivered.append(Delivery(event["message"], event["t"], mine.call, told, event["session"]))
    refused = [Refusal(o.asked["message"], o.answered) for o in asked if o.asked["code"] == AlreadyDelivered.code]
    standings = {message: Standing(*row) for message, row in final.held.items()}
    found = releases.violations(delivered, refused, standings, CLAIM_SECONDS)
    verdict.note("releases of held messages", len(delivered), found)


def _check(operation: Operation) -> Check:
    asked = operation.asked
    request = f"{operation.session} {asked['request']}" if asked["request"] else ""
    if not operation.decided:
        return Check(str(asked["triplet"]), operation.call, operation.ret, None, request=request)
    action, reason, delayed, _ = operation.result
    return Check(str(asked["triplet"]), operation.call, operation.ret, action, reason, delayed, request)


def told(verdict: Verdict, faults: Mapping[str, int]) -> list[str]:
    """The report."""
    lines = [f"faults: {sum(faults.values())}"]
    lines += [f"  {name:24} {count}" for name, count in faults.items()]
    lines.append("operations (answered, never applied, outcome unknown):")
    for name, outcomes in verdict.operations.items():
        lines.append(f"  {name:24} {outcomes['ok']:7} {outcomes['never']:6} {outcomes['unknown']:6}")
    passed, deferred, degraded = (verdict.verdicts[name] for name in ("pass", "defer", "degraded"))
    lines.append(f"greylist verdicts: {passed} passed and {deferred} deferred by the cluster; {degraded} degraded")
    lines.append(f"leader changes: {verdict.leader_changes}")
    if verdict.gap is not None:
        lines.append(
            f"longest time without a write after a leader was lost: {verdict.gap.seconds:.2f} s ({verdict.gap.loss.what})"
        )
    if verdict.undecided:
        lines.append(f"registers not checked, too many operations overlap: {verdict.undecided}")
    lines.append("checked:")
    lines += [f"  {name:40} {count:7}" for name, count in verdict.checks.items()]
    return lines
