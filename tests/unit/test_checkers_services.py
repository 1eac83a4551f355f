"""The checkers of leases, notifications and entries: what is well passes, what is planted is found."""

from __future__ import annotations

import math

import pytest

from tests.checkers import entries, leases, notices, releases
from tests.checkers.entries import Change
from tests.checkers.leases import Belief, Grant
from tests.checkers.notices import Handed, Publication, Seen
from tests.checkers.releases import Delivery, Refusal, Standing

GRANTS = [Grant("job", 1, 0.0, 0.1, "a"), Grant("other", 2, 0.5, 0.6, "c"), Grant("job", 3, 4.0, 5.0, "b")]
BELIEFS = [
    Belief("job", 1, 0.2, "a"),
    Belief("job", 1, 4.9, "a"),
    Belief("job", 3, 5.1, "b"),
    Belief("other", 2, 9.0, "c"),
]


def one(found: list[str], words: str) -> None:
    assert len(found) == 1 and words in found[0], found


def test_leases_as_they_should_be() -> None:
    assert leases.violations(GRANTS, BELIEFS) == []


@pytest.mark.parametrize(
    ("grants", "beliefs", "words"),
    [
        ([], [Belief("job", 1, 5.1, "a")], "b was given 3 at 5.000"),
        ([], [Belief("job", 7, 5.1, "a")], "which nobody gave it"),
        ([], [Belief("job", 3, 5.1, "a")], "which nobody gave it"),
        ([Grant("job", 3, 6.0, 6.1, "d")], [], "number 3 was given to"),
        ([Grant("third", 2, 6.0, 6.1, "d")], [], "was given to"),
    ],
)
def test_two_holders_and_tokens_that_do_not_rise_are_found(
    grants: list[Grant], beliefs: list[Belief], words: str
) -> None:
    assert words in leases.violations([*GRANTS, *grants], [*BELIEFS, *beliefs])[0]


FIRST = Delivery("m", 1.0, 0.5, 1.2, "a")
LOST = FIRST._replace(told=math.inf)
HELD = {"m": Standing("delivered", 1)}


def test_releases_as_they_should_be() -> None:
    assert releases.violations([FIRST], [Refusal("m", 1.1), Refusal("m", 9.0)], HELD, 2.0) == []
    late = Delivery("m", 2.6, 2.4, 2.7, "b")
    assert releases.violations([LOST, late], [], HELD, 2.0) == [], "the first one crashed; its claim had ended"
    assert releases.violations([LOST, late], [], {"m": Standing("delivered", 2)}, 2.0) == []
    assert releases.violations([LOST], [], {"m": Standing("failed", 0)}, 2.0) == []
    assert releases.violations([], [], {"m": Standing("claimed", 0)}, 2.0) == []


@pytest.mark.parametrize(
    ("delivered", "refused", "held", "words"),
    [
        ([LOST, Delivery("m", 2.2, 1.4, 2.3, "b")], [], HELD, "delivered by b 1.700 s after a had asked to"),
        ([FIRST, Delivery("m", 9.0, 8.9, 9.1, "b")], [], {"m": Standing("delivered", 2)}, "which a had done"),
        ([FIRST], [Refusal("m", 0.9)], HELD, "which nobody had done"),
        ([], [Refusal("m", 0.9)], {}, "which nobody had done"),
        ([FIRST], [], {"m": Standing("delivered", 2)}, "counts 2 deliveries of 1, 1 acknowledged"),
        ([FIRST], [], {"m": Standing("failed", 0)}, "counts 0 deliveries of 1, 1 acknowledged"),
        ([FIRST], [], {"m": Standing("failed", 1)}, "is failed after 1 deliveries"),
        ([FIRST], [], {}, "was delivered and is lost"),
    ],
)
def test_a_message_that_is_handed_out_twice_or_lost_is_found(
    delivered: list[Delivery], refused: list[Refusal], held: dict[str, Standing], words: str
) -> None:
    one(releases.violations(delivered, refused, held, 2.0), words)


PUBLISHED = [
    Publication("a", "done", 1),
    Publication("b", "unknown"),
    Publication("c", "never"),
    Publication("d", "unknown"),
]
SEEN = [Seen(1, "done", True), Seen(1, "done", False), Seen(1, "unknown"), Seen(2, "never")]
THERE = {1: "a", 2: "b"}


def test_notifications_as_they_should_be() -> None:
    assert notices.violations(PUBLISHED, SEEN, THERE) == []


@pytest.mark.parametrize(
    ("published", "seen", "there", "words"),
    [
        ([Publication("e", "done", 3)], [], {}, "e was acknowledged at 3 and is at []"),
        ([Publication("e", "done", 3)], [], {4: "e"}, "is at [4]"),
        ([], [], {3: "b"}, "b is there 2 times"),
        ([], [], {3: "c"}, "though its publisher was told that it never will be"),
        ([], [], {3: "x"}, "nobody has published it"),
        ([], [Seen(1, "done", True)], {}, "2 were told to be the first"),
    ],
)
def test_what_is_lost_or_repeated_is_found(
    published: list[Publication], seen: list[Seen], there: dict[int, str], words: str
) -> None:
    one(notices.violations([*PUBLISHED, *published], [*SEEN, *seen], THERE | there), words)


STREAM = {n: str(n) for n in range(1, 8)}


def handed(**subscriptions: list[int]) -> list[Handed]:
    return [Handed("pager", name, n, str(n)) for name, positions in subscriptions.items() for n in positions]


def test_a_stream_that_goes_on_where_it_was() -> None:
    assert notices.stream_violations(handed(a=[1, 2, 3], b=[2, 3, 4, 5], c=[6]), STREAM, 2) == []
    assert notices.stream_violations(handed(a=[1, 3], b=[4]), {1: "1", 3: "3", 4: "4"}, 2) == [], (
        "positions need not be dense"
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (handed(a=[1, 2, 4]), "was not handed ['3']"),
        (handed(a=[1, 2], b=[4]), "was not handed ['3']"),
        (handed(a=[1, 2, 3], b=[1, 2, 3, 4]), "was handed 3 again"),
        (handed(a=[1, 2, 2, 3]), "goes back: [(2, 2)]"),
        ([*handed(a=[1]), Handed("pager", "a", 2, "x")], "where 2 is"),
    ],
)
def test_what_a_consumer_misses_or_gets_again_is_found(rows: list[Handed], words: str) -> None:
    one(notices.stream_violations(rows, STREAM, 2), words)


CHANGES = [
    Change("a", "add", "done"),
    Change("b", "add", "done"),
    Change("b", "remove", "done"),
    Change("c", "add", "unknown"),
    Change("d", "add", "never"),
    Change("e", "add", "done"),
    Change("e", "remove", "unknown"),
]


@pytest.mark.parametrize("there", [["a"], ["a", "c"], ["a", "e"]])
def test_entries_as_they_should_be(there: list[str]) -> None:
    assert entries.violations(CHANGES, there, "mx1") == []


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([], "mx1 lacks a"),
        (["a", "b"], "mx1 has b"),
        (["a", "d"], "mx1 has d"),
        (["a", "x"], "mx1 has x"),
    ],
)
def test_an_entry_that_is_missing_or_should_be_gone_is_found(there: list[str], words: str) -> None:
    one(entries.violations(CHANGES, there, "mx1"), words)
