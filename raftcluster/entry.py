"""How an empty directory becomes a node's: `init` begins a cluster, `join` enters one, `restore` begins one from a backup.
Nothing is left running.

All take the address to listen at and, when the others have to use another one, the address to advertise. Without it
that is the address to listen at; where that is a wildcard, the node's name with the same port.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from raftcluster.backup import restore as restoring
from raftcluster.backup.restore import Restored
from raftcluster.builtin import FEATURES, PRODUCT, all_machines, schemas
from raftcluster.cluster import carried, create, verification
from raftcluster.cluster import join as joining
from raftcluster.cluster.carried import Request, write_bundle
from raftcluster.cluster.join import Joined
from raftcluster.cluster.verification import Report
from raftcluster.events.outlet import Outlet
from raftcluster.firewall import preflight
from raftcluster.machine import StateMachine
from raftcluster.remote.probe import realm_of
from raftcluster.remote.shell import Local
from raftcluster.transport.certificates import Token

Address = tuple[str, int]
__all__ = ["import_bundle", "init", "join", "request_certificate", "restore", "verify_certificates", "write_bundle"]


def init(
    path: str | os.PathLike[str],
    *,
    cluster: str,
    node: str,
    listen: Address,
    advertise: Address | None = None,
    lab: bool = False,
    product: str = PRODUCT,
    realm: str | None = None,
    firewall: bool = True,
    reason: str = "",
    author: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> str:
    """Begin a cluster: make `path` the data directory of its first node. Returns the cluster's id.

    `cluster` and `node` are names for people; the node's must be its host name if nothing is advertised and `listen` is a
    wildcard. `lab` allows waits below a minute. `realm` is the cluster's trust realm, which all its hosts must have: None is the
    Kerberos realm that this host is enrolled in, as realmd or its keytab tells, and `standalone` where it is in none. With `firewall` the running node keeps strangers from its port (an nftables
    table of its own); where it listens on loopback it needs none. Without nft or the privilege that raises `Refusal` or
    `MissingPrivilege`, and nothing is changed; `firewall=False` goes on without. `progress` is told of foreign rules that
    keep the other nodes out. `author` and `reason` stand in the audit log. Raises `Rejected`, `StorageRefusal`, `Refusal`.
    """
    reached = _advertised(node, listen, advertise)
    before = _checked(path, listen, firewall, progress)
    return create.init(
        path,
        node,
        listen,
        reached,
        product,
        cluster=cluster,
        lab=lab,
        realm=_realm(realm),
        firewall=before,
        reason=reason,
        author=author,
    )


def join(
    path: str | os.PathLike[str],
    *,
    address: Address,
    token: str,
    node: str,
    listen: Address,
    advertise: Address | None = None,
    product: str = PRODUCT,
    machines: Sequence[StateMachine] = (),
    features: Sequence[str] = (),
    realm: str | None = None,
    firewall: bool = True,
    reason: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> Joined:
    """Enter the cluster of the member at `address` with a token of its `members.invite(node)`. Waits until it is done.

    `machines` and `features` are the embedder's, as for `Node.open`; `realm` and `firewall` are as for `init`; `reason` stands in
    the audit log, beside this host's name and address. Asking again with the same directory and token is always safe.
    Raises `Rejected`, `Unavailable`, `LinkRefused`, `StorageRefusal`.
    """
    return joining.join(
        path,
        address,
        Token.parse(token),
        name=node,
        listen=listen,
        advertise=_advertised(node, listen, advertise),
        product=product,
        schema=schemas(all_machines(machines)),
        features=[*FEATURES, *features],
        realm=_realm(realm),
        firewall=_checked(path, listen, firewall, progress),
        reason=reason,
        progress=progress,
    )


def request_certificate(
    path: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    node: str,
    listen: Address,
    advertise: Address | None = None,
    product: str = PRODUCT,
    machines: Sequence[StateMachine] = (),
    features: Sequence[str] = (),
    realm: str | None = None,
    firewall: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> Request:
    """Join where no network path leads to a member, step 1: begin to make `path` a member's, and write to `file` what to carry
    to one. There `node.certs.export` (step 2) makes a bundle of its content, and `write_bundle` files; `import_bundle` is step
    3. Private keys stay where they are. The arguments and errors are those of `join`; asking again is safe."""
    return carried.request(
        path,
        file,
        name=node,
        listen=listen,
        advertise=_advertised(node, listen, advertise),
        product=product,
        machines=schemas(all_machines(machines)),
        features=[*FEATURES, *features],
        realm=_realm(realm),
        firewall=_checked(path, listen, firewall, progress),
    )


def import_bundle(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Joined:
    """Step 3: make `path`, where a request was made, a member's with the files in `folder`. Raises `Rejected` when they are for
    another request or contradict themselves, `StorageRefusal`."""
    return carried.take(path, folder)


def verify_certificates(path: str | os.PathLike[str]) -> Report:
    """What the certificates of the node in `path` are worth, from its files alone, whether it runs or not: what is wrong is in
    `problems`. Raises `StorageRefusal` when `path` is no node's."""
    return verification.verify(path)


def restore(
    path: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    node: str,
    listen: Address,
    advertise: Address | None = None,
    cluster: str | None = None,
    product: str = PRODUCT,
    machines: Sequence[StateMachine] = (),
    outlet: Outlet | None = None,
    firewall: bool = True,
    reason: str = "",
    author: str = "",
    progress: Callable[[str], None] = lambda text: None,
) -> Restored:
    """Begin a new cluster with the state in the backup `file`: `path` becomes the data directory of its first node.

    `cluster` is its name, by default the old one's. `machines` are the embedder's, as for `Node.open`; `firewall`, `author`,
    `reason` and `progress` are as for `init`. The id, the node and the certificates are new: members of the old cluster are refused
    until they join. The backup is checked first.
    Raises `BackupDamaged`, `BackupForeign`, `Rejected`, `StorageRefusal`, `Refusal`.
    """
    reached = _advertised(node, listen, advertise)
    return restoring.restore(
        path,
        file,
        node=node,
        listen=listen,
        advertise=reached,
        product=product,
        cluster=cluster,
        machines=machines,
        outlet=outlet,
        firewall=_checked(path, listen, firewall, progress),
        reason=reason,
        author=author,
    )


def _realm(declared: str | None) -> str:
    return realm_of(Local()) if declared is None else declared


def _checked(
    path: str | os.PathLike[str], listen: Address, firewall: bool, say: Callable[[str], None]
) -> Mapping[str, Any] | None:
    """What the firewall will be compared with in the end; None when the node goes without one."""
    if not firewall or not preflight.is_needed(listen[0]):
        return None
    return preflight.check(listen, say)


def _advertised(node: str, listen: Address, advertise: Address | None) -> Address:
    if advertise is not None:
        return advertise
    try:
        wildcard = ip_address(listen[0]).is_unspecified
    except ValueError:  # a host name
        wildcard = False
    return (node, listen[1]) if wildcard else listen
