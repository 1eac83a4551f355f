"""What a hostile, careless or unlucky caller of the configuration meets: typed errors, nothing half-applied, nothing lost."""

from __future__ import annotations

import datetime
import enum
import threading
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from raftcluster import codec, limits
from raftcluster.config.api import Config
from raftcluster.config.machine import ConfigMachine
from raftcluster.config.reading import VALUES
from raftcluster.config.rules import InvalidValue, RevisionMismatch, ValueTooLarge, canonical
from raftcluster.config.schema import Judge, check_document, check_setting
from raftcluster.errors import FrameError, Rejected, Unavailable
from tests.helpers import eventually
from tests.local_host import LocalHost, MemoryRows


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([ConfigMachine()])


@pytest.fixture
def config(host: LocalHost) -> Config:
    return Config(host, MemoryRows())


class Small(enum.IntEnum):
    """No plain integer."""

    ONE = 1


class Text(str):
    """No plain text."""


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


# --- what is none is refused with a typed error, before anything is sent

NONSENSE: dict[str, Callable[[Config], object]] = {
    "a change without its key": lambda c: c.transact([], [("set",)]),
    "an empty change": lambda c: c.transact([], [()]),
    "no change": lambda c: c.transact([], [None]),  # type: ignore[list-item]
    "a key that is a list": lambda c: c.transact([], [("delete", ["a"])]),
    "an empty condition": lambda c: c.transact([()], [("set", "a", 1)]),
    "a condition of another kind": lambda c: c.transact([("a", "size", 1)], [("set", "a", 1)]),
    "a condition on a revision of 80 bits": lambda c: c.set("a", 1, expect_revision=2**80),
    "a condition on a negative revision": lambda c: c.set("a", 1, expect_revision=-1),
    "a condition on a revision that is text": lambda c: c.set("a", 1, expect_revision="1"),  # type: ignore[arg-type]
    "a condition on a revision that is true": lambda c: c.set("a", 1, expect_revision=True),
    "a condition on NaN": lambda c: c.transact([("a", "value", float("nan"))], [("set", "a", 1)]),
    "a condition on a value that contains itself": lambda c: c.transact(
        [("a", "value", nested(500))], [("set", "a", 1)]
    ),
    "a node's name that is two segments": lambda c: c.set("a", 1, node="mx1/antispam"),
    "a node's name that is none": lambda c: c.set("a", 1, node=""),
    "a node's name in capitals": lambda c: c.delete("a", node="MX1"),
    "a time that is none": lambda c: c.revision_at(float("nan")),
    "the end of time": lambda c: c.revision_at(float("inf")),
    "a time before all": lambda c: c.revision_at(-1.0),
    "a prefix that is no text": lambda c: c.keys(5),  # type: ignore[arg-type]
    "a prefix beyond ASCII": lambda c: c.log("\u00e9"),
    "a prefix of half a character": lambda c: c.at(0, "\ud800"),
    "a prefix longer than a key": lambda c: c.keys("a" * 600),
    "a page before a huge revision": lambda c: c.log(before=2**80),
    "a page before a negative revision": lambda c: c.log(before=-1),
    "a negative revision": lambda c: c.at(-1),
    "a huge revision": lambda c: c.diff(0, 2**80),
    "a revision that is not there": lambda c: c.rollback(1),
    "a watch since before the first": lambda c: next(c.watch(since=-1)),
    "a watch since what has not happened": lambda c: next(c.watch(since=1)),
    "a version of a schema that is text": lambda c: c.register("a", Settings, version="1"),  # type: ignore[arg-type]
    "a version of a schema that is none": lambda c: c.register("a", Settings, version=0),
    "a type without a schema": lambda c: c.register("a", Odd),
    "a NaN": lambda c: c.set("a", float("nan")),
    "an infinity within": lambda c: c.set("a", [{"b": float("-inf")}]),
    "65 bits": lambda c: c.set("a", 2**64),
    "64 bits below": lambda c: c.set("a", -(2**63) - 1),
    "a date": lambda c: c.set("a", datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)),
    "an extension type": lambda c: c.set("a", [msgpack.Ext(5, b"x")]),
    "an enum": lambda c: c.set("a", Small.ONE),
    "text of another type": lambda c: c.set("a", Text("x")),
    "keys that are numbers": lambda c: c.set("a", {1: 2}),
    "half a character": lambda c: c.set("a", ["\udcff"]),
    "a million levels": lambda c: c.set("a", nested(1_000_000)),
    "a deadline that is over": lambda c: c.set("a", 1, deadline=0.0),
}


class Odd(msgspec.Struct):
    """Of a type that no schema can describe."""

    value: complex = 0j


class Settings(msgspec.Struct):
    """What is registered."""

    limit: int = 0
    names: list[str] = []


@pytest.mark.parametrize("what", list(NONSENSE))
def test_nonsense_is_refused_by_name_and_nothing_is_sent(host: LocalHost, config: Config, what: str) -> None:
    with pytest.raises((Rejected, Unavailable)):
        NONSENSE[what](config)
    assert host.proposals == 0
    assert not any(host.tables["config"].rows.values())


def test_bytes_that_another_program_has_packed_are_no_way_around() -> None:
    """An extension type, a timestamp: the decoder refuses what no value may be."""
    host = LocalHost([ConfigMachine()])
    for packed in (msgpack.encode(msgpack.Ext(5, b"x")), msgpack.encode(datetime.datetime.now(datetime.UTC))):
        with pytest.raises(FrameError):
            codec.check_nesting(codec.unpack(packed))
        with pytest.raises(Rejected):
            host.propose("config", ["part", sha256(packed).digest(), len(packed), 0, packed])


# --- keys


def test_the_longest_key_can_be_overridden_on_the_node_of_the_longest_name(host: LocalHost, config: Config) -> None:
    key, node = "k" * limits.CONFIG_KEY_BYTES, "n" * limits.NAME_BYTES
    host.name = node
    config.set(key, 1)
    config.set(key, 2, node=node)
    assert (config.get(key), config.entry(key).value) == (2, 1)  # type: ignore[union-attr]
    assert [each.value for each in config.history(f"nodes/{node}/{key}")] == [2]
    assert list(config.at(2)) == [key, f"nodes/{node}/{key}"]
    assert config.rollback(1) == 3 and config.get(key) == 1
    assert config.verify().bad is None
    for wrong in (key + "k", f"nodes/{node}/{key}k", f"nodes/{node}n/k"):
        with pytest.raises(Rejected):
            config.set(wrong, 1)


@given(st.text(max_size=8))
def test_no_two_spellings_of_a_key_are_one_key(text: str) -> None:
    """There is nothing to normalise: keys are ASCII in lower case."""
    host = LocalHost([ConfigMachine()])
    try:
        Config(host, MemoryRows()).set(text, 1)
    except Rejected:
        assert not host.tables["config"].rows[VALUES]
    else:
        assert list(host.tables["config"].rows[VALUES]) == [text.encode()]
        assert text == text.lower() and text.isascii()


# --- values


def test_zero_below_zero_is_a_value_of_its_own(config: Config) -> None:
    config.set("a", 0.0)
    config.set("a", -0.0)
    assert str(config.get("a")) == "-0.0"
    assert [each.key for each in config.diff(1)] == ["a"]
    with pytest.raises(RevisionMismatch):
        config.transact([("a", "value", 0.0)], [("set", "a", 1)])
    assert config.transact([("a", "value", -0.0)], [("set", "a", 1)]) == 3


def test_a_value_is_compared_as_what_it_is_and_not_as_how_it_was_filled(config: Config) -> None:
    config.set("a", {"x": 1, "y": [{"p": 1, "q": 2}]})
    for other in ({"x": True, "y": [{"p": 1, "q": 2}]}, {"x": 1, "y": [{"p": 1.0, "q": 2}]}, {"x": 1}):
        with pytest.raises(RevisionMismatch):
            config.transact([("a", "value", other)], [("set", "a", 1)])
    assert config.transact([("a", "value", {"y": [{"q": 2, "p": 1}], "x": 1})], [("set", "a", 1)]) == 2


VALUES_OF_ALL_KINDS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(VALUES_OF_ALL_KINDS)
def test_what_can_be_set_comes_back_as_it_was(value: Any) -> None:
    host = LocalHost([ConfigMachine()])
    config = Config(host, MemoryRows())
    config.set("a", value)
    assert codec.pack(config.get("a")) == codec.pack(value)
    assert config.transact([("a", "value", value)], [("set", "a", value)]) == 2
    assert config.diff(1) == [] and config.verify().bad is None
    host.machines["config"].inspect(VALUES, b"a", host.tables["config"].rows[VALUES][b"a"])  # type: ignore[attr-defined]


@given(VALUES_OF_ALL_KINDS, VALUES_OF_ALL_KINDS)
def test_canonical_bytes_tell_values_apart(one: Any, other: Any) -> None:
    assert (canonical(one) == canonical(other)) == (_text(one) == _text(other))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{name!r}:{_text(value[name])}" for name in sorted(value)) + "}"
    return "[" + ",".join(map(_text, value)) + "]" if isinstance(value, list) else repr(value)


def test_all_values_of_a_transaction_are_bounded_together(config: Config) -> None:
    with pytest.raises(ValueTooLarge, match="in one transaction"):
        config.transact([], [("set", f"k/{n}", [0] * 10_000) for n in range(8)])
    assert config.revision() == 0


def test_at_a_node_that_trails_a_watch_waits_until_the_cluster_can_say(host: LocalHost, config: Config) -> None:
    """It was at another node before, which had applied more; without a quorum nobody knows whether that was so."""
    asked, query = threading.Event(), host.query

    def noticed(*arguments: Any, **more: Any) -> Any:
        if more.get("consistency") == "linearizable":
            asked.set()
        return query(*arguments, **more)

    host.query = noticed  # type: ignore[method-assign]
    host.failure = Unavailable("no quorum")
    seen: list[int] = []
    watch = config.watch(since=2)
    thread = threading.Thread(target=lambda: seen.extend(each.revision for each in watch))
    thread.start()
    assert asked.wait(60)
    assert thread.is_alive() and seen == []
    host.entry("config", [["set", "a", number, "", "", "mx1", None] for number in range(4)])  # it catches up
    host.failure = None
    eventually(lambda: seen == [3, 4], what="what comes after revision 2")
    watch.close()
    thread.join(60)
    assert not thread.is_alive()


# --- schemas


def test_a_schema_tells_true_from_one_at_any_depth() -> None:
    document = {"properties": {"a": {"enum": [[1], {"n": 0}]}}}
    check_document(document)
    good: list[Any] = [[1], {"n": 0}]
    bad: list[Any] = [[True], {"n": False}, [1.0], 1]
    for value in good:
        check_setting(document, "p", "p/a", value, Judge())
    for value in bad:
        with pytest.raises(InvalidValue):
            check_setting(document, "p", "p/a", value, Judge())


def test_a_schema_cannot_keep_all_nodes_busy(config: Config, host: LocalHost) -> None:
    """Kinds within kinds: each doubles the work on what does not fit."""
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(11):
        schema = {"anyOf": [{"type": "string"}, schema]}
    document = {"properties": {"a": {"items": schema}}}
    host.propose("config", ["schema", "p", 1, document])
    config.set("p/a", [None, "x"])
    with pytest.raises(InvalidValue, match="steps to be judged"):
        config.set("p/a", [None] * 30_000)
    assert config.revision() == 1


def test_overrides_that_are_set_are_judged_when_a_schema_comes(config: Config) -> None:
    config.set("antispam/limit", 1)
    config.set("antispam/limit", "many", node="mx2")
    config.set("antispam/limit", "many", node="mx20")
    config.set("antispams/limit", "more", node="mx1")
    config.set("other/antispam/limit", "more", node="mx1")
    for node in ("mx2", "mx20"):
        with pytest.raises(InvalidValue, match=f"nodes/{node}/antispam/limit: antispam/limit takes integer"):
            config.register("antispam", Settings)
        assert config.schemas() == []
        config.set("antispam/limit", 2, node=node)
    config.set("antispam/unknown", 1, node="mx3")
    with pytest.raises(InvalidValue, match="antispam has no setting unknown"):
        config.register("antispam", Settings)
    config.delete("antispam/unknown", node="mx3")
    assert config.register("antispam", Settings) == 1
    config.set("antispam/names", ["x"], node="mx2")


def test_all_that_is_set_is_judged_however_much_it_is(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCAN_ROWS", 3)
    model = msgspec.defstruct("Many", [(f"n{number}", int, 0) for number in range(10)])
    for number in range(10):
        config.set(f"many/n{number}", "x" if number == 9 else 1)
    with pytest.raises(InvalidValue, match="many/n9"):
        config.register("many", model)
    config.set("many/n9", 1)
    assert config.register("many", model) == 1
    for number in range(4):
        config.set("many/n0", 1, node=f"mx{number}")
    with pytest.raises(Rejected, match="more than 3 nodes"):
        config.register("many", model, version=2)


# --- changes that race


def test_no_update_is_lost(host: LocalHost) -> None:
    """Ten threads at two nodes' APIs count together, each conditional on what it has read."""
    config = Config(host, MemoryRows())
    config.set("n", 0)
    conflicts: list[int] = []

    def count() -> None:
        done = 0
        while done < 30:
            entry = config.entry("n")
            assert entry is not None
            try:
                config.set("n", entry.value + 1, expect_revision=entry.revision)
                done += 1
            except RevisionMismatch:
                conflicts.append(1)

    threads = [threading.Thread(target=count) for _ in range(10)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert config.get("n") == 300
    assert config.revision() == 301


def test_only_one_of_two_creates_a_key_and_a_deleted_one_counts_as_absent(config: Config) -> None:
    assert config.set("a", 1, expect_revision=0) == 1
    with pytest.raises(RevisionMismatch):
        config.set("a", 2, expect_revision=0)
    config.delete("a")
    with pytest.raises(RevisionMismatch):
        config.set("a", 2, expect_revision=1)
    with pytest.raises(RevisionMismatch):
        config.transact([("a", "value", None)], [("set", "a", 2)])
    assert config.transact([("a", "revision", 0)], [("set", "a", None)]) == 3
    assert config.transact([("a", "value", None)], [("delete", "a")]) == 4


def test_a_rollback_brings_back_what_was_deleted_and_takes_away_what_was_not_there(config: Config) -> None:
    config.set("a", 1)
    config.delete("a")
    config.set("b", 1)
    assert config.rollback(2) == 4 and config.keys() == []
    assert config.rollback(1) == 5 and config.keys() == ["a"]
    assert config.rollback(0) == 6 and config.keys() == []
    assert [each.deleted for each in config.history("a")] == [True, False, True, False]
    with pytest.raises(Rejected, match="not set"):
        config.delete("a")


def test_a_rollback_to_what_the_schema_of_today_does_not_take_changes_nothing(config: Config) -> None:
    config.transact([], [("set", "antispam/limit", "old"), ("set", "z", 1)])
    config.transact([], [("set", "antispam/limit", 1), ("set", "z", 2)])
    config.register("antispam", Settings)
    with pytest.raises(InvalidValue):
        config.rollback(1)
    assert (config.get("z"), config.revision()) == (2, 2)
    assert config.rollback(1, "z") == 3


def test_pages_of_the_log_part_no_revision(config: Config) -> None:
    for number in range(5):
        config.transact([], [("set", f"{key}", number) for key in "abc"])
    found, before = [], None
    while page := config.log(limit=2, before=before):
        found += page
        before = page[-1].revision
    assert [(each.revision, each.key) for each in found] == [(n, key) for n in (5, 4, 3, 2, 1) for key in "abc"]
    assert config.history("a", 0) == [] and [each.value for each in config.history("a", 2)] == [4, 3]


def test_times_before_what_is_listed_are_forgotten_and_not_guessed(
    host: LocalHost, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONFIG_CHANGES", 3)
    at = host.now / 1000
    for number in range(6):
        config.set(f"k{number}", number)
        host.now += 1000
    assert [config.revision_at(at + n) for n in (3, 4, 5, 99)] == [4, 5, 6, 6]
    with pytest.raises(Rejected) as caught:
        config.revision_at(at + 2)
    assert caught.value.code == "forgotten"
    assert [each.key for each in config.log()] == ["k5", "k4", "k3"]
    assert config.at(1)["k0"].value == 0, "what a key was is kept as long as its history"
