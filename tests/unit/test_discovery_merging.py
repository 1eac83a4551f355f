"""What several sources say of hosts becomes one list, one entry a host."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcluster.discovery.candidate import PORT, Candidate, Sighting, State, Survey
from raftcluster.discovery.merging import Names, candidates, plain


def names(known: Mapping[str, list[str]], here: str = "192.0.2.99") -> Names:
    def name_of(address: str) -> str:
        return next((name for name, addresses in known.items() if address in addresses), "")

    return Names(lambda name: known.get(name, []), name_of, lambda address: address == here)


MX = names({"mx1.example.org": ["192.0.2.1"], "mx2.example.org": ["192.0.2.2", "2001:db8::2"], "mx2": ["127.0.1.1"]})


def merged(*sightings: Sighting, known: Names = MX) -> list[Candidate]:
    return candidates(sightings, known)


def test_one_host_of_several_sources_is_one_candidate() -> None:
    (found,) = merged(
        Sighting("pacemaker", "node 2", "mx2", ("192.0.2.2",), state=State.MEMBER),
        Sighting("keepalived", "unicast_peer", addresses=("192.0.2.2",)),
        Sighting("mx", "preference 10", "MX2.example.org."),
        Sighting("srv", "priority 0", "mx2.example.org", port=9778),
    )
    assert (found.name, found.aliases) == ("mx2.example.org", ("mx2",))
    assert found.addresses == ("192.0.2.2", "2001:db8::2"), "the loopback that its own name leads to tells nothing"
    assert (found.port, found.state, found.conflicts) == (9778, State.MEMBER, ())
    assert found.provenance == (
        "pacemaker: node 2",
        "keepalived: unicast_peer",
        "mx: preference 10",
        "srv: priority 0",
    )


def test_what_joins_two_that_were_apart_makes_them_one() -> None:
    found = merged(
        Sighting("a", "", addresses=("198.51.100.1",)),
        Sighting("b", "", addresses=("198.51.100.2",)),
        Sighting("c", "", addresses=("198.51.100.3",)),
        Sighting("d", "two rings", addresses=("198.51.100.1", "198.51.100.3")),
    )
    assert [each.addresses for each in found] == [("198.51.100.1", "198.51.100.3"), ("198.51.100.2",)]


def test_an_address_is_called_by_its_name_where_it_has_one() -> None:
    found = merged(Sighting("keepalived", "", addresses=("2001:0db8::0002",)), Sighting("b", "", "198.51.100.7"))
    assert [(each.name, each.port) for each in found] == [("mx2.example.org", PORT), ("198.51.100.7", PORT)]


def test_a_name_that_leads_nowhere_gives_way_to_the_name_of_its_address() -> None:
    found = merged(Sighting("pacemaker", "", "node-b", ("192.0.2.2",)), Sighting("b", "", "node-c", ("198.51.100.3",)))
    assert [(each.name, each.aliases, each.target) for each in found] == [
        ("mx2.example.org", ("node-b",), "mx2.example.org"),
        ("node-c", (), "198.51.100.3"),
    ]


def test_different_hosts_stay_apart_also_with_loopback_addresses_in_common() -> None:
    known = names({"mx1": ["127.0.1.1"], "mx2": ["127.0.1.1"]})
    assert len(merged(Sighting("a", "", "mx1"), Sighting("a", "", "mx2"), known=known)) == 2


def test_a_short_and_a_whole_name_are_not_taken_for_one_host() -> None:
    found = merged(Sighting("pacemaker", "", "mx1", ("10.0.0.1",)), Sighting("mx", "", "mx1.example.org"))
    assert [each.name for each in found] == ["mx1", "mx1.example.org"]
    assert "mx1.example.org" in found[0].conflicts[0]


def test_disagreements_are_told() -> None:
    (found,) = merged(
        Sighting("typed", "", "mx1.example.org", port=1, user="root"),
        Sighting("srv", "", "mx1.example.org", port=2, user="admin"),
        Sighting("pacemaker", "", "mx1.example.org", ("10.0.0.1",), state=State.PAST),
    )
    assert (found.port, found.user, found.state) == (1, "root", State.LISTED), "what was said first"
    assert found.conflicts == (
        "port: 1, 2",
        "account: root, admin",
        "a past member to pacemaker",
        "mx1.example.org leads to 192.0.2.1, a source has 10.0.0.1",
    )


def test_this_host_and_past_members_are_not_wanted() -> None:
    known = names({}, here="10.0.0.1")
    found = merged(
        Sighting("a", "", "one", ("10.0.0.1",)),
        Sighting("a", "", "two", ("10.0.0.2",), state=State.PAST),
        Sighting("a", "", "three", ("10.0.0.3",), state=State.DOWN),
        known=known,
    )
    assert [each.here for each in found] == [True, False, False]
    assert [each.name for each in Survey(tuple(found)).wanted] == ["three"]


@pytest.mark.parametrize(("written", "short"), [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:DB8::0:1", "2001:db8::1")])
def test_addresses_are_compared_in_their_plain_form(written: str, short: str) -> None:
    assert plain(written) == short


SIGHTINGS = st.builds(
    Sighting,
    st.just("p"),
    st.just("o"),
    st.sampled_from(["", "a", "b", "c", "d"]),
    st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]), min_size=1, max_size=2).map(tuple),
)


@given(st.lists(SIGHTINGS, max_size=12))
def test_no_two_candidates_share_a_name_or_an_address_and_the_order_does_not_matter(sightings: list[Sighting]) -> None:
    known = names({})
    found = candidates(sightings, known)
    for what in ("addresses", "aliases"):
        held = [each for one in found for each in getattr(one, what)]
        assert len(held) == len(set(held))
    again = candidates(list(reversed(sightings)), known)
    assert {frozenset(each.addresses) for each in found} == {frozenset(each.addresses) for each in again}
