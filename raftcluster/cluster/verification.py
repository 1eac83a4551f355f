"""What a node's certificates are worth, offline: from its directory alone, whether it runs or not.

Thread: any. Reads files; needs no lock, for each file is written all or nothing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from raftcluster.cluster import chain
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.manifests import Link
from raftcluster.errors import RaftclusterError
from raftcluster.storage.directory import DataDirectory, files_below
from raftcluster.transport.certificates import fingerprint, key_matches, validity, verify_leaf


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what is wrong."""

    node_id: str
    cluster_id: str
    presented: int
    """The generation that this node shows."""
    trusted: list[int]
    manifests: int
    """Links of the chain that were verified, each by the endorsements of a majority of the voters before it."""
    first_generation: int
    last_generation: int
    voters: list[str]
    """Ids, as the newest manifest has them."""
    files: int
    """Files that were searched for a root's private key."""
    expires: str
    """When the certificate that is presented ends."""
    problems: list[str] = field(default_factory=list)
    """Empty when all is well."""


def verify(path: str | os.PathLike[str]) -> Report:
    """Look at everything; what is wrong is in `problems`. Raises `StorageRefusal` when `path` is no node's directory."""
    with DataDirectory.look(path) as directory:
        node = directory.read_node()
        keystore = Keystore(directory, node["cluster_id"], node["node_id"])
        problems: list[str] = []
        files = sum(1 for each in files_below(directory.path) if each.is_file())
        problems += [f"{file} holds the private key of a root" for file in keystore.root_keys()]
        problems += _modes(directory.path / "certificates")
        links, newest = _chain(keystore, node["cluster_id"], problems)
        presented, trusted, expires = _presented(keystore, links, problems)
        return Report(
            node["node_id"],
            node["cluster_id"],
            presented,
            list(trusted),
            len(links),
            links[0].content().generation if links else 0,
            newest.content().generation if newest else 0,
            list(newest.content().voters) if newest else [],
            files,
            expires,
            problems,
        )


def _modes(folder: Path) -> list[str]:
    found = []
    for file in [each for each in files_below(folder) if each.suffix == ".key"]:
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except FileNotFoundError:  # the node runs, and has retired a generation meanwhile
            continue
        if mode & 0o077:
            found.append(f"{file} may be read by others: its mode is {mode:o}")
    return found


def _chain(keystore: Keystore, cluster_id: str, problems: list[str]) -> tuple[list[Link], Link | None]:
    try:
        links = keystore.chain()
        chain.verify(links, cluster_id=cluster_id)
        for link in links:
            if link.root:
                chain.check_root(link)
    except RaftclusterError as error:
        problems.append(f"chain of manifests: {error}")
        return [], None
    return links, links[-1]


def _presented(keystore: Keystore, links: list[Link], problems: list[str]) -> tuple[int, tuple[int, ...], str]:
    try:
        trust = keystore.trust()
        identity = keystore.identity(trust.presented)
        root = keystore.roots([trust.presented])[0]
        verify_leaf(identity.certificate, root)
        if not key_matches(identity.key, identity.certificate):
            problems.append(f"generation {trust.presented}: the key is not the certificate's")
        expires = validity(identity.certificate)[1].strftime("%Y-%m-%dT%H:%M:%SZ")
    except RaftclusterError as error:
        problems.append(f"the certificate that is presented: {error}")
        return 0, (), ""
    known = {link.content().generation: link for link in links if link.root}
    for number, trusted_root in zip(trust.trusted, keystore.roots(trust.trusted), strict=True):
        if number in known and known[number].root != trusted_root:
            problems.append(f"generation {number}: the trusted root is not the chain's")
    if not any(number in known for number in trust.trusted) and links:
        problems.append("none of the trusted roots is in the chain of manifests")
    if links and trust.presented == links[-1].content().generation:
        pin = links[-1].content().voters.get(identity.node_id)
        if pin is not None and pin != fingerprint(identity.certificate):
            problems.append("the newest manifest names another key for this node")
    return trust.presented, trust.trusted, expires
