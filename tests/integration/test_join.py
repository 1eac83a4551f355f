"""Joining over real TLS on loopback: what is let in, and everything that is not."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raftcluster import limits
from raftcluster.cluster.auditing import ITSELF
from raftcluster.cluster.conversation import JOIN, JOIN_CONTEXT, proof_message
from raftcluster.cluster.generations import COLLECT_MS
from raftcluster.cluster.join import Joined, join
from raftcluster.cluster.keystore import UNNUMBERED, Keystore
from raftcluster.cluster.lifecycle import RETRY_MS
from raftcluster.cluster.records import SCHEMA as RECORDS
from raftcluster.codec import pack
from raftcluster.errors import LinkRefused, Rejected, StorageFull, StorageRefusal, Unavailable
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.certificates import Token
from raftcluster.transport.connect import dial_rooted
from tests.cluster_nodes import PRODUCT, SCHEMA, Cluster, port
from tests.helpers import eventually


def commands(cluster: Cluster) -> int:
    """How many there were, but for what members report of themselves, whenever it is."""
    said = cluster.engine.commands
    return sum(not (each[0] == "attributed" and each[2][0] == "report") for each in said)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


def ask(cluster: Cluster, token: Token, number: int = 2, **other: Any) -> Joined:
    where = ("127.0.0.1", port())
    options: dict[str, Any] = {
        "name": f"mx{number}.example.org",
        "listen": where,
        "advertise": where,
        "product": PRODUCT,
        "schema": SCHEMA,
    }
    return join(cluster.folder / f"mx{number}", cluster.address, token, **(options | other))


def refused(cluster: Cluster, token: Token, **other: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        ask(cluster, token, **other)
    view = cluster.view()
    assert len(view.members) == 1 and view.pending is None, "nothing has changed"
    assert not (cluster.folder / "mx2" / "node.json").exists()
    return caught.value


def test_growing_to_three_then_renewing_while_the_links_stay(cluster: Cluster) -> None:
    for number in (2, 3):
        said: list[str] = []
        token = cluster.members.invite(f"mx{number}.example.org")
        joined = ask(cluster, token, number, progress=said.append)
        assert joined.generation == number and joined.cluster == "mail" and len(joined.members) == number
        assert said[0] == "the root matches the token"
        cluster.add(cluster.folder / f"mx{number}").start()
        eventually(partial(cluster.settled, number), what=f"generation {number}")
        name = f"mx{number}.example.org"
        eventually(lambda name=name: cluster.members.get(name).role == "voter", what="it votes")  # type: ignore[misc]
    assert len(cluster.engine.seats) == 3
    for node in cluster.nodes:
        node.gaps.clear()
    assert cluster.certs.rotate() == 4
    eventually(lambda: cluster.settled(4), what="generation 4")
    gaps = [gap for node in cluster.nodes for gap in node.gaps]
    print("gaps [ms]:", [round(gap * 1000, 1) for gap in gaps])
    assert gaps and max(gaps) < limits.ELECTION_MIN_SECONDS / 2, "links are replaced, never missed"
    assert all(node.reconciler.troubles() == {} for node in cluster.nodes)
    shown = cluster.certs.show()
    assert shown.generation == 4 and len(shown.certificates) == 3 and shown.pending is None
    for node in cluster.nodes:
        assert node.keystore.root_keys() == [], "no file matches a root"


def test_no_secret_is_replicated_or_written_elsewhere(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    token = cluster.members.invite("mx2.example.org")
    ask(cluster, token)
    cluster.add(cluster.folder / "mx2").start()
    eventually(lambda: cluster.settled(2), what="generation 2")
    replicated = pack(cluster.engine.commands) + cluster.engine.tables["cluster"].image()
    everything = replicated + caplog.text.encode()
    assert token.id.encode() in replicated, "the search finds what is there"
    for spelled in (token.secret, token.secret.hex().encode(), str(token).split(".")[2].encode()):
        assert spelled not in everything
        for file in cluster.folder.rglob("*"):
            assert not file.is_file() or spelled not in file.read_bytes(), file
    assert b"PRIVATE KEY" not in everything
    keys = list(cluster.folder.rglob("node.key"))
    assert len(keys) == 2 and all(oct(key.stat().st_mode)[-3:] == "600" for key in keys)


def test_a_token_for_another_root_stops_before_anything_is_sent(cluster: Cluster) -> None:
    token = cluster.members.invite("mx2.example.org")
    other = Token(token.id, token.secret, secrets.token_bytes(32))
    error = refused(cluster, other)
    assert error.code == "fingerprint"
    assert other.root_hash.hex() in str(error) and token.root_hash.hex() in str(error), "both are shown"


def test_a_token_of_another_cluster_stops_before_anything_is_sent(cluster: Cluster) -> None:
    cluster.members.invite("mx2.example.org")
    other = Cluster(cluster.folder / "other")
    try:
        token = other.members.invite("mx2.example.org")
        before = [commands(each) for each in (cluster, other)]
        error = refused(cluster, token)
        assert error.code == "fingerprint" and token.root_hash.hex() in str(error)
        assert [commands(each) for each in (cluster, other)] == before
        assert [each.used_by for each in (*cluster.tokens.list(), *other.tokens.list())] == [None, None]
    finally:
        other.close()


class Asker:
    """What a joiner says on the wire, by hand: so that an attacker can change or repeat it."""

    def __init__(self, cluster: Cluster, token: Token) -> None:
        self.cluster, self.token = cluster, token
        with DataDirectory.create(cluster.folder / "asker") as directory:
            self.request = Keystore(directory, "", "asker").request(UNNUMBERED)

    def ask(self, said: dict[str, Any] | None = None, **other: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """(what was said, the answer). Without `said` an honest request, but for `other`, that is signed for this connection."""
        active = self.cluster.view().active
        assert active is not None
        stream = dial_rooted(self.cluster.address, active.root, {"product": PRODUCT, "schema": SCHEMA})
        try:
            challenge = stream.receive()["nonce"]
            if said is None:
                facts = self.cluster.members.facts()
                about = [facts.cluster_id, self.token.id, "mx2.example.org"]
                nonce = secrets.token_bytes(16)
                assert stream.peer_certificate is not None
                message = proof_message(JOIN_CONTEXT, about, (challenge, nonce), stream.peer_certificate, self.request)
                where = ("127.0.0.1", port())
                now = int(time.time() * 1000)
                who = [self.token.id, "mx2.example.org", "0" * 36, *where, PRODUCT, RECORDS, "standalone"]
                said = dict(zip(JOIN, [*who, nonce, now, self.request, self.token.sign(message)], strict=True)) | other
            stream.send(said)
            answer = stream.receive()
            while "progress" in answer:
                answer = stream.receive()
            return said, answer
        finally:
            stream.close()


def test_a_request_is_worth_nothing_on_another_connection_or_changed(cluster: Cluster, tmp_path: Path) -> None:
    asker = Asker(cluster, cluster.members.invite("mx2.example.org"))
    founder = cluster.nodes[0]
    said, answer = asker.ask(product="gateway/1")
    assert answer["refused"] == "incompatible", "the proof is good, and nothing was consumed"
    assert asker.ask(said | {"product": PRODUCT})[1]["refused"] == "token-proof", "it was signed for another challenge"
    with DataDirectory.create(tmp_path / "thief") as directory:
        own = Keystore(directory, "", "thief").request(UNNUMBERED)
    changes: list[dict[str, Any]] = [
        {"request": own},
        {"name": "mx3.example.org"},
        {"nonce": b"n" * 16},
        {"proof": b""},
    ]
    for change in changes:
        assert asker.ask(**change)[1]["refused"] == "token-proof", change
    assert asker.ask(node=founder.id)[1]["refused"] == "node-known"
    assert asker.ask(host=cluster.address[0], port=cluster.address[1])[1]["refused"] == "address-taken"
    assert asker.ask(time=0)[1]["refused"] == "clock"
    assert asker.ask(extra=1)[1]["refused"] == "malformed" and asker.ask(reason="")[1]["refused"] == "malformed"
    assert len(cluster.view().members) == 1 and cluster.tokens.list()[0].used_by is None
    said, answer = asker.ask(reason="a new host")
    assert answer["bundle"]["generation"] == 2, "the honest one is let in"
    newest = cluster.members.log(1)[0]
    assert (newest.action, newest.author, newest.origin) == ("join", "mx2.example.org", "127.0.0.1")
    assert newest.reason == "a new host"
    eventually(lambda: cluster.view().pending is None, what="generation 2")
    assert asker.ask(said)[1]["refused"] == "token-proof", "also what was let in cannot be repeated by who has heard it"


def test_a_joiner_that_dies_after_minting_holds_up_nobody_and_can_be_removed(cluster: Cluster) -> None:
    cluster.nodes[0].host.lagging = True
    asker = Asker(cluster, cluster.members.invite("mx2.example.org"))
    _, answer = asker.ask()
    assert answer["bundle"]["certificate"], "it is minted; nobody ever hears of this host again"
    eventually(lambda: cluster.view().pending is None, what="generation 2 is in force")
    number = cluster.certs.rotate()
    eventually(lambda: len(cluster.view().pending.requests) == 1, what="it is waited for")  # type: ignore[union-attr]
    cluster.engine.now += COLLECT_MS
    with pytest.raises(Rejected, match=r"mx2\.example\.org did not answer"):
        cluster.certs.wait(number, seconds=60.0)
    (given_up,) = [each for each in cluster.members.log() if each.action == "abort"]
    assert given_up.author == ITSELF and "mx2.example.org did not answer" in given_up.subject
    cluster.members.remove("mx2.example.org")
    cluster.engine.now += RETRY_MS
    eventually(lambda: cluster.certs.show().generation == number + 1, what="a generation without it")
    (renewed,) = [each for each in cluster.members.log() if each.author == ITSELF and each.action == "rotate"]
    assert renewed.reason == "mx2.example.org removed: a generation without it"


def test_a_token_that_the_cluster_does_not_know_or_with_another_secret(cluster: Cluster) -> None:
    token = cluster.members.invite("mx2.example.org")
    assert refused(cluster, Token("0" * 16, token.secret, token.root_hash)).code == "token-unknown"
    assert refused(cluster, Token(token.id, secrets.token_bytes(16), token.root_hash)).code == "token-proof"


def test_a_token_lets_in_whom_it_names_until_it_expires_or_is_revoked(cluster: Cluster) -> None:
    token = cluster.members.invite("mx2.example.org", ttl_s=60)
    assert refused(cluster, token, name="mx3.example.org").code == "token-name"
    cluster.engine.now += 60_000
    assert refused(cluster, token).code == "token-expired"
    token = cluster.members.invite("mx2.example.org", ttl_s=60)
    cluster.tokens.revoke(token.id)
    assert refused(cluster, token).code == "token-revoked"
    assert {each.token_id: each.revoked for each in cluster.tokens.list()}[token.id]


def test_a_used_token_is_a_replay_but_the_same_request_may_be_repeated(cluster: Cluster) -> None:
    token = cluster.members.invite("mx2.example.org")
    first = ask(cluster, token)
    node = cluster.folder / "mx2"
    with pytest.raises(StorageRefusal):
        ask(cluster, token)
    cluster.add(node).start()
    eventually(lambda: cluster.view().pending is None, what="generation 2")
    with pytest.raises(Rejected) as caught:
        ask(cluster, token, 4, name="mx2.example.org")
    assert caught.value.code == "token-replayed", "the root that it names is gone, the chain leads to its successor"
    assert first.node_id in cluster.view().live() and len(cluster.view().live()) == 2


def test_a_joiner_that_was_interrupted_asks_again(cluster: Cluster) -> None:
    token = cluster.members.invite("mx2.example.org")
    (founder,) = cluster.nodes
    founder.reconciler.close()

    def interrupt(text: str) -> None:
        if text.startswith("generation 2"):
            raise InterruptedError(text)

    with pytest.raises(InterruptedError, match="requests 1/2"):
        ask(cluster, token, progress=interrupt)
    founder.reconcile_again()
    assert ask(cluster, token).generation == 2, "the same key and node id as before"
    assert len(cluster.view().members) == 2
    cluster.add(cluster.folder / "mx2").start()
    eventually(lambda: cluster.settled(2), what="generation 2")


def test_a_full_disk_between_bundle_and_node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    token = cluster.members.invite("mx2.example.org")

    def full(*_: Any) -> None:
        raise StorageFull("node.json: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("raftcluster.storage.directory.DataDirectory.write_node", full)
        with pytest.raises(StorageFull):
            ask(cluster, token)
    eventually(lambda: cluster.view().pending is None, what="the cluster goes on without the joiner")
    assert ask(cluster, token).generation == 2, "the token outlives the root that it names"
    cluster.add(cluster.folder / "mx2").start()
    eventually(lambda: cluster.settled(2), what="generation 2")


@pytest.mark.parametrize(
    ("other", "reason", "texts"),
    [
        ({"product": "gateway/4.2"}, "product", ("gateway/4.2", "mta/1.0")),
        ({"schema": {"cluster": 1, "counter": 3}}, "schema", ("counter",)),
    ],
)
def test_another_product_or_other_tables(
    cluster: Cluster, other: dict[str, Any], reason: str, texts: tuple[str, ...]
) -> None:
    token = cluster.members.invite("mx2.example.org")
    error = refused(cluster, token, **other)
    assert isinstance(error, LinkRefused) and error.exit_code == 11, reason
    assert all(text in str(error) for text in texts)


def test_another_trust_realm(cluster: Cluster) -> None:
    error = refused(cluster, cluster.members.invite("mx2.example.org"), realm="dns:example.org")
    assert error.code == "incompatible"
    assert "dns:example.org" in str(error) and "standalone" in str(error)


def test_a_clock_that_is_off(cluster: Cluster) -> None:
    token = cluster.members.invite("mx2.example.org")
    for skew_s in (-6.0, 6.0):
        error = refused(cluster, token, clock=lambda skew_s=skew_s: time.time() + skew_s)
        said = re.search(r"([+-][0-9.]+) s off", str(error))
        assert error.code == "clock" and said is not None and float(said[1]) * skew_s > 0
    assert ask(cluster, token, clock=lambda: time.time() + 3.0).generation == 2


def test_garbage_is_refused_in_words(cluster: Cluster) -> None:
    active = cluster.view().active
    assert active is not None
    rubbish: list[Any] = [
        None,
        7,
        [],
        {},
        {"token": "x"},
        "join me",
        b"\0" * 1000,
        {"token": 1, "proof": b"", "name": []},
    ]
    for garbage in rubbish:
        stream = dial_rooted(cluster.address, active.root, {"product": PRODUCT, "schema": SCHEMA})
        assert set(stream.receive()) == {"nonce"}
        stream.send(garbage)
        answer = stream.receive()
        stream.close()
        assert answer["refused"] == "malformed" and answer["text"], garbage
    assert len(cluster.view().members) == 1


def test_a_request_that_is_no_request_never_reaches_the_log(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    token = cluster.members.invite("mx2.example.org")
    monkeypatch.setattr("raftcluster.cluster.join.Keystore.request", lambda *_: b"-----BEGIN nonsense")
    monkeypatch.setattr("raftcluster.cluster.conversation.request_hash", lambda request: b"h" * 32)
    before = commands(cluster)
    error = refused(cluster, token)
    assert "request" in str(error) and commands(cluster) == before


def test_two_invited_hosts_at_once(cluster: Cluster) -> None:
    first, second = (cluster.members.invite(f"mx{number}.example.org") for number in (2, 3))
    cluster.engine.failure = Unavailable("no quorum")
    outcome: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda number=number, token=token: outcome.update({number: ask(cluster, token, number)})
        )
        for number, token in ((2, first), (3, second))
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: cluster.engine.proposals >= 2 + 2, what="both wait for a quorum")
    cluster.engine.failure = None
    eventually(lambda: len(outcome) == 2, what="both have their bundles")
    for thread in threads:
        thread.join()
    for number in (2, 3):
        cluster.add(cluster.folder / f"mx{number}").start()
    eventually(lambda: cluster.settled(2), what="generation 2")
    assert {joined.generation for joined in outcome.values()} == {2}, "one generation for both"


def test_a_removed_member_is_shut_out_and_a_generation_without_it_follows(cluster: Cluster) -> None:
    ask(cluster, cluster.members.invite("mx2.example.org"))
    cluster.add(cluster.folder / "mx2").start()
    eventually(lambda: cluster.settled(2), what="generation 2")
    founder, second = cluster.nodes
    cluster.members.remove("mx2.example.org")
    eventually(lambda: not founder.mesh.links(), what="its link is closed")
    eventually(lambda: cluster.certs.show().generation == 3, what="generation 3")
    assert list(cluster.view().live()) == [founder.id] and cluster.engine.seats == {founder.id}
    assert second.removed.wait(60), "it knows"


def test_members_that_stop_in_the_middle_of_a_generation_go_on_where_they_were(cluster: Cluster) -> None:
    """Every phase, with real files: whoever stops is opened again from its directory."""
    ask(cluster, cluster.members.invite("mx2.example.org"))
    cluster.add(cluster.folder / "mx2").start()
    eventually(partial(cluster.settled, 2), what="generation 2")
    for number, phase in ((3, "collect"), (4, "trust"), (5, "switch")):
        second = cluster.nodes.pop()
        second.stop()
        cluster.certs.rotate()
        if phase != "collect":
            # the founder alone cannot get past the request of the one that is down: let that one answer and stop again
            again = cluster.add(second.path)
            again.start()
            eventually(partial(reached, cluster, number, phase), what=f"generation {number}, {phase}")
            cluster.nodes.pop().stop()
        assert len(cluster.view().live()) == 2
        cluster.add(second.path).start()
        eventually(partial(cluster.settled, number), what=f"generation {number} after {phase}")


def test_a_node_that_closes_waits_for_no_commit_that_does_not_come(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    (founder,) = cluster.nodes
    monkeypatch.setattr(founder.host, "submit", lambda *call, **options: asked.append(call))
    cluster.certs.rotate()
    eventually(lambda: asked, what="it proposes what the generation needs of it")
    founder.reconciler.close()
    assert len(asked) == 1, "and nothing behind it"


def reached(cluster: Cluster, number: int, phase: str) -> bool:
    """Whether the generation is in that phase, or past it."""
    pending, order = cluster.view().pending, ["collect", "trust", "switch"]
    return pending is None or (pending.number == number and order.index(pending.phase) >= order.index(phase))
