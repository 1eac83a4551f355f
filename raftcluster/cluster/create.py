"""A new cluster of one: its data directory, its first certificates, and its first command."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from raftcluster.cluster.auditing import attributed
from raftcluster.cluster.keystore import Keystore, Trust
from raftcluster.cluster.manifests import MANIFEST, Link, Manifest
from raftcluster.cluster.reconcile import GENESIS
from raftcluster.cluster.records import SCHEMA, Facts
from raftcluster.cluster.rows import check_address, check_name
from raftcluster.codec import Value, pack
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.certificates import fingerprint, request_fingerprint
from raftcluster.transport.minting import mint
from raftcluster.transport.ports import Address

GENERATION = 1


def init(
    path: str | os.PathLike[str],
    name: str,
    listen: Address,
    advertise: Address,
    product: str,
    *,
    cluster: str | None = None,
    lab: bool = False,
    realm: str = "standalone",
    firewall: Mapping[str, Any] | None = None,
    reason: str = "",
    author: str = "",
) -> str:
    """Make `path` the data directory of the first node of a new cluster; the result is the cluster's id.

    `name` is the node's name, `cluster` the cluster's (default: the same). `lab` marks a cluster for trying things out.
    `firewall` is what `firewall.preflight` has found; None: the node goes without one. `author` and `reason` are kept. Nothing is started: the genesis waits in the directory and is proposed when the node starts, as often as it takes.

    Raises `Rejected` for a bad name or address, `StorageRefusal` when the directory is not empty, `Refusal` when the minting
    child cannot run. What an interrupted attempt has left is used by the next one: node.json is written last.
    """
    check_name(name)
    check_address(*advertise)
    cluster_id, node_id = str(uuid.uuid4()), str(uuid.uuid4())
    facts = Facts(cluster_id, cluster or name, lab, product, SCHEMA, realm, node_id)
    with _directory(path) as directory:
        keystore = Keystore(directory, cluster_id, node_id)
        genesis = founding(keystore, GENERATION, facts, name, advertise, product)
        directory.write(GENESIS, pack(attributed(genesis, author, name, reason)))
        keystore.keep(Trust(0, GENERATION, (GENERATION,), {}))
        directory.write_node(
            {
                "node_id": node_id,
                "name": name,
                "listen": list(listen),
                "advertise": list(advertise),
                "product": product,
                "cluster_id": cluster_id,
                "cluster": facts.name,
                "founder": node_id,
                "realm": realm,
                "lab": lab,
                "firewall": firewall is not None,
                "before": dict(firewall or {}),
            }
        )
    return cluster_id


def founding(
    keystore: Keystore, generation: int, facts: Facts, name: str, advertise: Address, product: str
) -> list[Value]:
    """The genesis command of the cluster with these `facts`, whose founder is the keystore's node. The key, the certificate
    and the root of its first `generation` are made, and are on the disk. Raises `Refusal` when the minting child cannot run."""
    node_id = facts.founder
    request = keystore.request(generation)
    voters = {node_id: request_fingerprint(request)}
    manifest = Manifest(MANIFEST, facts.cluster_id, generation, 1, "genesis", b"", voters).pack()
    minted = mint(facts.cluster_id, generation, {node_id: request}, manifest, gently=False)
    certificate = minted.certificates[node_id]
    keystore.store(generation, minted.root_pem, certificate)
    keystore.keep_chain([Link(manifest, minted.root_pem, minted.manifest_signature, {})])
    founder = [node_id, name, *advertise, product]
    proven = [fingerprint(certificate), manifest, minted.manifest_signature]
    return ["genesis", facts.values(), founder, [generation, minted.root_pem, certificate, *proven]]


def _directory(path: str | os.PathLike[str]) -> DataDirectory:
    """A new directory, or one that an earlier attempt has begun."""
    others = ("node.json", "join.json", "restore.json")
    return DataDirectory.begin(path, lambda root: not any((root / name).exists() for name in others))
