"""What one node captured another one releases, once, over three real nodes and a real SMTP connection."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raftcluster import Envelope, Node, SmtpDelivery, read_events
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Rejected, Unavailable
from raftcluster.quarantine.rules import AlreadyDelivered, Claimed, UnknownMessage
from tests.clusters import SECONDS, Cluster
from tests.gateways import Gateway
from tests.helpers import eventually
from tests.served import Cluster as Gateways
from tests.served import Served
from tests.smtp_server import SmtpServer

KEY = b"the product's own key, 32 bytes."
MESSAGE = b"To: spoofed@example.com\r\nCc: c@example.com\r\nBcc: d@example.com\r\nResent-To: e@example.com\r\n\r\n.\r\n"
CLAIM_SECONDS = 4.0
ABOUT = {"digest": hashlib.sha256(MESSAGE).digest(), "size": len(MESSAGE), "reason": "macro virus"}


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def cluster(server: SmtpServer, tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes of a product that keeps its messages in one folder."""
    (tmp_path / "1.eml").write_bytes(MESSAGE)
    with Cluster(tmp_path, 3) as cluster:
        for node in cluster.nodes.values():
            attach(node, tmp_path, server)
        yield cluster


def attach(node: Node, folder: Path, server: SmtpServer) -> None:
    node.quarantine.attach(KEY, lambda reference: (folder / reference).open("rb"), SmtpDelivery(server.connect))


def events(path: Path, name: str) -> list[dict[str, Any]]:
    """The fields of those of this name in a node's record."""
    return [each["fields"] for each in read_events(path) if each["event"] == name]


def captured(node: Node) -> str:
    envelope = Envelope("a@example.net", ret="HDRS")
    envelope.rcpt("box@example.test", orcpt="rfc822;alias@example.test")
    envelope.rcpt("other@example.test")
    return node.quarantine.capture(envelope, **ABOUT, reference="1.eml")  # type: ignore[arg-type]


def test_all_nodes_release_at_once_and_one_delivers_also_when_the_leader_goes(
    cluster: Cluster, server: SmtpServer, tmp_path: Path
) -> None:
    ident = captured(cluster.nodes[0])
    at_it, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        at_it.set()
        go_on.wait(SECONDS)

    server.before["."] = hold
    outcomes: list[object] = []

    def release(node: Node) -> None:
        try:
            outcomes.append(node.quarantine.release(ident, 1, author=node.name))
        except RaftclusterError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=release, args=(node,)) for node in cluster.nodes.values()]
    for thread in threads:
        thread.start()
    assert at_it.wait(SECONDS)
    eventually(lambda: len(outcomes) == 2, SECONDS, "the others are told")
    assert all(type(each) is Claimed for each in outcomes), outcomes
    claimed = cluster.nodes[0].quarantine.show(ident, consistency="linearizable").recipients[0].node
    leader = cluster.leader()
    if cluster.nodes[leader].name != claimed:  # the claim outlives its leader
        cluster.stop(leader)
    go_on.set()
    for thread in threads:
        thread.join(SECONDS)
    (session,) = server.taken
    assert session.commands[1:3] == [
        b"MAIL FROM:<a@example.net> SIZE=%d RET=HDRS" % len(MESSAGE),
        b"RCPT TO:<box@example.test> ORCPT=rfc822;alias@example.test",
    ]
    assert session.data == MESSAGE[:-3] + b"..\r\n.\r\n"
    for number in sorted({0, 1, 2} - set(cluster.nodes)):
        attach(cluster.start(number), tmp_path, server)
    for node in cluster.nodes.values():
        with pytest.raises(AlreadyDelivered):
            node.quarantine.release(ident, 1)
        assert [each.deliveries for each in node.quarantine.show(ident).recipients] == [1, 0], (
            "it has read linearizably"
        )
    for number, node in cluster.nodes.items():
        path = cluster.path(number)
        (told,) = eventually(partial(events, path, "quarantine-delivered"), SECONDS, f"{node.name} tells it")
        assert (told["author"], told["origin"], told["message_id"]) == (claimed, claimed, ident)
        assert (told["number"], told["recipient"], told["deliveries"]) == (1, "box@example.test", 1)
        (begun,) = events(path, "quarantine-claimed")
        assert (begun["author"], begun["recipient"]) == (claimed, "box@example.test")
    report = cluster.nodes[0].verify()
    assert report.verdict == "sound", report


def test_without_a_quorum_nothing_is_released_and_what_was_captured_is_found_again(
    cluster: Cluster, server: SmtpServer
) -> None:
    ident = captured(cluster.nodes[2])
    cluster.stop(0)
    cluster.stop(1)
    with pytest.raises(Unavailable):
        cluster.nodes[2].quarantine.release(ident, 1, deadline=2.0)
    assert server.sessions == []
    assert cluster.nodes[2].quarantine.show(ident).recipients[0].state == "held", "local reads go on"
    cluster.start(0)
    assert eventually(lambda: released(cluster.nodes[2], ident), SECONDS, "it is released") == "delivered"
    assert len(server.taken) == 1
    assert cluster.nodes[2].quarantine.discard(ident)
    with pytest.raises(UnknownMessage):
        cluster.nodes[0].quarantine.show(ident, consistency="linearizable")
    with pytest.raises(Rejected, match="nothing is attached"):
        cluster.nodes[0].quarantine.release(ident, 1)


def released(node: Node, ident: str) -> str:
    try:
        return node.quarantine.release(ident, 1).state
    except Unavailable:
        return ""


# ---- processes that are killed


@pytest.fixture
def gateways(server: SmtpServer, tmp_path: Path) -> Iterator[Gateways]:
    """Three processes of examples/mail_gateway.py that share a folder of messages."""

    class Here(Gateway):
        smtp = f"127.0.0.1:{server.port}"

    with Gateways(tmp_path, 3, Here, lab=True) as cluster:
        for _ in range(2):
            cluster.grow()
        eventually(cluster.settled, SECONDS, "they agree")
        (tmp_path / "messages" / "1.eml").write_bytes(MESSAGE)
        yield cluster


def release_and_kill(gateways: Gateways, server: SmtpServer, moment: str) -> tuple[str, Served, int]:
    """A message, released at a node that is killed when its server has read `moment`; the message, another node, and the cluster
    time at which the dead node's claim ends."""
    holder, other = gateways.nodes[1:]
    assert isinstance(holder, Gateway)
    with holder.worker() as worker:
        envelope = Envelope("a@example.net")
        envelope.rcpt("box@example.test")
        ident = worker.quarantine.capture(envelope, **ABOUT, reference="1.eml")  # type: ignore[arg-type]
    server.before[moment] = holder.kill
    with pytest.raises(OutcomeUnknown, match="hung up"):
        holder.client.quarantine.release(ident, 1, claim=CLAIM_SECONDS)
    server.before.clear()
    row = eventually(lambda: claimed(other, ident), SECONDS, "the other node has the claim")
    return ident, other, row["until"]


def claimed(node: Served, ident: str) -> dict[str, Any]:
    row: dict[str, Any] = node.client.quarantine.show(ident)["recipients"][0]
    return row if row["state"] == "claimed" else {}


def release_when_the_claim_has_ended(node: Served, ident: str, until: int) -> dict[str, Any]:
    """AssertionError when another gets it before `until`."""

    def attempt() -> dict[str, Any]:
        try:
            return node.client.quarantine.release(ident, 1)
        except Unavailable:
            return {}
        except Rejected as error:
            if error.code != Claimed.code:
                raise
            return {}

    done = eventually(attempt, SECONDS, "it is released")
    assert done["since"] >= until, "not before the dead node's claim had ended"
    return done


def test_a_claim_of_a_killed_node_ends_and_another_node_delivers(gateways: Gateways, server: SmtpServer) -> None:
    ident, other, until = release_and_kill(gateways, server, "DATA")
    done = release_when_the_claim_has_ended(other, ident, until)
    assert (done["claims"], done["deliveries"]) == (2, 1)
    assert len(server.taken) == 1 and len(server.sessions) == 2, "nobody had taken it from the dead one"
    gateways.nodes[1].start()
    with pytest.raises(Rejected) as caught:
        gateways.nodes[1].client.quarantine.release(ident, 1)
    assert caught.value.code == "quarantine-delivered"


def test_killed_between_the_servers_answer_and_the_commit_it_comes_twice_at_most(
    gateways: Gateways, server: SmtpServer
) -> None:
    """The bound that DESIGN.md states: this is the only way."""
    ident, other, until = release_and_kill(gateways, server, ".")
    done = release_when_the_claim_has_ended(other, ident, until)
    assert (done["claims"], done["deliveries"]) == (2, 1), "what the dead one did nobody can know"
    assert len(server.taken) == 2
    for node in (gateways.nodes[0], other):
        with pytest.raises(Rejected) as caught:
            node.client.quarantine.release(ident, 1)
        assert caught.value.code == "quarantine-delivered"
    assert len(server.taken) == 2
