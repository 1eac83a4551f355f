"""Clients that are allowed by themselves: who earns it, how it ends, what nodes believe, and what it costs a stranger."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster.errors import Unavailable
from raftcluster.greylist import clients, hints
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.clients import ALLOWED, CLIENTS, Client, client_key, inspect_client, read_client
from raftcluster.greylist.expiry import EXPIRY
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.greylist.settings import Settings
from tests.local_host import LocalHost

DELAY, _, LIFE = Settings().waits()
HOUR = 3_600_000
NETWORK = b"192.0.2.0/24"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> LocalHost:
    monkeypatch.setattr(hints, "LOOK_SECONDS", 0.0)
    return LocalHost([GreylistMachine(), ListsMachine()])


@pytest.fixture
def greylist(host: LocalHost) -> Greylist:
    return Greylist(host)


def mail(number: int, client: str = "192.0.2.7") -> dict[str, Any]:
    return {"client": client, "sender": f"s{number}x@example.net", "recipient": "b@example.org"}


def earn(greylist: Greylist, host: LocalHost, passes: int, apart: int = HOUR, first: int = 0) -> None:
    """So many triplets of the client pass after a wait, `apart` milliseconds after each other."""
    for number in range(first, first + passes):
        assert greylist.check(**mail(number)).reason == "new"
        host.now += DELAY
        assert greylist.check(**mail(number)).reason == "waited"
        host.now += apart - DELAY


def test_after_five_passes_its_network_passes_at_once_and_is_counted(host: LocalHost, greylist: Greylist) -> None:
    earn(greylist, host, 5)
    verdict = greylist.check(**mail(100, "192.0.2.200"))
    assert (verdict.action, verdict.reason, verdict.header) == ("pass", "client", None)
    assert greylist.check(**mail(100, "192.0.3.7")).reason == "new"
    stats = greylist.stats()
    assert (stats["clients"], stats["allowed_clients"], stats["records"]) == (1, 1, 6)
    assert stats["nodes"]["node-1"] == {"deferred": 6, "passed": 6, "first_passes": 5, "client_passes": 1}


def test_one_pass_an_hour_counts(host: LocalHost, greylist: Greylist) -> None:
    earn(greylist, host, 9, apart=HOUR // 2)  # at 0, 1, 2, 3 and 4 hours
    assert greylist.check(**mail(100)).reason == "client"
    other = read_client(host.tables["greylist"], NETWORK)
    assert other is not None and other.passes == 5


def test_a_known_triplet_earns_nothing(host: LocalHost, greylist: Greylist) -> None:
    earn(greylist, host, 1)
    for _ in range(10):
        host.now += HOUR
        assert greylist.check(**mail(0)).reason == "known"
    assert greylist.explain(**mail(0))["client"]["passes"] == 1


def test_it_ends_a_life_after_the_last_mail(host: LocalHost, greylist: Greylist) -> None:
    earn(greylist, host, 5)
    greylist.check(**mail(99))
    for number in range(3):
        host.now += LIFE - 1
        assert greylist.check(**mail(100 + number)).reason == "client"
    host.now += LIFE
    assert greylist.check(**mail(200)).reason == "new"
    host.now += DELAY
    assert greylist.check(**mail(200)).reason == "waited"
    assert greylist.explain(**mail(200))["client"]["passes"] == 1, "it has to earn it anew"
    assert not host.tables["greylist"].rows[ALLOWED]


def test_the_clean_up_removes_clients_and_what_belongs_to_them(host: LocalHost, greylist: Greylist) -> None:
    earn(greylist, host, 5)
    host.now += LIFE + 2 * HOUR
    host.entry("greylist", [])
    rows = host.tables["greylist"].rows
    assert not rows[CLIENTS] and not rows[ALLOWED] and not rows[EXPIRY]
    stats = greylist.stats()
    assert (stats["records"], stats["clients"], stats["allowed_clients"]) == (0, 0, 0)


def test_it_is_a_setting(host: LocalHost, greylist: Greylist) -> None:
    greylist.configure({"auto_allow": 2})
    earn(greylist, host, 2)
    assert greylist.check(**mail(100)).reason == "client"
    greylist.configure({"auto_allow": 3})
    earn(greylist, host, 1, first=200)
    assert greylist.check(**mail(101)).reason == "client", "three are enough again"
    greylist.configure({"auto_allow": 0})
    assert greylist.check(**mail(102)).reason == "new"
    greylist.configure({"auto_allow": 2, "delay": 300})
    assert greylist.check(**mail(103)).reason == "client", "the first check after a change of settings knows it, too"


def test_when_fewer_are_enough_again_it_is_allowed_with_its_next_counted_pass(
    host: LocalHost, greylist: Greylist
) -> None:
    earn(greylist, host, 5)
    greylist.configure({"auto_allow": 10})
    assert greylist.check(**mail(100)).reason == "new", "so the node believes it no more"
    greylist.configure({"auto_allow": 5})
    earn(greylist, host, 1, first=200)
    assert greylist.check(**mail(101)).reason == "client"
    assert len(host.tables["greylist"].rows[ALLOWED]) == 1


def test_an_entry_that_says_greylist_goes_before_it(host: LocalHost, greylist: Greylist) -> None:
    earn(greylist, host, 5)
    greylist.lists.add("greylist", "client", "192.0.2.0/24")
    assert greylist.check(**mail(100)).reason == "new"
    told = greylist.explain(**mail(101))
    assert (told["rule"], told["lists"], told["client"]["allowed"]) == ("new", "listed", True)
    assert "(entry: greylist client 192.0.2.0/24)" in told["text"]


def test_explain_says_so(host: LocalHost, greylist: Greylist) -> None:
    earn(greylist, host, 5)
    greylist.check(**mail(100))
    told = greylist.explain(**mail(101))
    assert (told["action"], told["rule"], told["seconds_left"]) == ("pass", "client", 0)
    assert told["text"] == "no wait: 5 triplets of this client have passed after one, 5 are enough"
    expires = host.now + LIFE
    assert told["client"] == {"allowed": True, "passes": 5, "needed": 5, "served": 1, "expires_ms": expires}
    assert greylist.check(**mail(101)).reason == "client"


@pytest.mark.parametrize(
    ("entry", "rule"),
    [(("allow", "sender", "s1x@example.net"), "allowed"), (("opt-out", "recipient", "b@example.org"), "opted-out")],
)
def test_explain_looks_at_the_lists(greylist: Greylist, entry: tuple[str, str, str], rule: str) -> None:
    greylist.lists.add(*entry)
    told = greylist.explain(**mail(1))
    assert (told["action"], told["rule"], told["seconds_left"]) == ("pass", rule, 0)
    assert f"(entry: {' '.join(entry)})" in told["text"]
    assert greylist.check(**mail(1)).reason == rule


def test_explain_in_training(greylist: Greylist) -> None:
    greylist.configure({"training": True})
    told = greylist.explain(**mail(1))
    assert (told["action"], told["rule"], told["seconds_left"]) == ("pass", "new", 180)
    assert told["text"].endswith("in training it passes all the same")


def test_under_privacy_no_network_is_kept_and_it_works_all_the_same(host: LocalHost, greylist: Greylist) -> None:
    greylist.configure({"privacy": True})
    earn(greylist, host, 5)
    assert greylist.check(**mail(100)).reason == "client"
    assert b"192.0.2" not in host.tables["greylist"].image()
    greylist.configure({"privacy": False})
    assert greylist.check(**mail(101)).reason == "client"


def test_another_node_believes_it_soon_and_what_it_believes_wrongly_costs_nothing(
    host: LocalHost, greylist: Greylist
) -> None:
    other = Greylist(host)
    assert other.check(**mail(50, "198.51.100.1")).reason == "new"
    earn(greylist, host, 5)
    other.check(**mail(51, "198.51.100.1"))
    assert other.check(**mail(100)).reason == "client"
    host.now += LIFE
    assert other.check(**mail(101)).reason == "new"
    host.now += DELAY
    assert other.check(**mail(101)).reason == "waited"


def test_a_node_that_cannot_read_goes_on_with_what_it_knows(
    host: LocalHost, greylist: Greylist, monkeypatch: pytest.MonkeyPatch
) -> None:
    earn(greylist, host, 5)
    assert greylist.check(**mail(100)).reason == "client"

    def busy(*_: object, **__: object) -> None:
        raise Unavailable("busy")

    with monkeypatch.context() as patched:
        patched.setattr(host, "query", busy)
        assert greylist.check(**mail(101)).reason == "client"
    assert greylist.check(**mail(102)).reason == "client"


def test_a_restarted_node_knows_it_before_its_first_check(host: LocalHost, greylist: Greylist) -> None:
    earn(greylist, host, 5)
    host.machines["greylist"] = GreylistMachine()
    assert Greylist(host).check(**mail(100)).reason == "client"


def test_all_pages_are_read(host: LocalHost, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = host.tables["greylist"]
    for number in range(2_500):
        assert clients.count(tables, client_key(b"%d" % number), b"%d" % number, host.now, LIFE, 1) is not None
    fresh = hints.Hints(host, "greylist")
    fresh.refresh()
    assert all(fresh.allow(b"%d" % number) for number in range(2_500))
    assert not fresh.allow(b"2500")


def test_allowed_clients_are_bounded(host: LocalHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "ALLOWED_MAX", 3)
    tables = host.tables["greylist"]
    for number in range(5):
        clients.count(tables, client_key(b"%d" % number), b"%d" % number, host.now, LIFE, 1)
    assert [clients.serve(tables, client_key(b"%d" % number), host.now, LIFE, 1) for number in range(5)] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert len(tables.rows[ALLOWED]) == 3


def test_a_strangers_check_reads_no_more_than_before(
    host: LocalHost, greylist: Greylist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of the records; and per entry settings, the index's cursor, counters, whether something is being forgotten."""
    earn(greylist, host, 5)
    read: Counter[str] = Counter()
    tables = host.tables["greylist"]
    get = tables.get

    def counted(table: str, key: bytes) -> bytes | None:
        read[table] += 1
        return get(table, key)

    monkeypatch.setattr(tables, "get", counted)
    assert greylist.check(**mail(7, "198.51.100.1")).reason == "new"
    assert read == {"records": 1, "settings": 1, "state": 4}


CLIENT = st.builds(
    Client,
    counted=st.integers(0, 100),
    last=st.integers(100, 200),
    expires=st.integers(200, 300),
    sequence=st.integers(0, 9),
    passes=st.integers(0, 2**16 - 1),
    served=st.integers(0, 9),
    network=st.just(NETWORK),
)


@given(CLIENT)
def test_a_row_is_read_back_and_is_sound(client: Client) -> None:
    assert Client.unpack(client.pack()) == client
    inspect_client(client_key(NETWORK), client.pack())
    with pytest.raises(ValueError):
        inspect_client(client_key(b"another"), client.pack())
    with pytest.raises(ValueError):
        inspect_client(client_key(NETWORK), client._replace(last=client.expires + 1).pack())
