"""The command that makes a cluster: the first entry of its log. Rules: see `machine`."""

from __future__ import annotations

from raftcluster.cluster.manifests import MANIFEST, Link, Manifest
from raftcluster.cluster.records import Facts, Generation, Member, rejected
from raftcluster.cluster.rows import Commands, check_address, check_name, expect, put_generation, put_link, put_member
from raftcluster.cluster.view import FACTS, facts
from raftcluster.codec import Value, pack
from raftcluster.machine import Tables


def _genesis(tables: Tables, time: int, what: list[Value], node: list[Value], minted: list[Value]) -> Value:
    """The first entry: facts, the founder, generation 1. Answered alike when it comes again."""
    wanted = Facts.of(what)
    known = facts(tables)
    if known is not None:
        if known == wanted:
            return known.cluster_id
        raise rejected(
            "has-genesis", f"this log belongs to cluster {known.cluster_id} already", subject=known.cluster_id
        )
    node_id, name, host, port, product = expect(node, (str, str, str, int, str))
    number, root, certificate, pin, manifest, signature = expect(minted, (int, bytes, bytes, bytes, bytes, bytes))
    check_name(name)
    check_address(host, port)
    if number < 1:
        raise rejected("malformed", "generations count from 1")
    tables.put(FACTS, b"cluster", wanted.pack())
    tables.put(FACTS, b"active", pack(number))
    tables.put(FACTS, b"last", pack(number))
    put_member(tables, Member(node_id, name, host, port, "voter", [pin], number, product, time))
    founder = [node_id]
    content = Manifest(MANIFEST, wanted.cluster_id, number, 1, "genesis", b"", {node_id: pin})
    if manifest != content.pack():
        raise rejected("other-manifest", "the manifest is not the one of the first generation", subject=str(number))
    put_link(tables, 1, Link(manifest, root, signature, {}))
    tables.put(FACTS, b"sequence", pack(1))
    put_generation(
        tables,
        Generation(
            number,
            "active",
            "genesis",
            1,
            founder,
            time,
            root=root,
            manifest=manifest,
            signature=signature,
            certificates={node_id: certificate},
            trusted=founder,
            switched=founder,
            minted=time,
            switching=time,
            retired=time,
        ),
    )
    return wanted.cluster_id


COMMANDS: Commands = {"genesis": (_genesis, (list, list, list))}
