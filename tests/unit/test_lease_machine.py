"""Leases in the tables: one holder at a time, tokens that only grow; against a plain model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import limits
from raftcluster.errors import Rejected
from raftcluster.lease.machine import EXPIRIES, LEASES, LeaseMachine, Tenure, read_lease, read_leases
from raftcluster.machine import Inspectable, StateMachine
from tests.local_host import LocalHost


class Cluster(LocalHost):
    def __init__(self) -> None:
        super().__init__([LeaseMachine()])
        self.rows = self.tables["lease"]

    def acquire(self, name: str = "job", node: str = "a", term: int = 10_000, at_least: int = 0) -> int:
        return int(self.propose("lease", ["acquire", name, node, f"{node}.test", term, at_least])[0])

    def renew(self, token: int, name: str = "job", term: int = 10_000) -> int:
        return int(self.propose("lease", ["renew", name, token, term])) - self.now

    def release(self, token: int, name: str = "job") -> bool:
        return bool(self.propose("lease", ["release", name, token]))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_it_is_a_state_machine_that_knows_its_rows(cluster: Cluster) -> None:
    machine = LeaseMachine()
    assert all(isinstance(machine, kind) for kind in (StateMachine, Inspectable))
    cluster.acquire()
    for table, rows in cluster.rows.rows.items():
        for key, value in rows.items():
            machine.inspect(table, key, value)
            with pytest.raises(Exception, match=r"."):
                machine.inspect(table, b"\xff" + key, value + b"x")


def test_one_holder_at_a_time_until_it_ends_or_is_released(cluster: Cluster) -> None:
    first = cluster.acquire()
    with pytest.raises(Rejected, match=r"job is held by a\.test for 10 s yet") as caught:
        cluster.acquire(node="b")
    assert caught.value.code == "lease-held"
    cluster.now += 9_999
    with pytest.raises(Rejected, match="1 s yet"):
        cluster.acquire(node="a")
    assert cluster.renew(first) == 10_000
    cluster.now += 10_000
    second = cluster.acquire(node="b")
    assert second > first
    for token, name in ((first, "job"), (second, "other")):
        with pytest.raises(Rejected) as caught:
            cluster.renew(token, name)
        assert caught.value.code == "lease-lost"
    assert not cluster.release(first)
    assert cluster.release(second) and not cluster.release(second)
    assert cluster.acquire(node="c") > second


def test_an_ended_lease_is_not_renewed_even_if_nobody_else_wanted_it(cluster: Cluster) -> None:
    token = cluster.acquire()
    cluster.now += 10_000
    with pytest.raises(Rejected, match="not held"):
        cluster.renew(token)


def test_a_released_lease_is_kept_from_others_as_long_as_was_asked(cluster: Cluster) -> None:
    token = cluster.acquire(term=1_000, at_least=60_000)
    assert cluster.release(token)
    cluster.now += 59_999
    with pytest.raises(Rejected, match=r"kept from others by a\.test for 1 s"):
        cluster.acquire(node="b")
    cluster.now += 1
    assert cluster.acquire(node="b") > token


def test_tokens_grow_when_the_rows_are_gone(cluster: Cluster) -> None:
    tokens = []
    for name in ("a", "b", "c", "a"):
        tokens.append(cluster.acquire(name))
        cluster.now += 10_000
        cluster.entry("lease", [])
        assert not cluster.rows.rows[LEASES] and not cluster.rows.rows[EXPIRIES]
    assert tokens == sorted(set(tokens))


def test_there_are_only_so_many(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LEASES", 3)
    for name in ("a", "b", "c"):
        cluster.acquire(name)
    with pytest.raises(Rejected, match="3 leases already"):
        cluster.acquire("d")
    cluster.now += 10_000
    cluster.entry("lease", [])
    assert cluster.acquire("d")
    assert [each.name for each in read_leases(cluster.rows, "", 10)] == ["d"]


@pytest.mark.parametrize(
    "command",
    [
        None,
        [],
        ["acquire", "job", "a", "a", 1_000],
        ["acquire", "", "a", "a", 1_000, 0],
        ["acquire", "-x", "a", "a", 1_000, 0],
        ["acquire", "x\n", "a", "a", 1_000, 0],
        ["acquire", "x" * 201, "a", "a", 1_000, 0],
        ["acquire", b"job", "a", "a", 1_000, 0],
        ["acquire", "job", None, "a", 1_000, 0],
        ["acquire", "job", "a", "a" * 254, 1_000, 0],
        ["acquire", "job", "a", "a", 999, 0],
        ["acquire", "job", "a", "a", 1_000.0, 0],
        ["acquire", "job", "a", "a", True, 0],
        ["acquire", "job", "a", "a", 2**62, 0],
        ["acquire", "job", "a", "a", 1_000, -1],
        ["renew", "job", {}, 1_000],
        ["renew", "job", 1, 0],
        ["break", "job"],
    ],
)
def test_malformed_commands_are_rejected_and_leave_no_trace(cluster: Cluster, command: Any) -> None:
    with pytest.raises(Rejected):
        cluster.propose("lease", command)
    assert not any(cluster.rows.rows.values())


@pytest.mark.parametrize("token", [True, 1.0, "1", None, {}, 2, 0, -1])
def test_what_is_not_the_token_is_none(cluster: Cluster, token: Any) -> None:
    assert cluster.acquire() == 1
    assert not cluster.release(token)
    with pytest.raises(Rejected) as caught:
        cluster.renew(token)
    assert caught.value.code == "lease-lost"


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "acquire", "renew", "release", "wait"]),
        st.sampled_from(["x", "y"]),
        st.integers(0, 3),
        st.sampled_from([1_000, 2_000, 5_000]),
    ),
    max_size=60,
)


@given(STEPS)
def test_against_a_plain_model_on_two_nodes(steps: list[tuple[str, str, int, int]]) -> None:
    """The model: per name who has it until when; nobody gets what another has."""
    one, other = Cluster(), Cluster()
    holder: dict[str, tuple[int, int, int]] = {}  # name -> (token, expires, free from)
    tokens = [0]
    for kind, name, which, span in steps:
        if kind == "wait":
            one.now += span
            other.now = one.now
            continue
        now, (held, expires, free) = one.now, holder.get(name, (0, 0, 0))
        token = tokens[-1 - which] if which < len(tokens) else 0
        command = {
            "acquire": ["acquire", name, "n", "n", span, which * 700],
            "renew": ["renew", name, token, span],
            "release": ["release", name, token],
        }[kind]
        (answer,), (again,) = one.entry("lease", [command]), other.entry("lease", [command])
        owned = bool(held) and held == token and now < expires
        if kind == "acquire":
            assert isinstance(answer, Rejected) == (now < free)
            if not isinstance(answer, Rejected):
                assert answer[0] > max(tokens)
                tokens.append(answer[0])
                holder[name] = (answer[0], now + span, max(now + span, now + which * 700))
        elif kind == "renew":
            assert isinstance(answer, Rejected) != owned
            if owned:
                holder[name] = (held, max(expires, now + span), max(free, now + span))
                assert answer == holder[name][1]
        else:
            assert answer is owned
            if owned:
                row = read_lease(one.rows, name)
                kept = row.kept_until if row is not None else 0
                assert kept <= free
                holder[name] = (0, 0, kept)
        assert isinstance(again, Rejected) == isinstance(answer, Rejected)
        assert one.rows.image() == other.rows.image()
        rows = {each.name: each for each in read_leases(one.rows, "", 10)}
        assert {each.name for each in rows.values() if now < each.ends} == {n for n, h in holder.items() if now < h[2]}
        assert all(isinstance(each, Tenure) for each in rows.values())
