"""The accounts of leases, notifications, lists and held messages find what must not be: each lie is told once."""

from __future__ import annotations

from typing import Any

import pytest

from raftcluster import limits
from raftcluster.lease.machine import LeaseMachine
from raftcluster.notifications.machine import Notification, NotificationsMachine, Page
from raftcluster.quarantine import machine as quarantine
from raftcluster.quarantine.machine import Message, Release, check_claimable
from tests.simulation.leasing import Leasing
from tests.simulation.listing import Listing
from tests.simulation.notifying import Notifying
from tests.simulation.releasing import Releasing
from tests.simulation.simulation import simulate
from tests.simulation.timekeeping import Course

ACQUIRE = ["acquire", "job", "n1", "n1.test", 10_000, 0]


class Told(list[str]):
    """What was violated."""

    def __call__(self, kind: str, detail: str) -> None:
        self.append(f"{kind}: {detail}")


def leases(*told: tuple[list[Any], list[Any], int]) -> Told:
    """What is said of (command, result, stamp), each in an entry of its own."""
    found = Told()
    account = Leasing(found, lambda: 0.0, lambda _: Course(1, 0.0))
    for index, (command, result, stamp) in enumerate(told):
        account.told(command, result, stamp, (index, 1))
    return found


def test_a_lease_that_is_held_renewed_released_and_taken_over_is_well() -> None:
    assert (
        leases(
            (ACQUIRE, [0, [1, 10_000]], 0),
            (ACQUIRE, [1, "lease-held"], 9_999),
            (["renew", "job", 1, 5_000], [0, 14_000], 9_000),
            (["renew", "job", 1, 5_000], [1, "lease-lost"], 14_000),
            (ACQUIRE, [0, [2, 24_000]], 14_000),
            (["release", "job", 1], [0, False], 14_000),
            (["release", "job", 2], [0, True], 15_000),
            (ACQUIRE, [0, [7, 25_000]], 15_000),
        )
        == []
    )


def test_a_holder_may_be_told_before_its_predecessors_of_the_same_entry_are_looked_at() -> None:
    """Seed small/300315: all of an entry's results are told before the entry itself."""
    found = Told()
    account = Leasing(found, lambda: 0.0, lambda _: Course(1, 0.0))
    account.believed("job", 2, 0.0, 10.0)
    account.told(ACQUIRE, [0, [1, 10_000]], 0, (1, 1))
    account.told(["release", "job", 1], [0, True], 0, (1, 1))
    account.told(ACQUIRE, [0, [2, 10_000]], 0, (1, 1))
    assert found == []


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((ACQUIRE, [0, [2, 15_000]], 5_000), "is taken by"),
        ((ACQUIRE, [0, [1, 20_000]], 10_000), "the fencing token 1 of job follows 1"),
        ((ACQUIRE, [0, [2, 20_001]], 10_000), "until 20001"),
        ((ACQUIRE, [1, "lease-held"], 10_000), "is free"),
        ((["renew", "job", 1, 5_000], [0, 15_000], 10_000), "the renewal is told"),
        ((["renew", "job", 2, 5_000], [0, 10_000], 1_000), "the renewal is told"),
        ((["renew", "job", 1, 5_000], [0, 6_000], 1_000), "is renewed"),
        ((["renew", "job", 1, 5_000], [1, "lease-lost"], 1_000), "the renewal is told"),
        ((["release", "job", 2], [0, True], 1_000), "the release is told"),
        ((["release", "job", 1], [0, False], 1_000), "the release is told"),
    ],
)
def test_what_no_lease_may_be_told_is_seen(told: tuple[list[Any], list[Any], int], expected: str) -> None:
    assert expected in leases((ACQUIRE, [0, [1, 10_000]], 0), told)[0]


@pytest.mark.parametrize(
    ("now", "courses", "found"),
    [
        (8.9, (Course(1, 0.0), Course(1, 0.0)), 1),
        (8.9, (Course(1, 0.0), Course(1, 0.05)), 1),
        (8.9, (Course(1, 0.0), Course(1, 0.2)), 0),
        (8.9, (Course(1, 0.0), Course(2, 0.0)), 0),
        (9.1, (Course(1, 0.0), Course(1, 0.0)), 0),
    ],
)
@pytest.mark.parametrize("told_before", [True, False])
def test_two_who_believe_are_seen(now: float, courses: tuple[Course, Course], found: int, told_before: bool) -> None:
    """The second gets it when the first one, who asked at 0 for 10 s, believes for another moment; in either order."""
    violations, time = Told(), [0.0]
    account = Leasing(violations, lambda: time[0], lambda place: courses[place[0]])
    account.told(ACQUIRE, [0, [1, 10_000]], 0, (0, 1))
    time[0] = now
    if told_before:
        account.believed("job", 1, 0.0, 10.0)
    account.told(ACQUIRE, [0, [2, 20_000]], 10_000, (1, 1))
    if not told_before:
        account.believed("job", 1, 0.0, 10.0)
    assert len(violations) == found
    account.given_up("job", 1)


def publish(text: str, key: str = "", ttl: int = 5_000) -> list[Any]:
    return ["publish", "info", text, key, None, ttl, "n1"]


def notifications(*told: tuple[list[Any], list[Any], int]) -> tuple[Notifying, Told]:
    found = Told()
    account = Notifying(found, 3)
    for command, result, stamp in told:
        account.told(command, result, stamp)
        account.settle(stamp)
    return account, found


SOME = (
    (publish("a", "k"), [0, [1, True]], 0),
    (publish("b", "k"), [0, [1, False]], 1),
    (["acknowledge", 1, "x", "n1"], [0, [True, "x", "n1", 2]], 2),
    (["acknowledge", 1, "y", "n1"], [0, [False, "x", "n1", 2]], 3),
    (publish("c", "k"), [0, [2, True]], 4),
    (["advance", "pager", 2], [0, 2], 5),
    (["advance", "pager", 1], [0, 2], 6),
    (["seek", "pager", 1], [0, 1], 7),
    (["forget", "pager"], [0, True], 8),
    (["acknowledge", 9, "x", "n1"], [1, "rejected"], 8),
)


def test_notifications_as_they_should_be_are_well() -> None:
    account, found = notifications(*SOME)
    account.page("n1", 0, Page([_item(1, "a"), _item(2, "c")], 2), 9)
    account.page("n1", 0, Page([_item(2, "c")], 2), 5_001)
    account.finish({1, 2})
    assert found == []


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((publish("a"), [0, [3, True]], 9), "is published at 3 and at 1"),
        ((publish("d", "k"), [0, [3, True]], 9), "is open at 2 and published again"),
        ((publish("d", "other"), [0, [2, False]], 9), "its key is open at None"),
        ((publish("d"), [0, [4, True]], 9), "position 4 follows 2"),
        ((publish("d"), [1, "full"], 9), "is refused"),
        ((["acknowledge", 1, "z", "n1"], [0, [True, "z", "n1", 9]], 9), "is acknowledged by"),
        ((["acknowledge", 2, "z", "n1"], [1, "rejected"], 9), "is refused"),
        ((["acknowledge", 2, "z", "n1"], [0, [True, "z", "n1", 6_000]], 6_000), "it is gone"),
        ((["advance", "pager", 2], [0, 1], 9), "is told 1"),
        ((["forget", "pager"], [0, True], 9), "is told True"),
    ],
)
def test_what_no_notification_may_be_told_is_seen(told: tuple[list[Any], list[Any], int], expected: str) -> None:
    _, found = notifications(*SOME, told)
    assert expected in found[0]


def test_a_page_that_lacks_one_or_shows_another_is_seen() -> None:
    account, found = notifications(*SOME)
    account.page("n1", 0, Page([_item(1, "a")], 2), 9)
    account.page("n1", 0, Page([_item(1, "a"), _item(2, "b")], 2), 9)
    account.page("n1", 1, None, 9)
    account.finish({1})
    assert [text.split("'")[0] for text in found] == [
        "notifications: n1 lacks ",
        "notifications: n1 shows ",
        "notifications: n1 says that some after 1 were dropped; 0 was",
        "notifications: [",
    ]


def test_the_oldest_are_dropped_and_whoever_missed_them_is_told() -> None:
    account, found = notifications(*((publish(str(n)), [0, [n, True]], 0) for n in range(1, 5)))
    account.page("n1", 0, None, 0)
    assert (account.dropped, found) == (1, [])
    account.page("n1", 1, None, 0)
    assert len(found) == 1


def _item(position: int, text: str) -> Notification:
    return Notification(position, "info", text, "", None, "n1", 0, 5_000, 0, None)


ENTRY = ["allow", "client", "192.0.2.0/24", "", 1_000]
ADD = ["add", [ENTRY], "admin", "n1", "", False]
REMOVE = ["remove", [["rule", "client", "192.0.2.0/24"]], "admin", "n1", ""]
KEY = ("rule", "client", "192.0.2.0/24")


def lists(*told: tuple[list[Any], list[Any], int]) -> tuple[Listing, Told]:
    found = Told()
    account = Listing(found)
    for command, result, stamp in told:
        account.told(command, result, stamp)
    return account, found


def test_entries_that_come_go_and_end_are_well() -> None:
    account, found = lists(
        (ADD, [0, 1], 0),
        (ADD, [1, "entry-exists"], 999),
        (ADD, [0, 2], 1_000),
        (REMOVE, [0, 3], 1_500),
        (ADD, [0, 4], 1_600),
    )
    account.finish({KEY: ("allow", 2_600)}, 2_000)
    account.finish({}, 2_600)
    assert found == []


@pytest.mark.parametrize(
    ("told", "held"),
    [
        ((ADD, [0, 2], 500), {KEY: ("allow", 1_000)}),
        ((ADD, [0, 1], 1_000), {KEY: ("allow", 2_000)}),
        ((REMOVE, [1, "rejected"], 500), {KEY: ("allow", 1_000)}),
        ((REMOVE, [0, 2], 1_000), {KEY: ("allow", 1_000)}),
        ((REMOVE, [0, 2], 500), {KEY: ("allow", None)}),
        ((ADD, [1, "entry-exists"], 500), {}),
    ],
)
def test_what_no_list_may_be_is_seen(told: tuple[list[Any], list[Any], int], held: dict[Any, Any]) -> None:
    account, found = lists((ADD, [0, 1], 0), told)
    account.finish(held, 600)
    assert len(found) == 1


ID = bytes(16)
CAPTURE = ["capture", ID, [b"a", "", "", False, [[b"b", "", ""]]], bytes(32), 1, "ref", "", 60_000, "n1", bytes(32)]
CLAIM = ["claim", ID, 1, "n1", "n1.test", "admin", 1_000]


def finish(token: int, delivered: bool = True) -> list[Any]:
    return ["finish", ID, 1, token, delivered, "250", "admin", "n1.test"]


DISCARD = ["discard", ID, "admin", "n1.test"]


def releases(*told: tuple[list[Any], list[Any], int]) -> tuple[Releasing, Told]:
    found = Told()
    account = Releasing(found, Leasing(found, lambda: 0.0, lambda _: Course(1, 0.0)))
    for index, (command, result, stamp) in enumerate(told):
        account.told(command, result, stamp, (index, 1))
    return account, found


HELD: Any = (CAPTURE, [0, [0, 60_000]], 0)
GIVEN: Any = (CLAIM, [0, [1, 1_000]], 0)
REFUSED = [1, "quarantine-claimed"]
GONE = [1, "quarantine-unknown"]


def test_a_message_that_is_held_claimed_failed_and_delivered_is_well() -> None:
    account, found = releases(
        HELD,
        GIVEN,
        (CLAIM, REFUSED, 999),
        (DISCARD, REFUSED, 999),
        (finish(1, False), [0, True], 999),
        (CLAIM, [0, [2, 2_000]], 1_000),
        (CLAIM, [0, [3, 3_000]], 2_000),
        (finish(2, False), [1, "quarantine-claim-lost"], 2_000),
        (finish(2), [0, True], 2_000),
        (finish(2), [0, True], 2_000),
        (CLAIM, [1, "quarantine-delivered"], 2_000),
        (finish(3), [0, False], 2_000),
    )
    account.finish({(ID, 1): ("delivered", 2)}, {ID}, 2_000)
    assert (found, account.delivered) == ([], 1)
    account.told(DISCARD, [0, True], 2_000, (99, 1))
    account.told(CLAIM, GONE, 2_000, (100, 1))
    account.finish({}, set(), 2_000)
    assert found == []


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ((CLAIM, [0, [2, 1_999]], 999), "lease: "),
        ((CLAIM, [0, [1, 2_000]], 1_000), "the fencing token 1"),
        ((CLAIM, [0, [2, 2_001]], 1_000), "is granted at 1000 for 1000 ms, until 2001"),
        ((CLAIM, REFUSED, 1_000), "is free at 1000"),
        ((CLAIM, GONE, 1_000), "is free at 1000"),
        ((CLAIM, [0, [2, 61_000]], 60_000), "not [1, 'quarantine-unknown']"),
        ((finish(1), [0, False], 500), "not [0, True]"),
        ((finish(1), GONE, 500), "not [0, True]"),
        ((finish(2), [0, True], 500), "not [1, 'quarantine-claim-lost']"),
        ((DISCARD, [0, True], 999), "not [1, 'quarantine-claimed']"),
        ((CAPTURE, [0, [1, 60_001]], 1), "not [0, [0, 60000]]"),
    ],
)
def test_what_no_release_may_be_told_is_seen(told: tuple[list[Any], list[Any], int], expected: str) -> None:
    _, found = releases(HELD, GIVEN, told)
    assert expected in found[0]


def test_what_was_delivered_is_handed_out_no_more_and_not_lost() -> None:
    account, found = releases(HELD, GIVEN, (finish(1), [0, True], 500), (CLAIM, [0, [2, 1_500]], 500))
    assert "not [1, 'quarantine-delivered']" in found[0]
    account.finish({(ID, 1): ("delivered", 1)}, {ID}, 600)
    assert len(found) == 1
    account.finish({(ID, 1): ("claimed", 1)}, set(), 600)
    assert [text.split(" ", 2)[2] for text in found[1:]] == [
        "is lost",
        "is held as ('claimed', 1), it is delivered, delivered 1 times",
    ]


# ---- whole runs with a machine, or a holder, that is wrong


def violated(seeds: int, profile: str = "static") -> str:
    for seed in range(seeds):
        violations = simulate(profile, seed).violations
        if violations:
            return violations[0]
    pytest.fail(f"{seeds} seeds of {profile}, and nothing was seen")


def test_a_holder_that_believes_for_too_long_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASE_BELIEF", 1.5)
    assert "believes for" in violated(20)


def test_a_lease_machine_that_forgets_its_tokens_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On all nodes alike: equal tables show nothing."""
    applied = LeaseMachine.apply

    def forgetful(self: LeaseMachine, command: Any, tables: Any, time: int) -> Any:
        if command[0] == "acquire" and command[1] == "sync":
            tables.delete("state", b"token")
        return applied(self, command, tables, time)

    monkeypatch.setattr(LeaseMachine, "apply", forgetful)
    assert "lease: the fencing token 1 of sync follows" in violated(20)


def test_a_release_that_is_handed_out_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On all nodes alike, and only when both ask within half a second."""

    def lax(message: Message, release: Release, time: int) -> None:
        if release.state == "claimed" and time < release.until - 500:
            check_claimable(message, release, time)

    monkeypatch.setattr(quarantine, "check_claimable", lax)
    assert violated(60).startswith(("quarantine: ", "lease: "))


def test_a_notification_that_is_swept_too_early_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    ticked = NotificationsMachine.tick
    monkeypatch.setattr(NotificationsMachine, "tick", lambda self, tables, time: ticked(self, tables, time + 2_000))
    assert violated(20).startswith("notifications: ")
