"""What makes a host a member: certificate, roots, members, and the chain of manifests that proves them. All of it is public.

A member makes it for one certificate request (`make`); a joiner, a member that returns, or one that was carried files checks
it against what it knows and stores it (`take`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from raftcluster.cluster import chain
from raftcluster.cluster.keystore import Keystore, Trust
from raftcluster.cluster.manifests import Link
from raftcluster.cluster.records import Facts, Generation, Member
from raftcluster.cluster.rows import check_address, expect
from raftcluster.cluster.view import View
from raftcluster.codec import Value
from raftcluster.errors import FrameError
from raftcluster.transport.certificates import verify_root
from raftcluster.transport.ports import Peer

_FACTS: Final = (str, str, bool, str, int, str, str)
_MEMBER: Final = (str, str, str, int, str, list, int, str, int, int)


@dataclass(frozen=True, slots=True)
class Bundle:
    """See the head of the file."""

    facts: Facts
    generation: int
    certificate: bytes
    roots: Mapping[int, bytes]
    """generation -> root (PEM): the one in force, and the one that is on its way in."""
    members: Sequence[Member]
    revision: int
    """Of the view that all of this comes from."""
    chain: Sequence[Link]

    @classmethod
    def make(cls, view: View, links: Sequence[Link], held: Sequence[Generation], of: Generation, node_id: str) -> Self:
        """For a node with a certificate of `of`; `held` are the generations whose roots it needs."""
        assert view.facts is not None, "there was a genesis"
        roots = {each.number: each.root for each in held}
        return cls(
            view.facts,
            of.number,
            of.certificates[node_id],
            roots,
            list(view.live().values()),
            view.revision,
            list(links),
        )

    def message(self) -> dict[str, Value]:
        """As it travels."""
        return {
            "facts": self.facts.values(),
            "generation": self.generation,
            "certificate": self.certificate,
            "roots": dict(self.roots),
            "members": [each.values() for each in self.members],
            "revision": self.revision,
            "chain": [each.values() for each in self.chain],
        }

    @classmethod
    def read(cls, message: Value) -> Self:
        """What `message` made. Raises `FrameError` when it is none, or its roots are not those of its chain."""
        roots = field(message, "roots", dict)
        found = cls(
            Facts.of(expect(field(message, "facts", list), _FACTS)),
            field(message, "generation", int),
            field(message, "certificate", bytes),
            {field({"n": n}, "n", int): field({"r": root}, "r", bytes) for n, root in roots.items()},
            [_member(values) for values in field(message, "members", list)],
            field(message, "revision", int),
            [Link.check(values) for values in field(message, "chain", list)],
        )
        for number, root in found.roots.items():
            if verify_root(root) != (found.facts.cluster_id, number):
                raise FrameError(f"the bundle's root of generation {number} is another one's", subject="bundle")
        chained = {each.content().generation: each.root for each in found.chain if each.root}
        same = [number for number, root in found.roots.items() if chained.get(number) == root]
        if not same or any(number in chained and number not in same for number in found.roots):
            raise FrameError("the bundle's roots are not those of its chain of manifests", subject="bundle")
        return found

    def take(self, keystore: Keystore, node_id: str, start: Callable[[Sequence[Link]], list[Link]]) -> Trust:
        """Check the chain from where `start` (see `chain.first_of`, `chain.after`) finds something known, then store all.

        Raises `Rejected`, also when the certificate is not of a key that is on this disk; `StorageRefusal`.
        """
        links = start(self.chain)
        chain.verify(links, cluster_id=self.facts.cluster_id)
        root = self.roots.get(self.generation)
        if root is None:
            raise FrameError("the bundle has no root of its certificate's generation", subject="bundle")
        keystore.store(self.generation, root, self.certificate)
        for number in sorted(set(self.roots) - {self.generation}):
            keystore.add_root(number, self.roots[number])
        peers = {
            each.node_id: Peer(each.node_id, (each.host, each.port), frozenset(each.pins))
            for each in self.members
            if each.node_id != node_id and each.pins
        }
        trust = Trust(self.revision, self.generation, tuple(sorted(self.roots)), peers)
        keystore.keep_chain(links)
        keystore.keep(trust)
        return trust


def _member(values: Value) -> Member:
    """A member as a bundle tells of it. Raises `Rejected`: what is kept must be read again at every start."""
    member = Member.of(expect(values, _MEMBER))
    check_address(member.host, member.port)
    if not all(isinstance(pin, bytes) for pin in member.pins):
        raise FrameError(f"the keys of {member.name[:80]!r} are none", subject="bundle")
    return member


def field(message: Value, name: Any, kind: type) -> Any:
    """A field of a message. Raises `FrameError` when it is not there, or of another kind."""
    value = message.get(name) if isinstance(message, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise FrameError(f"a message without {name!r}", subject="join")
    return value
