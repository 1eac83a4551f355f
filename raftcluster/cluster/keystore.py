"""Keys, certificates and what is trusted, on this node's disk.

    certificates/<generation>/node.key      the private key: written first, never leaves the node
    certificates/<generation>/request.pem   the request for it, until the certificate is there
    certificates/<generation>/root.pem      the root; alone when this node was never part of that generation
    certificates/<generation>/node.pem      written last: a folder that has it is complete
    certificates/trust.json                 what is presented, trusted and linked with, and the view that said so
    certificates/chain                      the public chain of manifests, as far as this node has followed it
    certificates/endorsed                   the newest manifest that this node has endorsed: one per number, ever

Each file is written durably and all or nothing, in this order; so there is nothing to roll back after a crash.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from raftcluster.cluster.manifests import Link, endorsed
from raftcluster.cluster.records import rejected
from raftcluster.codec import pack, unpack
from raftcluster.errors import FrameError, Rejected, StorageFailed
from raftcluster.storage.directory import DataDirectory, damaged, files_below, read_file
from raftcluster.transport.certificates import key_matches, make_request, new_key, public_key, sign, verify_leaf
from raftcluster.transport.ports import Identity, Peer
from raftcluster.transport.subject import SubjectId

UNNUMBERED: Final = 0
"""Where a joiner keeps its key until it is told its generation's number."""
_PRIVATE_KEY: Final = re.compile(
    rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----.{1,8192}?-----END [A-Z ]{0,20}PRIVATE KEY-----", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a node starts with, before its tables have told it anything newer."""

    revision: int
    """Of the view that all of this comes from."""
    presented: int
    trusted: tuple[int, ...]
    peers: dict[str, Peer]


class Keystore:
    """The certificates folder of one node. Thread: one at a time, the reconciler's once it runs."""

    def __init__(self, directory: DataDirectory, cluster_id: str, node_id: str) -> None:
        self._directory = directory
        self.cluster_id = cluster_id
        self.node_id = node_id

    # --- keys

    def on_disk(self) -> set[int]:
        """Generations of which there is anything."""
        return set(self._directory.generations()) - {UNNUMBERED}

    def stored(self) -> set[int]:
        """Generations whose certificate and key are there."""
        return {number for number in self.on_disk() if self._file(number, "node.pem").exists()}

    def rooted(self) -> set[int]:
        """Generations whose root is there."""
        return {number for number in self.on_disk() if self._file(number, "root.pem").exists()}

    def keys(self) -> dict[int, bytes]:
        """Every private key on the disk, by generation; a joiner's under `UNNUMBERED`."""
        files = {number: self._file(number, "node.key") for number in self._directory.generations()}
        return {number: read_file(file) for number, file in sorted(files.items()) if file.exists()}

    def requests(self) -> dict[int, bytes]:
        """Generations whose key waits for its certificate, with the request."""
        waiting = self.on_disk() - self.stored()
        files = {number: self._file(number, "request.pem") for number in sorted(waiting)}
        return {number: read_file(file) for number, file in files.items() if file.exists()}

    def request(self, number: int) -> bytes:
        """The certificate request of a generation; makes its key when there is none yet."""
        file = self._file(number, "request.pem")
        if not file.exists():
            key = self._file(number, "node.key")
            if not key.exists():
                self._write(number, "node.key", new_key())
            self._write(number, "request.pem", make_request(read_file(key), self.node_id))
        return read_file(file)

    def store(self, number: int, root: bytes, certificate: bytes) -> None:
        """Complete a generation. Its key is the one of the request, or whichever on the disk the certificate is for.

        Raises `Rejected` when the certificate is not this node's, of this generation, by this root, for such a key.
        """
        subject = verify_leaf(certificate, root)
        if subject != SubjectId(self.cluster_id, number, self.node_id):
            raise rejected(
                "wrong-certificate", f"the certificate is of {subject}, not of this node", subject=str(subject)
            )
        keys = self.keys()
        matching = [each for each in keys if key_matches(keys[each], certificate)]
        if not matching:
            raise rejected(
                "key-lost",
                f"the certificate of generation {number} is for another key than this node's",
                subject=str(subject),
                remedy="remove this node and let it join again",
            )
        if number not in matching:
            self._write(number, "node.key", keys[matching[0]])
        self._write(number, "root.pem", root)
        self._write(number, "node.pem", certificate)
        self._file(number, "request.pem").unlink(missing_ok=True)

    def add_root(self, number: int, root: bytes) -> None:
        """Keep the root of a generation that this node has no certificate of."""
        self._write(number, "root.pem", root)

    def identity(self, number: int) -> Identity:
        """What to present. Raises `StorageFailed` when the generation is not complete."""
        certificate, key = self._read(number, "node.pem"), self._read(number, "node.key")
        return Identity(self.cluster_id, self.node_id, number, certificate, key)

    def roots(self, numbers: Iterable[int]) -> list[bytes]:
        """The roots of these generations (PEM)."""
        return [self._read(number, "root.pem") for number in numbers]

    def forget(self, numbers: Iterable[int]) -> None:
        """Delete what there is of these generations: the keys first."""
        for number in numbers:
            folder = self._directory.certificates(number)
            for name in ("node.key", "request.pem", "node.pem", "root.pem"):
                (folder / name).unlink(missing_ok=True)
            for rest in folder.iterdir() if folder.is_dir() else ():
                rest.unlink()
            if folder.is_dir():
                folder.rmdir()

    def root_keys(self) -> list[Path]:
        """Files below the data directory that hold a root's private key: there must be none, ever."""
        roots = self.roots(sorted(self.rooted()))
        with suppress(StorageFailed):  # a chain that cannot be read names no root
            roots += [each.root for each in self.chain() if each.root]
        files = [each for each in files_below(self._directory.path) if each.is_file() and not each.is_symlink()]
        return [file for file in files if any(_is_key_of(key, root) for key in _keys_in(file) for root in roots)]

    # --- the chain of manifests

    def chain(self) -> list[Link]:
        """What `keep_chain` has kept; empty before. Raises `StorageFailed` when it is damaged."""
        file = self._directory.path / "certificates" / "chain"
        try:
            return [Link.check(values) for values in unpack(read_file(file))]
        except FileNotFoundError:
            return []
        except (OSError, FrameError, TypeError) as error:
            raise StorageFailed(f"{file} cannot be used: {error}", subject=str(file), remedy="join again") from error

    def keep_chain(self, links: Sequence[Link]) -> None:
        """Make `links` the chain that this node knows without its tables."""
        self._directory.write("certificates/chain", pack([each.values() for each in links]))

    def endorse(self, sequence: int, digest: bytes, signing: int) -> list[bytes]:
        """[public key, signature] of the key of generation `signing` for this link of the chain; the same again when asked
        again. It is on the disk before it is returned: this node never endorses two manifests for one number.

        Raises `Rejected` when it has endorsed another one for that number, or one for a later number.
        """
        file = self._directory.path / "certificates" / "endorsed"
        if file.exists():
            try:
                cluster_id, before, other, public, signature = unpack(read_file(file))
                if not isinstance(before, int):
                    raise TypeError("no number")
            except (FrameError, TypeError, ValueError) as error:
                raise damaged(file, "what this node has endorsed is not known") from error
            if (cluster_id, before, other) == (self.cluster_id, sequence, digest):
                return [public, signature]
            if cluster_id == self.cluster_id and before >= sequence:  # a recovered cluster begins a chain of its own
                raise rejected(
                    "endorsed-another",
                    f"this node has endorsed manifest number {before} already, another one than {digest.hex()[:16]}",
                    subject=str(sequence),
                    remedy="two leaders cannot have made this: verify the cluster before you go on",
                )
        key = self._read(signing, "node.key")
        made = [public_key(key), sign(key, endorsed(digest))]
        self._directory.write("certificates/endorsed", pack([self.cluster_id, sequence, digest, *made]))
        return made

    # --- trust

    def trust(self) -> Trust:
        """What `keep` has kept. Raises `StorageFailed` when the file is missing or damaged."""
        file = self._directory.path / "certificates" / "trust.json"
        try:
            kept = json.loads(read_file(file))
            peers = {
                node_id: Peer(node_id, (row["host"], row["port"]), frozenset(bytes.fromhex(pin) for pin in row["pins"]))
                for node_id, row in kept["peers"].items()
            }
            return Trust(kept["revision"], kept["presented"], tuple(kept["trusted"]), peers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageFailed(
                f"{file} cannot be used: {error}", subject=str(file), remedy="restore it, or join again"
            ) from error

    def keep(self, trust: Trust) -> None:
        """Make `trust` what this node starts with. Never turns the revision back."""
        file = self._directory.path / "certificates" / "trust.json"
        if file.exists():
            trust = replace(trust, revision=max(trust.revision, self.trust().revision))
        rows = {
            each.node_id: {
                "host": each.address[0],
                "port": each.address[1],
                "pins": sorted(pin.hex() for pin in each.pins),
            }
            for each in trust.peers.values()
        }
        kept = {"revision": trust.revision, "presented": trust.presented, "trusted": list(trust.trusted), "peers": rows}
        self._directory.write("certificates/trust.json", (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode())

    def _file(self, number: int, name: str) -> Path:
        return self._directory.certificates(number) / name

    def _write(self, number: int, name: str, data: bytes) -> None:
        self._directory.write(f"certificates/{number}/{name}", data)

    def _read(self, number: int, name: str) -> bytes:
        file = self._file(number, name)
        try:
            return read_file(file)
        except OSError as error:
            raise StorageFailed(f"{file}: {error.strerror}", subject=str(file), remedy="join again") from error


def _keys_in(file: Path) -> list[bytes]:
    """The private keys (PEM) anywhere in a file, however large it is; none when it has gone meanwhile."""
    try:
        if file.stat().st_size == 0:
            return []
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return [found[0] for found in _PRIVATE_KEY.finditer(content)]
    except FileNotFoundError:
        return []


def _is_key_of(key: bytes, certificate: bytes) -> bool:
    try:
        return key_matches(key, certificate)
    except Rejected:  # a key of another kind is no root's
        return False
