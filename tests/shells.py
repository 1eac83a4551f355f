"""A shell that answers what was written down for it: hosts in unit tests. The probe's own script runs in tests of `Local` and ssh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from raftcluster.errors import RaftclusterError, Refusal
from raftcluster.remote.shell import SECONDS, Done, Running


@dataclass
class Scripted:
    """The host `host`; the values are those of the probe. An `error` is raised instead of any answer."""

    host: str
    values: dict[str, str] = field(default_factory=dict)
    error: RaftclusterError | None = None
    given: list[str] = field(default_factory=list)

    def run(self, words: Sequence[str], given: str = "", seconds: float = SECONDS) -> Done:
        """The values, as the probe prints them."""
        self.given.append(given)
        if self.error is not None:
            raise self.error
        told = {"hello": "raftcluster-probe 1", "host": self.host, "uid": "0", **self.values, "end": ""}
        lines = []
        for name, text in told.items():
            lines += [f"= {name}", *(f"\t{line}" for line in text.splitlines()), ""]
        return Done(0, "\n".join(lines), "")

    def start(self, words: Sequence[str]) -> Running:
        """Nothing can be started there."""
        raise Refusal(f"{self.host} starts nothing")
