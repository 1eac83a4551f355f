"""Large values on real nodes: whole or not at all over lost leaders and dead clients; and the chain, on real disks."""

from __future__ import annotations

import json
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import lmdb
import pytest
from click.testing import CliRunner

import raftcluster
from raftcluster import Node, limits
from raftcluster.cli.main import main
from raftcluster.codec import pack
from raftcluster.config.blobs import parts_of, read_blob
from raftcluster.config.watch import Change
from raftcluster.control.client import Client
from raftcluster.control.server import ControlServer
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Unavailable
from tests.clusters import Cluster
from tests.helpers import eventually, free_ports

LARGE = 600_000
ROUNDS = 12


def document(number: int) -> dict[str, Any]:
    """It says itself whether it is whole."""
    return {"number": number, "lines": [f"{number:06d}" * 100] * (LARGE // 600), "end": number}


def is_whole(value: Any) -> bool:
    return bool(value == document(value["number"]))


def put(node: Node, number: int) -> None:
    """As often as it takes; it may be made more than once, and the last one counts."""

    def done() -> bool:
        try:
            node.config.set("rules/all", document(number), deadline=10.0)
        except (Unavailable, OutcomeUnknown):
            return False
        return True

    eventually(done, what=f"document {number}")


def abandoned(node: Node, salt: int) -> bytes:
    """A client begins to upload and dies before the last part; the digest."""
    packed = pack(document(1_000 + salt))
    digest = sha256(packed).digest()
    for number, part in enumerate(parts_of(packed)[:-1]):
        node.propose("config", ["part", digest, len(packed), number, part], deadline=60.0)
    return digest


def test_a_document_larger_than_an_entry_is_whole_or_not_there(tmp_path: Path) -> None:
    assert len(pack(document(0))) > limits.ENTRY_BYTES
    with Cluster(tmp_path / "nodes", 3) as cluster:
        leader = cluster.leader()
        observer, writer = [number for number in cluster.nodes if number != leader]
        seen: list[Change] = []
        watch = cluster.nodes[observer].config.watch("rules/", since=0)
        thread = threading.Thread(target=lambda: seen.extend(watch))
        thread.start()
        wrong: list[Any] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                value = cluster.nodes[observer].config.get("rules/all")
                if value is not None and not is_whole(value):
                    wrong.append(value)

        reader = threading.Thread(target=read)
        reader.start()
        given_up = [abandoned(cluster.nodes[leader], 1)]
        stopper = threading.Thread(target=cluster.stop, args=(leader,))
        for number in range(ROUNDS):
            if number == ROUNDS // 2:
                stopper.start()  # while a document is under way
            put(cluster.nodes[writer], number)
        stopper.join(60)
        given_up.append(abandoned(cluster.nodes[writer], 2))
        eventually(lambda: bool(seen) and seen[-1].value["number"] == ROUNDS - 1, what="the last document")
        stop.set()
        reader.join(60)
        assert wrong == []
        assert all(is_whole(each.value) for each in seen)
        assert list(dict.fromkeys(each.value["number"] for each in seen)) == list(range(ROUNDS))
        assert [each.revision for each in seen] == list(range(1, len(seen) + 1))

        back = cluster.start(leader)
        eventually(lambda: back.config.get("rules/all") == document(ROUNDS - 1), what="it is back and has it")
        eventually(lambda: len({node.config.verify() for node in cluster.nodes.values()}) == 1)
        assert back.config.verify().bad is None
        for digest in given_up:
            blob = back.query("config", lambda tables, _, d=digest: read_blob(tables, d))  # type: ignore[misc]
            assert blob is not None and blob.items == 0 and blob.references == 0
        assert back.verify(deadline=60.0).verdict == "sound"

        file = tmp_path / "backup"
        back.backup(file)
    where = ("127.0.0.1", free_ports(1)[0])
    raftcluster.restore(tmp_path / "restored", file, node="mx9", listen=where)
    with Node.open(tmp_path / "restored") as node:
        assert node.config.get("rules/all") == document(ROUNDS - 1)
        assert node.config.at(1)["rules/all"].value == document(0)
        assert node.config.rollback(1) > ROUNDS and node.config.get("rules/all") == document(0)
        assert node.config.verify().bad is None


def test_a_client_reads_and_sets_large_values_over_the_control_socket(tmp_path: Path) -> None:
    with Cluster(tmp_path, 1) as cluster:
        node = cluster.nodes[0]
        server = ControlServer(node, cluster.path(0) / "control.sock")
        server.start()
        try:
            client = Client(server.path)
            for number in range(8):
                assert client.config.set("rules/all", document(number)) == number + 1
            assert [each["value"]["number"] for each in client.config.history("rules/all")] == list(range(7, -1, -1))
            assert [each["value"]["number"] for each in client.config.log()] == list(range(7, -1, -1))
            assert is_whole(client.config.at(3)["rules/all"]["value"])
            (change,) = client.config.diff(1)
            assert (change["before"]["value"]["number"], change["after"]["value"]["number"]) == (0, 7)
            run = ["-C", str(cluster.path(0)), "config"]
            assert CliRunner().invoke(main, [*run, "rollback", "2"]).exit_code == 0
            shown = CliRunner().invoke(main, [*run, "get", "rules/all"])
            assert json.loads(shown.stdout) == document(1)
            file = tmp_path / "rules.json"
            file.write_text(json.dumps(document(9)))  # longer than an argument may be
            assert CliRunner().invoke(main, [*run, "set", "rules/all", "--file", str(file)]).exit_code == 0
            assert client.config.get("rules/all") == document(9)
            given = CliRunner().invoke(main, [*run, "set", "rules/all", "--file", "-"], input=json.dumps(document(1)))
            assert given.exit_code == 0 and client.config.get("rules/all") == document(1)
            large = json.dumps(["x" * limits.CONFIG_VALUE_BYTES])
            refused = CliRunner().invoke(main, [*run, "set", "rules/all", "--file", "-", "--json"], input=large)
            assert refused.exit_code == 4 and json.loads(refused.stdout)["error"]["code"] == "value-too-large"
            file.write_bytes(b"\xff\xfe")
            for wrong, code in ((["--file", str(file)], 4), ([], 2), (["x", "--file", str(file)], 2)):
                assert CliRunner().invoke(main, [*run, "set", "rules/all", *wrong]).exit_code == code
            proven = CliRunner().invoke(main, [*run, "verify"])
            assert proven.stdout.startswith("revisions 1 to 11 are what they were\ndigest ")
        finally:
            server.close()


def tampered(path: Path, table: str, key: bytes, at: int) -> bytes:
    """One bit of one byte of a row of a node that does not run; what it was."""
    env = lmdb.open(str(path / "tables"), max_dbs=64)
    try:
        with env.begin(write=True) as transaction:
            database = env.open_db(f"config.{table}".encode(), txn=transaction)
            found = transaction.get(key, db=database)
            assert found is not None
            row = bytes(found)
            transaction.put(key, row[:at] + bytes([row[at] ^ 1]) + row[at + 1 :], db=database)
            return row
    finally:
        env.close()


@pytest.mark.parametrize("table", ["changes", "history", "values", "parts"])
def test_one_flipped_byte_in_lmdb_is_named_by_its_revision(tmp_path: Path, table: str) -> None:
    with Cluster(tmp_path, 1) as cluster:
        config = cluster.nodes[0].config
        for number in range(5):
            config.set("mail/limit", f"limit {number}", author="anna", reason="because")
        config.set("rules/all", document(7))
        digest = config.verify().digest
        path = cluster.path(0)
    proof = raftcluster.verify_config(path)
    assert (proof.last, proof.bad, proof.digest) == (6, None, digest)
    run = ["-C", str(path)]
    sound = CliRunner().invoke(main, [*run, "config", "verify", "--offline", "--json"])
    assert sound.exit_code == 0 and json.loads(sound.stdout)["digest"] == digest
    env = lmdb.open(str(path / "tables"), max_dbs=64)
    with env.begin() as transaction:
        rows = dict(transaction.cursor(env.open_db(f"config.{table}".encode(), txn=transaction)))
    env.close()
    key, expected = {
        "changes": ((3).to_bytes(8), 3),
        "history": (b"mail/limit\0" + (2).to_bytes(8), 2),
        "values": (b"mail/limit", 5),
        "parts": (max(rows), 6),
    }[table]
    row = bytes(rows[key])
    at = row.index(b"limit ") + 6 if b"limit " in row else len(row) - 1
    tampered(path, table, key, at)
    proof = raftcluster.verify_config(path)
    assert proof.bad == expected, proof.reason
    named = CliRunner().invoke(main, [*run, "config", "verify", "--offline"])
    assert named.exit_code == 14 and f"revision {expected}: " in named.stderr
    whole = CliRunner().invoke(main, [*run, "verify", "--offline"])
    assert whole.exit_code == 14 and f"revision {expected}: " in whole.stdout
    tampered(path, table, key, at)
    assert raftcluster.verify_config(path).bad is None
    with pytest.raises(RaftclusterError):
        raftcluster.verify_config(tmp_path / "nowhere")
