"""Joining through files, where no network path leads to a member: a request is carried there, a bundle back.

    joiner                          member                                  joiner
    certs request FILE       -->    certs export --request FILE DIR   -->   certs import DIR

No private key leaves its node, and nothing of it is secret. Whoever carries the files is trusted to carry the right ones: a
bundle proves that its chain is consistent, not whose it is -- `take` shows the root's fingerprint, to be compared by people.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self

from raftcluster.cluster import chain
from raftcluster.cluster.bundle import Bundle
from raftcluster.cluster.features import checked
from raftcluster.cluster.join import Joined, about_node, directory_for, settle, staged
from raftcluster.cluster.keystore import UNNUMBERED, Keystore
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.records import SCHEMA, rejected
from raftcluster.cluster.rows import check_address, check_name
from raftcluster.codec import Value, pack, unpack
from raftcluster.errors import FrameError, StorageRefusal
from raftcluster.storage.directory import DataDirectory, damaged, read_file, read_object, refusals
from raftcluster.transport.certificates import (
    key_fingerprint,
    public_key,
    request_fingerprint,
    request_hash,
    sign,
    verify_key,
)
from raftcluster.transport.ports import Address

CONTEXT: Final = "raftcluster-request-v1"
BUNDLE: Final = "bundle"
ROOT: Final = "root.pem"
STAGED: Final = "files"
"""What stands for the token's id in a directory whose node joins through files."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a request file says of the host that made it."""

    node_id: str
    name: str
    host: str
    port: int
    product: str
    schema: int
    realm: str
    machines: Mapping[str, int]
    features: list[str]
    request: bytes
    """Certificate request (PEM)."""

    def command(self, token_id: str) -> list[Value]:
        """The joiner, as `begin` wants it."""
        about = [self.node_id, self.name, self.host, self.port, self.product, self.schema, self.realm, token_id]
        return [*about, request_hash(self.request), self.request]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The request with these fields. Raises `Rejected`."""
        kinds = {"port": int, "schema": int, "machines": dict, "features": list, "request": bytes}
        if set(values) != {each.name for each in fields(cls)} or not all(
            isinstance(value, kinds.get(name, str)) and not isinstance(value, bool) for name, value in values.items()
        ):
            raise _no_request()
        return cls(**values)


def request(
    path: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    name: str,
    listen: Address,
    advertise: Address,
    product: str,
    machines: Mapping[str, int],
    features: Sequence[str] = (),
    realm: str = "standalone",
    firewall: Mapping[str, Any] | None = None,
) -> Request:
    """Begin to make `path` the data directory of a new member, and write to `file` what to carry to a member.

    Asking again, with the same directory, writes the same key's request. Raises `Rejected`, `StorageRefusal`.
    """
    check_name(name)
    check_address(*advertise)
    with directory_for(path) as directory:
        node_id = staged(directory, STAGED)
        keystore = Keystore(directory, "", node_id)
        pem = keystore.request(UNNUMBERED)
        made = Request(node_id, name, *advertise, product, SCHEMA, realm, dict(machines), checked(features), pem)
        directory.write("request.json", json.dumps(about_node(name, listen, product, firewall)).encode())
        key = keystore.keys().get(UNNUMBERED)
        if key is None:
            raise damaged(directory.certificates(UNNUMBERED), "there is no key for the request")
        about = asdict(made)
        with refusals(Path(file)):
            Path(file).write_bytes(pack([CONTEXT, about, public_key(key), sign(key, pack([CONTEXT, about]))]))
    return made


def read_request(content: Value) -> Request:
    """The request in the bytes of a file. Raises `Rejected` when they are none, or not signed by the request's own key."""
    if not isinstance(content, bytes):
        raise _no_request()
    try:
        context, about, public, signature = unpack(content)
        found = Request.of(about)
        pin = request_fingerprint(found.request)
    except (FrameError, ValueError, TypeError) as error:
        raise _no_request() from error
    if context != CONTEXT or not isinstance(public, bytes) or key_fingerprint(public) != pin:
        raise _no_request()
    verify_key(public, pack([CONTEXT, about]), signature)
    return found


def write_bundle(folder: str | os.PathLike[str], bundle: Value) -> None:
    """Write what `Certs.export` has returned to `folder`, which is made. Raises `StorageRefusal`, `FrameError`."""
    found = Bundle.read(bundle)
    where = Path(folder)
    with refusals(where):
        where.mkdir(parents=True, exist_ok=True)
        (where / ROOT).write_bytes(found.roots[found.generation])
        (where / BUNDLE).write_bytes(pack(found.message()))


def take(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Joined:
    """Make `path`, in which `request` was made, the data directory of a member, from the files in `folder`.

    Raises `Rejected` when the bundle is for another request or its chain is not consistent, `StorageRefusal`.
    """
    file = Path(folder) / BUNDLE
    try:
        bundle = Bundle.read(unpack(read_file(file)))
    except OSError as error:
        remedy = "name the folder that `raftcluster certs export` has written"
        raise StorageRefusal(f"{file}: {error.strerror}", subject=str(file), remedy=remedy) from error
    except FrameError as error:
        raise StorageRefusal(f"{file} is no bundle: {error}", subject=str(file), remedy="export it again") from error
    with DataDirectory.open(path) as directory:
        node, attempt = (read_object(directory.path / name) for name in ("request.json", "join.json"))
        if node is None or attempt is None:
            raise StorageRefusal(
                f"no request was made in {path}", subject=str(path), remedy="raftcluster certs request FILE"
            )
        node_id = attempt.get("node_id")
        if not isinstance(node_id, str):
            raise damaged(directory.path / "join.json", "it does not say who asked")
        if all(each.node_id != node_id for each in bundle.members):
            raise rejected(
                "wrong-bundle", f"{file} is for another host", subject=str(file), remedy="carry the right one"
            )
        keystore = Keystore(directory, bundle.facts.cluster_id, node_id)
        joined = settle(bundle, directory, keystore, node_id, node, _whole)
        (directory.path / "request.json").unlink()
    return joined


def quiet(text: str) -> None:
    """Nobody waits for progress."""


def is_address(host: str) -> bool:
    """Whether it is an IP address and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _whole(links: list[Link]) -> list[Link]:
    """The chain from its beginning: people vouch for that one. Its first root has signed its manifest."""
    if links and links[0].root:
        chain.check_root(links[0])
    return list(links)


def _no_request() -> Exception:
    return rejected("malformed", "that is no request file", remedy="make it with: raftcluster certs request FILE")
