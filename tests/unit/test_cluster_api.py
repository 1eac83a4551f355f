"""Members, tokens and certificates through the Python API, over a host of one process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from raftcluster.cluster.api import Members, Tokens
from raftcluster.cluster.certs import Certs
from raftcluster.cluster.create import init
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.reconcile import GENESIS
from raftcluster.cluster.standing import Standing
from raftcluster.codec import unpack
from raftcluster.errors import Rejected, Unavailable
from raftcluster.transport.certificates import Token, certificate_hash
from tests.cluster_world import joined_by
from tests.local_host import LocalHost


@pytest.fixture(scope="module")
def genesis(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("cluster") / "mx1"
    init(path, "mx1.example.org", ("0.0.0.0", 9777), ("192.0.2.1", 9777), "mta/1.0", cluster="mail", lab=True)
    return (path / GENESIS).read_bytes()


@pytest.fixture
def host(genesis: bytes) -> LocalHost:
    host = LocalHost([ClusterMachine()])
    host.propose("cluster", unpack(genesis))
    return host


def code(error: pytest.ExceptionInfo[Rejected]) -> str:
    return error.value.code


def test_before_genesis_everything_says_so() -> None:
    empty = LocalHost([ClusterMachine()])
    members, certs = Members(empty), Certs(empty)
    calls: list[Callable[[], object]] = [
        members.facts,
        certs.show,
        certs.rotate,
        partial(members.invite, "mx2"),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="no genesis yet"):
            call()
    assert Members(empty).list() == [] and Tokens(empty).list() == []


def test_an_invitation_names_from_where_its_host_will_come(host: LocalHost) -> None:
    names = {"mx2.example.org": ["192.0.2.2", "2001:db8::2"]}
    members = Members(host, lambda name: names.get(name, []))
    members.invite("MX2.example.org")
    members.invite("mx3.example.org", addresses=["192.0.2.3"])
    for name, addresses, refusal in (
        ("mx4.example.org", [], "no-address"),
        ("mx4.example.org", ["mx4"], "bad-address"),
    ):
        with pytest.raises(Rejected) as caught:
            members.invite(name, addresses=addresses)
        assert code(caught) == refusal
    Members(host).invite("mx5.example.org")
    found = {each.name: list(each.addresses) for each in Tokens(host).list()}
    assert found == {**names, "mx3.example.org": ["192.0.2.3"], "mx5.example.org": []}


def test_the_founder_is_a_voter(host: LocalHost) -> None:
    (founder,) = Members(host).list()
    assert (founder.name, founder.host, founder.port, founder.role) == ("mx1.example.org", "192.0.2.1", 9777, "voter")
    facts = Members(host).facts()
    assert facts.name == "mail" and facts.lab and facts.founder == founder.node_id
    assert Members(host).get(founder.node_id) == Members(host).get("MX1.example.org.") == founder


def test_invite(host: LocalHost) -> None:
    token = Members(host).invite("MX2.Example.ORG.", ttl_s=90.2)
    assert Token.parse(str(token)) == token
    assert token.root_hash == certificate_hash(Certs(host).show().root)
    (row,) = Tokens(host).list()
    assert (row.name, row.public_key, row.used_by) == ("mx2.example.org", token.public_key(), None)
    assert row.expires == host.now + 91_000, "rounded up to whole seconds"
    assert token.secret not in host.tables["cluster"].image()
    with pytest.raises(Rejected) as caught:
        Members(host).invite("mx1.example.org")
    assert code(caught) == "name-taken"
    with pytest.raises(Rejected) as caught:
        Members(host).invite("not a name")
    assert code(caught) == "bad-name"
    Tokens(host).revoke(token.id)
    assert Tokens(host).list()[0].revoked


def test_invite_while_the_root_is_being_replaced(host: LocalHost) -> None:
    """The token names the root in force; the chain of manifests leads from it to the next one."""
    Certs(host).rotate()
    token = Members(host).invite("mx2.example.org")
    assert token.root_hash == bytes.fromhex(Certs(host).show().root_hash)
    pending = Certs(host).show().pending
    assert pending is not None and pending.phase == "collect"


def test_certificates_of_the_generation_in_force(host: LocalHost) -> None:
    shown = Certs(host).show()
    assert shown.generation == 1 and shown.pending is None
    (row,) = shown.certificates
    assert row.name == "mx1.example.org" and bytes.fromhex(row.pin) == Members(host).list()[0].pins[0]
    assert 89 < (row.not_after - row.not_before) / 86_400 < 91
    Certs(host).rotate()
    with pytest.raises(Rejected) as caught:
        Certs(host).rotate()
    assert code(caught) == "generation-under-way"


def test_moving_and_removing(host: LocalHost) -> None:
    members = Members(host)
    members.move("mx1.example.org", "mx1-new.example.org", 9778)
    assert (members.list()[0].host, members.list()[0].port) == ("mx1-new.example.org", 9778)
    with pytest.raises(Rejected) as caught:
        members.remove("mx1.example.org")
    assert code(caught) == "last-voter"
    with pytest.raises(Rejected) as caught:
        members.remove("mx9.example.org")
    assert code(caught) == "no-member"


def test_without_a_quorum_nothing_is_promised(host: LocalHost) -> None:
    host.failure = Unavailable("no quorum")
    with pytest.raises(Unavailable):
        Members(host).invite("mx2.example.org")
    assert Tokens(host).list() == []


def test_of_four_the_dead_one_goes_first() -> None:
    """Two of the three that would be left could decide, but not endorse another generation."""
    log = joined_by("n2", "n3", "n4")
    host = LocalHost([ClusterMachine()])
    for command in log.commands:
        host.propose("cluster", unpack(command))
    voters = frozenset(log.head().voters)
    members = Members(host, standing=lambda: Standing(voters, voters - {"n4"}))
    with pytest.raises(Rejected, match="must endorse the next certificates") as caught:
        members.remove("mx3")
    assert code(caught) == "would-lose-quorum"
    with pytest.raises(Unavailable, match="mx4 is being removed"):  # nobody carries it out here
        members.remove("mx4", wait_s=0)
