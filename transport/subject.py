"""Who a certificate speaks for: the URI that is its one subject alternative name. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from raftcluster.errors import Rejected

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?\Z")
_URI: Final = re.compile(r"raftcluster://([^/?#]+)/([1-9][0-9]{0,17})/([^/?#]+)\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class SubjectId:
    """Who a certificate speaks for. Raises `Rejected` when a part is no plain name of 1 to 64 characters."""

    cluster_id: str
    generation: int
    node_id: str

    def __post_init__(self) -> None:
        for what, text in (("cluster id", self.cluster_id), ("node id", self.node_id)):
            if not _NAME.match(text):
                raise Rejected(f"{text!r} cannot be a {what}", subject=text, remedy="use letters, digits, . _ and -")
        if not 1 <= self.generation < 10**18:
            raise Rejected(f"{self.generation} is no generation", subject=str(self.generation), remedy="count from 1")

    def __str__(self) -> str:
        return f"raftcluster://{self.cluster_id}/{self.generation}/{self.node_id}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The subject that a SAN URI names. Raises `Rejected` for any other URI."""
        found = _URI.match(uri)
        if not found:
            raise Rejected(f"{uri[:200]!r} names no node of a cluster", subject="certificate")
        return cls(found[1], int(found[2]), found[3])
