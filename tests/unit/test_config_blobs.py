"""Large values: uploaded in parts, seen as a whole or not at all, kept as long as somebody refers to them and no longer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcluster import codec, limits
from raftcluster.config.api import Config
from raftcluster.config.blobs import BLOBS, PARTS, STATE, UPLOADING, UPLOADS, parts_of
from raftcluster.config.machine import ConfigMachine
from raftcluster.config.rules import CyclicValue, InvalidValue, RevisionMismatch, ValueTooLarge
from raftcluster.errors import OutcomeUnknown, Rejected, Unavailable
from tests.local_host import LocalHost, MemoryRows

LARGE = 600_000
"""Bytes: more than a whole log entry may have."""


def text(salt: int, size: int = LARGE) -> str:
    return random.Random(salt).randbytes(size // 2).hex()


class Rules(msgspec.Struct):
    """A setting that may be large."""

    body: str = ""
    limit: int = 0


class Filter(msgspec.Struct):
    """What is registered."""

    rules: Rules | None = None


class Host(LocalHost):
    """Something may go wrong with any proposal: `troubles` are raised, one each, before or after it is carried out."""

    def __init__(self) -> None:
        super().__init__([ConfigMachine()])
        self.troubles: list[tuple[str, Exception] | None] = []
        self.sent: list[str] = []

    def propose(self, machine: str, command: Any, *, id: bytes | None = None, deadline: float = 2.0) -> Any:
        assert len(codec.pack(command)) <= limits.OPERATION_BYTES, "no command is longer than an operation"
        self.sent.append(command[0])
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is not None and trouble[0] == "before":
            raise trouble[1]
        result = super().propose(machine, command, id=id, deadline=deadline)
        if trouble is not None:
            raise trouble[1]
        return result

    def rows(self, table: str) -> int:
        return len(self.tables["config"].rows[table])

    def leftovers(self) -> tuple[int, int, int]:
        return self.rows(BLOBS), self.rows(PARTS), self.rows(UPLOADS)

    def expire(self) -> None:
        """Time passes, and something is applied."""
        self.now += int(limits.CONFIG_UPLOAD_SECONDS * 1000)
        with pytest.raises(Rejected):
            LocalHost.propose(self, "config", None)

    def claimed(self) -> int:
        return int.from_bytes(self.tables["config"].get(STATE, UPLOADING) or b"")


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def config(host: Host) -> Iterator[Config]:
    config = Config(host, MemoryRows())
    yield config
    config.close()


def test_a_large_value_is_seen_whole_everywhere(host: Host, config: Config) -> None:
    first, second = {"text": text(1), "n": [1, None]}, text(2, limits.CONFIG_VALUE_BYTES - 6) + "x"
    assert len(codec.pack(first)) > limits.ENTRY_BYTES and len(codec.pack(second)) == limits.CONFIG_VALUE_BYTES
    with config.watch("a", since=0) as watch:
        assert config.set("a", first, reason="why") == 1
        assert config.set("a", 5) == 2
        assert config.set("a", second) == 3
        assert config.delete("a") == 4
        changes = [next(watch) for _ in range(4)]
    assert [each.value for each in changes] == [first, 5, second, None]
    assert changes[0][3:6] == ("", "why", host.name)
    assert [each.value for each in config.history("a")] == [None, second, 5, first]
    assert [each.value for each in config.log()] == [None, second, 5, first]
    assert config.at(1)["a"].value == first and config.at(3)["a"].value == second
    ((_, before, after),) = config.diff(1, 3)
    assert before and after and (before.value, after.value) == (first, second)
    host.sent.clear()
    assert config.rollback(1) == 5 and config.get("a") == first
    assert host.sent == ["transact"], "the cluster has that value: nothing is uploaded again"
    assert config.verify().bad is None
    assert host.rows(UPLOADS) == host.claimed() == 0 and host.rows(BLOBS) == 2


def test_a_large_value_is_compared_and_conditional(host: Host, config: Config) -> None:
    value = {"b": text(1), "a": 1}
    config.set("a", value)
    with pytest.raises(RevisionMismatch):
        config.set("a", text(2), expect_revision=0)
    with pytest.raises(RevisionMismatch):
        config.transact([("a", "value", {"b": text(2), "a": 1})], [("set", "a", 1)])
    for small in ({"b": "", "a": 1}, None, text(1, 100)):
        with pytest.raises(RevisionMismatch):
            config.transact([("a", "value", small)], [("set", "a", 1)])
    assert config.transact([("a", "value", {"a": 1, "b": text(1)})], [("set", "a", text(3))]) == 2
    host.expire()
    assert host.leftovers() == (2, 10, 0), "what the refused ones had uploaded is gone"


def test_values_that_together_are_too_long_for_a_command_are_set_at_one_revision(host: Host, config: Config) -> None:
    changes = [("set", f"k/{number}", text(number, 20_000)) for number in range(40)]
    assert config.transact([], changes) == 1
    assert {key: each.value for key, each in config.at(1).items()} == {key: value for _, key, value in changes}
    with pytest.raises(ValueTooLarge, match="in one transaction"):
        config.transact([], [("set", f"l/{number}", text(number, 1_000_000)) for number in range(5)])
    with pytest.raises(ValueTooLarge, match="in one transaction"):
        config.transact([], [("set", f"l/{n}", [n] * (limits.CONFIG_VALUE_ITEMS - 1)) for n in range(5)])
    assert config.revision() == 1


def test_what_is_no_value_is_not_uploaded(host: Host, config: Config) -> None:
    cyclic: list[Any] = [text(1)]
    cyclic.append(cyclic)
    for error, value in (
        (CyclicValue, cyclic),
        (ValueTooLarge, text(1, limits.CONFIG_VALUE_BYTES)),
        (ValueTooLarge, ["x" * 40] * (limits.CONFIG_VALUE_ITEMS + 1)),
        (Rejected, [text(1), float("nan")]),
        (Rejected, [text(1), 2**64]),
    ):
        with pytest.raises(error):
            config.set("a", value)
    assert host.sent == []


def test_a_value_that_leaves_one_keys_history_may_come_to_another_key(
    host: Host, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its oldest version referred to it: with that it was gone before the other key had it, at every further try as well,
    until the time was over."""
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 2)
    config.set("a", text(1))
    config.set("a", text(2))
    assert config.transact([], [("set", "a", text(3)), ("set", "b", text(1))], deadline=1.0) == 3
    assert (config.get("a"), config.get("b")) == (text(3), text(1)) and config.verify().bad is None
    config.set("b", 1)
    config.set("b", 2)
    assert len(host.tables["config"].rows[BLOBS]) == 2, "then it goes"


def test_a_schema_judges_a_large_value(host: Host, config: Config) -> None:
    config.register("filter", Filter)
    config.set("filter/rules", {"body": text(1), "limit": 2})
    assert config.load("filter").rules == Rules(text(1), 2)
    bystander = Config(host, MemoryRows())
    for value in ({"body": text(2), "limit": "x"}, text(2)):
        with pytest.raises(InvalidValue):
            bystander.set("filter/rules", value)
        packed = codec.pack(value)  # whatever a client leaves out, the state machine does not
        for number, part in enumerate(parts_of(packed)):
            host.propose("config", ["part", sha256(packed).digest(), len(packed), number, part])
        change = ["blob", "filter/rules", sha256(packed).digest()]
        with pytest.raises(Rejected) as caught:
            host.propose("config", ["transact", [], [change], "", "", "mx1"])
        assert caught.value.code == "invalid-value"


# --- what goes wrong


def test_a_client_that_dies_between_two_parts_leaves_nothing(host: Host, config: Config) -> None:
    parts = len(parts_of(codec.pack(text(1))))
    config.set("a", 1)
    for sent in range(parts + 1):
        host.troubles = [None] * sent + [("before", Unavailable("the process is killed here"))]
        with pytest.raises(Unavailable):
            config.set("a", text(1))
        assert (config.get("a"), config.revision()) == (1, 1)
        assert len(config.history("a")) == 1 and config.verify().bad is None
        assert host.claimed() == (len(codec.pack(text(1))) if sent else 0)
        host.expire()
        assert host.leftovers() == (0, 0, 0) and host.claimed() == 0


def test_parts_whose_outcome_is_unknown_are_sent_again_and_the_change_is_made_once(host: Host, config: Config) -> None:
    lost = OutcomeUnknown("no answer")
    host.troubles = [("after", lost), None, ("before", lost), ("after", lost)]
    assert config.set("a", text(1)) == 1
    assert config.get("a") == text(1)
    assert host.sent.count("transact") == 1
    host.troubles = [None] * 5 + [("after", lost)]
    with pytest.raises(OutcomeUnknown):  # of the change itself: it may have been made
        config.set("a", text(2))
    assert config.get("a") == text(2)


def test_what_expires_while_it_is_uploaded_is_uploaded_again(host: Host, config: Config) -> None:
    real, at = host.entry, iter(range(100))

    def entry(machine: str, commands: Any) -> Any:
        if next(at) in (3, 9):
            host.now += int(limits.CONFIG_UPLOAD_SECONDS * 1000) + 1
            real(machine, [None])
        return real(machine, commands)

    host.entry = entry  # type: ignore[method-assign]
    assert config.set("a", text(1)) == 1
    assert config.get("a") == text(1)
    assert host.sent.count("part") > 5
    assert host.rows(UPLOADS) == host.claimed() == 0


def test_uploads_are_bounded(host: Host, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONFIG_UPLOAD_BYTES", 1_500_000)
    for salt in range(2):
        host.troubles = [None, ("before", Unavailable("killed"))]
        with pytest.raises(Unavailable):
            config.set("a", text(salt))
    with pytest.raises(Rejected, match="uploaded and not set"):
        config.set("a", text(9))
    config.set("a", 1)
    host.expire()
    assert config.set("a", text(9)) == 2


@pytest.mark.parametrize(
    "command",
    [
        ["part", b"x" * 31, 10, 0, b"x" * 10],
        ["part", b"x" * 32, 0, 0, b""],
        ["part", b"x" * 32, limits.CONFIG_VALUE_BYTES + 1, 0, b"x" * limits.CONFIG_PART_BYTES],
        ["part", b"x" * 32, 10, 1, b""],
        ["part", b"x" * 32, 10, -1, b"x" * 10],
        ["part", b"x" * 32, 10, 0, b"x" * 9],
        ["part", b"x" * 32, 10, 0, "x" * 10],
        ["part", b"x" * 32, 10, True, b"x" * 10],
        ["part", b"x" * 32, 10, 0, b"x" * 10],
        ["part", sha256(b"\xc1").digest(), 1, 0, b"\xc1"],
        ["part", sha256(b"\xc7\x00\x05").digest(), 3, 0, b"\xc7\x00\x05"],
        ["part", sha256(b"\xcd\x00\x05").digest(), 3, 0, b"\xcd\x00\x05"],
        ["transact", [], [["blob", "a", b"x" * 32]], "", "", "mx1"],
        ["transact", [], [["blob", "a", "x"]], "", "", "mx1"],
    ],
)
def test_what_is_no_part_of_a_value_leaves_no_trace(host: Host, command: Any) -> None:
    with pytest.raises(Rejected):
        host.propose("config", command)
    assert not any(host.tables["config"].rows.values())


def test_wrong_parts_are_replaced_by_right_ones(host: Host, config: Config) -> None:
    packed = codec.pack(text(1))
    digest, parts = sha256(packed).digest(), parts_of(packed)
    for number, part in enumerate(parts[:-1]):
        host.propose("config", ["part", digest, len(packed), number, bytes(len(part))])
    with pytest.raises(Rejected, match="not what was to be uploaded"):
        host.propose("config", ["part", digest, len(packed), len(parts) - 1, parts[-1]])
    assert config.set("a", text(1)) == 1
    assert config.get("a") == text(1)


def test_a_history_is_bounded_in_bytes_too(host: Host, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HISTORY_BYTES", 2_000_000)
    for number in range(6):
        config.set("a", text(number))
    assert [each.value for each in config.history("a")] == [text(5), text(4), text(3)]
    assert host.rows(BLOBS) == 3
    for number in range(3):
        config.set("b", text(5 - number))
    config.set("a", text(9, 1_000_000))
    assert [each.number for each in config.history("a")] == [7, 6]
    assert host.rows(BLOBS) == 4, "what two keys have is kept once, until neither has it"
    assert config.verify().bad is None


CHANGES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([None, 1, *range(10, 14)]), st.booleans()), max_size=24
)


@given(CHANGES)
@settings(max_examples=60)
def test_references_are_counted_right(changes: list[tuple[str, int | None, bool]]) -> None:
    """Whatever is set, deleted, forgotten and given up: what is kept is what histories have, on two nodes alike."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(limits, "HISTORY_REVISIONS", 3)
        patched.setattr(limits, "CONFIG_INLINE_BYTES", 50)
        patched.setattr(limits, "CONFIG_PART_BYTES", 40)
        patched.setattr(limits, "HISTORY_BYTES", 700)
        hosts = [Host(), Host()]
        for host in hosts:
            config = Config(host, MemoryRows())
            for key, salt, given_up in changes:
                value = text(salt, 90 + salt) if salt is not None and salt > 1 else salt
                host.troubles = [None, None, ("before", Unavailable("killed"))] if given_up else []
                try:
                    config.set(key, value) if salt is not None else config.delete(key)
                except (Rejected, Unavailable):
                    continue
            host.troubles = []
            host.expire()
            kept = {str(each.value) for key in "ab" for each in config.history(key) if type(each.value) is str}
            assert host.rows(BLOBS) == len(kept)
            assert host.rows(PARTS) == sum(-(-(len(each) + 2) // 40) for each in kept)
            assert host.rows(UPLOADS) == host.claimed() == 0
            assert config.verify().bad is None
        assert hosts[0].tables["config"].image() == hosts[1].tables["config"].image()
