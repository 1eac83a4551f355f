"""Certificate generations over real TLS, files and keys: who is down, who sleeps, who is left out, and how each comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from raftcluster.cluster import carried
from raftcluster.cluster.beginnings import ASLEEP_MS
from raftcluster.cluster.generations import RETIRE_MS, SWITCH_MS, TRUST_MS
from raftcluster.cluster.join import Joined, join
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.verification import verify
from raftcluster.cluster.view import View
from raftcluster.codec import unpack
from raftcluster.errors import Rejected, StorageFull, StorageRefusal, Unavailable
from raftcluster.transport.certificates import Token
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.stream import Stream
from tests.cluster_nodes import PRODUCT, SCHEMA, Cluster, Running, port
from tests.helpers import eventually
from tests.hierarchy import Forge

SECONDS = 60.0


def ask(cluster: Cluster, token: Token, number: int, **other: Any) -> Joined:
    where = ("127.0.0.1", port())
    options: dict[str, Any] = {
        "name": f"mx{number}.example.org", "listen": where, "advertise": where, "product": PRODUCT, "schema": SCHEMA,
    }  # fmt: skip
    return join(cluster.folder / f"mx{number}", cluster.address, token, **(options | other))


def settled(cluster: Cluster, number: int) -> Callable[[], bool]:
    def is_settled() -> bool:
        head = cluster.view().head
        return cluster.settled(number) and head is not None and len(head.content().voters) == len(cluster.nodes)

    return is_settled


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three voters in one generation, 2: both were invited at once."""
    made = Cluster(tmp_path)
    try:
        tokens = {number: made.members.invite(f"mx{number}.example.org") for number in (2, 3)}
        founder = made.nodes[0]
        founder.reconciler.close()  # until both have asked
        threads = [threading.Thread(target=ask, args=(made, token, number)) for number, token in tokens.items()]
        for thread in threads:
            thread.start()
        eventually(lambda: (pending := made.view().pending) is not None and len(pending.joiners) == 2, SECONDS)
        founder.reconcile_again()
        for thread in threads:
            thread.join()
        for number in (2, 3):
            made.add(made.folder / f"mx{number}").start()
        eventually(settled(made, 2), SECONDS, "three voters")
        yield made
    finally:
        made.close()


def sleep(cluster: Cluster) -> Path:
    """The last node is down."""
    node = cluster.nodes.pop()
    node.stop()
    return node.path


def wake(cluster: Cluster, path: Path) -> Running:
    """It is up again: with the tables of before, until somebody links with it."""
    node = Running(path, cluster.engine)
    node.host.freeze(lambda: bool(node.mesh.links()))
    cluster.nodes.append(node)
    return node.start()


def rotated(cluster: Cluster, *, exclude: list[str] | None = None) -> int:
    number = cluster.certs.rotate(exclude=exclude or [])
    cluster.certs.wait(number, seconds=SECONDS)
    eventually(lambda: cluster.view().pending is None)
    return number


@pytest.mark.usefixtures("impatient")
def test_asleep_during_three_generations_and_back_without_a_token(cluster: Cluster) -> None:
    frozen = cluster.view()
    path = sleep(cluster)
    node = Running(path, cluster.engine)
    node.host.freeze(lambda: bool(node.mesh.links()))  # its tables, as they are now
    for exclude in (["mx3.example.org"], [], []):
        rotated(cluster, exclude=exclude)
    assert cluster.certs.show().asleep == ["mx3.example.org"]
    assert node.host.query("cluster", type(frozen).read).revision == frozen.revision, "it knows of nothing"
    cluster.nodes.append(node)
    node.start()
    eventually(settled(cluster, 6), SECONDS, "it is back, in a generation that includes it")
    assert cluster.certs.show().asleep == []
    eventually(lambda: cluster.members.get("mx3.example.org").role == "voter", SECONDS, "the chain has named it before")
    assert [link.content().generation for link in node.keystore.chain()][-1] == 6
    assert verify(path).problems == []


def test_asleep_for_longer_than_allowed_it_must_join_again_and_is_told_so(cluster: Cluster) -> None:
    path = sleep(cluster)
    rotated(cluster, exclude=["mx3.example.org"])
    cluster.engine.now += ASLEEP_MS + 1
    node = wake(cluster, path)
    eventually(lambda: "slept-too-long" in node.reconciler.troubles(), SECONDS, "it says so")
    assert "invite it again" in node.reconciler.troubles()["slept-too-long"] and node.mesh.links() == {}


@pytest.mark.usefixtures("impatient")
def test_removed_while_it_slept_it_is_told_that_it_was(cluster: Cluster) -> None:
    path = sleep(cluster)
    node = Running(path, cluster.engine)
    node.host.freeze(lambda: False)
    cluster.members.remove("mx3.example.org")
    eventually(lambda: cluster.certs.show().generation == 3 and cluster.view().pending is None, SECONDS)
    cluster.nodes.append(node)
    node.start()
    assert node.removed.wait(SECONDS), "it knows, and stops"


@pytest.mark.usefixtures("impatient")
def test_asleep_in_the_middle_of_a_generation_it_asks_though_nobody_takes_its_request(cluster: Cluster) -> None:
    """The simulation, members/1: by its own tables a request is wanted of it, which needs a quorum; and without one it never
    came to ask what it had slept through."""
    path = sleep(cluster)
    cluster.certs.rotate()
    node = Running(path, cluster.engine)
    node.host.freeze(lambda: bool(node.mesh.links()))
    proposed, refused = node.host.propose, list[str]()

    def propose(machine: str, command: Any, **options: Any) -> Any:
        if node.mesh.links():
            return proposed(machine, command, **options)
        refused.append(command[0])
        raise Unavailable("nobody leads")

    node.host.propose = propose  # type: ignore[method-assign]
    view = node.host.query("cluster", View.read)
    assert view.pending is not None and view.pending.phase == "collect" and node.id in view.pending.members
    cluster.certs.abort()
    newest = rotated(cluster, exclude=["mx3.example.org"])
    cluster.nodes.append(node)
    node.start()
    eventually(settled(cluster, newest + 1), SECONDS, "it is back")
    assert "csr" in refused


@pytest.mark.usefixtures("impatient")
def test_removed_together_two_sleepers_that_link_with_each_other_are_told_all_the_same(cluster: Cluster) -> None:
    for number in (4, 5):
        ask(cluster, cluster.members.invite(f"mx{number}.example.org"), number)
        cluster.add(cluster.folder / f"mx{number}").start()
        eventually(settled(cluster, number - 1), SECONDS, f"{number} voters")
    sleepers = []
    for _ in range(2):
        sleepers.append(Running(sleep(cluster), cluster.engine))
        sleepers[-1].host.freeze(lambda: False)
    for number in (4, 5):
        cluster.members.remove(f"mx{number}.example.org")
    eventually(lambda: cluster.certs.show().generation > 4 and cluster.view().pending is None, SECONDS)
    cluster.nodes += sleepers
    for node in sleepers:
        node.start()
    eventually(lambda: all(node.ups for node in sleepers), SECONDS, "they have a link to each other")
    for node in sleepers:
        assert node.removed.wait(SECONDS), "it knows, and stops"


@pytest.mark.usefixtures("impatient")
def test_a_member_that_says_removed_is_believed_once_the_chain_bears_it_out(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    node = Running(sleep(cluster), cluster.engine)
    node.host.freeze(lambda: False)
    second = sleep(cluster)  # without it there is no majority for another manifest
    cluster.members.remove("mx3.example.org")
    cluster.nodes.append(node)
    node.start()
    for _ in range(2):
        caplog.clear()
        eventually(lambda: "removed: mx3.example.org was removed" in caplog.text, SECONDS, "it is told")
        assert not node.removed.is_set() and node.reconciler.troubles() == {}
    cluster.add(second).start()
    assert node.removed.wait(SECONDS), "and believes it now"


@pytest.mark.usefixtures("impatient")
def test_whoever_says_removed_without_a_certificate_of_the_chain_is_not_believed(cluster: Cluster) -> None:
    node = Running(sleep(cluster), cluster.engine)
    for _ in range(2):  # all are down, and somebody has the address of one of them
        sleep(cluster)
    asked: list[object] = []

    class Claim:
        def join(self, stream: Stream) -> None:
            stream.send({"nonce": b"0" * 16})
            asked.append(stream.receive())
            stream.part({"refused": "removed", "text": "you were removed", "remedy": ""})

    other = cluster.members.get("mx2.example.org")
    forged = Forge(cluster_id=node.cluster_id, generation=9)
    claimer = Mesh(
        forged.identity(other.node_id),
        [forged.root],
        (other.host, other.port),
        node.about,
        Claim(),  # type: ignore[arg-type]
    )
    claimer.start()
    try:
        node.start()
        eventually(lambda: len(asked) >= 2, SECONDS, "it is told so twice")
        assert not node.removed.is_set() and "removed" not in node.reconciler.troubles()
    finally:
        node.stop()
        claimer.close()


@pytest.mark.usefixtures("impatient")
def test_down_between_trust_and_retire_it_comes_back_without_anything_being_decided(cluster: Cluster) -> None:
    third = cluster.nodes[2]
    third.reconciler.close()
    number = cluster.certs.rotate()
    cluster.engine.propose("cluster", ["csr", number, third.id, third.keystore.request(number)])
    eventually(lambda: len(cluster.view().pending.endorsements) == 2, SECONDS, "the others trust it")  # type: ignore[union-attr]
    path = sleep(cluster)
    node = Running(path, cluster.engine)
    node.host.freeze(lambda: bool(node.mesh.links()))
    cluster.engine.now += TRUST_MS
    eventually(lambda: cluster.view().pending.phase == "switch", SECONDS, "a majority is enough")  # type: ignore[union-attr]
    cluster.engine.now += SWITCH_MS  # the leader, which switches last, waits no longer
    eventually(lambda: len(cluster.view().pending.switched) == 2, SECONDS, "they present it")  # type: ignore[union-attr]
    cluster.engine.now += RETIRE_MS
    cluster.certs.wait(number, seconds=SECONDS)
    assert cluster.certs.show().asleep == ["mx3.example.org"]
    begun = cluster.view().newest
    cluster.nodes.append(node)
    node.start()
    eventually(settled(cluster, number), SECONDS, "it is back")
    eventually(lambda: cluster.certs.show().asleep == [], SECONDS, "and takes part in the next one")
    assert cluster.view().newest == begun


def test_a_member_that_is_down_makes_a_rotation_end_and_say_who(cluster: Cluster) -> None:
    path = sleep(cluster)
    number = cluster.certs.rotate()
    eventually(lambda: len(cluster.view().pending.requests) == 2, SECONDS)  # type: ignore[union-attr]
    cluster.engine.now += RETIRE_MS
    with pytest.raises(Rejected, match=r"mx3\.example\.org did not answer") as caught:
        cluster.certs.wait(number, seconds=SECONDS)
    assert caught.value.code == "aborted" and "--exclude" in caught.value.remedy
    (step,) = [each for each in cluster.certs.show().generations if each.generation == number]
    assert step.phase == "aborted" and "mx3" in step.reason
    wake(cluster, path)
    eventually(settled(cluster, 2), SECONDS, "nothing has changed")


def test_abort_on_demand(cluster: Cluster) -> None:
    sleep(cluster)
    number = cluster.certs.rotate()
    assert cluster.certs.abort() == number
    with pytest.raises(Rejected) as caught:
        cluster.certs.abort()
    assert caught.value.code == "not-under-way" and cluster.certs.show().generation == 2


def test_a_token_outlives_the_generations_that_come_after_it(cluster: Cluster) -> None:
    token = cluster.members.invite("mx4.example.org")
    for _ in range(2):
        rotated(cluster)
    said: list[str] = []
    joined = ask(cluster, token, 4, progress=said.append)
    assert joined.generation == 5 and "manifests followed to generation 4" in said[0]
    cluster.add(cluster.folder / "mx4").start()
    eventually(settled(cluster, 5), SECONDS, "four voters")


def test_a_disk_that_is_full_between_key_and_certificate_holds_up_only_its_node(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = cluster.nodes[1]
    full = threading.Event()
    full.set()
    write = node.directory.write

    def limited(name: str, data: bytes) -> None:
        if full.is_set() and name.endswith("/node.pem"):
            raise StorageFull(f"{name}: No space left on device", remedy="free disk space")
        write(name, data)

    monkeypatch.setattr(node.directory, "write", limited)
    number = cluster.certs.rotate()
    eventually(lambda: StorageFull.code in node.reconciler.troubles(), SECONDS, "it says so")
    assert number in node.keystore.requests() and number not in node.keystore.stored(), "the key is there, and is kept"
    eventually(lambda: len(cluster.view().pending.endorsements) >= 2, SECONDS, "the others trust it")  # type: ignore[union-attr]
    assert node.mesh.links(), "it works on with the old one"
    full.clear()
    cluster.certs.wait(number, seconds=SECONDS)
    eventually(settled(cluster, number), SECONDS, "and is in the new one, as there is space again")
    assert node.reconciler.troubles() == {} and verify(node.path).problems == []


def test_a_minority_never_mints(cluster: Cluster) -> None:
    cluster.engine.failure = Unavailable("no quorum")
    for call in (lambda: cluster.members.invite("mx4.example.org"), cluster.certs.rotate):
        with pytest.raises(Unavailable):
            call()
    assert "minted" not in [command[0] for command in cluster.engine.commands[-2:]]
    assert cluster.view().pending is None and cluster.view().newest == 2


def test_a_join_through_files(cluster: Cluster, tmp_path: Path) -> None:
    path, file, folder = tmp_path / "mx4", tmp_path / "request", tmp_path / "bundle"
    where = ("127.0.0.1", port())
    made = carried.request(
        path, file, name="mx4.example.org", listen=where, advertise=where, product=PRODUCT, machines=SCHEMA
    )
    again = carried.request(
        path, file, name="mx4.example.org", listen=where, advertise=where, product=PRODUCT, machines=SCHEMA
    )
    assert again.node_id == made.node_id and again.request == made.request, "the same key"
    bundle = cluster.certs.export(file.read_bytes())
    assert cluster.certs.export(file.read_bytes())["generation"] == bundle["generation"], "asked again, answered again"
    carried.write_bundle(folder, bundle)
    other = tmp_path / "mx5"
    carried.request(
        other, tmp_path / "r5", name="mx5.example.org", listen=where, advertise=where, product=PRODUCT, machines=SCHEMA
    )
    with pytest.raises(Rejected) as caught:
        carried.take(other, folder)
    assert caught.value.code == "wrong-bundle", "it is bound to one request"
    for each in (file, folder / "bundle", folder / "root.pem"):
        assert b"PRIVATE KEY" not in each.read_bytes()
    joined = carried.take(path, folder)
    assert joined.node_id == made.node_id and joined.generation == 3
    cluster.add(path).start()
    eventually(settled(cluster, 3), SECONDS, "four voters")
    assert verify(path).problems == []
    with pytest.raises(StorageRefusal):
        carried.take(path, folder)


def test_a_request_file_that_is_none(cluster: Cluster, tmp_path: Path) -> None:
    where = ("127.0.0.1", port())
    file = tmp_path / "request"
    carried.request(
        tmp_path / "mx4", file, name="mx4.example.org", listen=where, advertise=where, product=PRODUCT, machines=SCHEMA
    )
    content = file.read_bytes()
    for broken in (b"", b"text", content[:-3], content.replace(b"mx4.example.org", b"mx9.example.org"), 7):
        with pytest.raises(Rejected):
            cluster.certs.export(broken)
    assert cluster.view().pending is None and len(cluster.tokens.list()) == 2, "no invitation either"


def test_verify_finds_what_is_wrong(cluster: Cluster) -> None:
    number, node = rotated(cluster), cluster.nodes[1]
    eventually(lambda: cluster.settled(number), SECONDS, "each has done its part")
    node.reconciler.close()  # else it may keep the chain again, that is damaged below
    report = cluster.certs.verify()
    assert report.problems == [] and report.manifests >= 3 and report.last_generation == 3 and len(report.voters) == 3
    root_key = ec.generate_private_key(ec.SECP256R1())
    pem = root_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    stray = node.path / "local" / "stray"
    stray.write_bytes(pem)
    assert verify(node.path).problems == [], "a key that is no root's"
    key = node.path / "certificates" / "3" / "node.key"
    key.chmod(0o644)
    assert "may be read by others" in verify(node.path).problems[0]
    key.chmod(0o600)
    chain = node.path / "certificates" / "chain"
    links = unpack(chain.read_bytes())
    node.keystore.keep_chain([type(node.keystore.chain()[0]).check(values) for values in (links[0], links[-1])])
    assert "chain of manifests" in verify(node.path).problems[0]
    chain.write_bytes(b"nonsense")
    assert "chain of manifests" in verify(node.path).problems[0]
    with pytest.raises(StorageRefusal):
        verify(cluster.folder)


def test_one_endorsement_per_number_also_after_a_restart(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    first = node.keystore.endorse(1_000, b"a" * 32, 2)
    again = Keystore(node.directory, node.cluster_id, node.id)
    assert again.endorse(1_000, b"a" * 32, 2) == first, "the same signature, byte by byte"
    for number in (1_000, 999):
        with pytest.raises(Rejected) as caught:
            again.endorse(number, b"b" * 32, 2)
        assert caught.value.code == "endorsed-another"


def test_two_clusters_on_one_host_refuse_each_other_in_words(cluster: Cluster, tmp_path: Path) -> None:
    """The port of a member that is down is taken by another cluster's node."""
    path = sleep(cluster)
    taken = cluster.members.get("mx3.example.org")
    other = Cluster(tmp_path / "other", address=(taken.host, taken.port))
    try:
        dialler = max(cluster.nodes, key=lambda node: node.id)
        wrong = [node for node in cluster.nodes if node.id > taken.node_id] or [dialler]
        second = wrong[0]
        if second.id > taken.node_id:
            eventually(lambda: second.mesh.refusals.get("cluster", 0) > 0, SECONDS, "a refusal of its own kind")
        sleep(cluster)
        lonely = cluster.nodes[0]
        eventually(lambda: "other-cluster" in lonely.reconciler.troubles(), SECONDS, "and it is told")
        assert other.nodes[0].cluster_id in lonely.reconciler.troubles()["other-cluster"]
        assert other.nodes[0].mesh.links() == {} == lonely.mesh.links()
        assert path.exists()
    finally:
        other.close()
