"""The mail logs of all nodes as one: what it needs of a node, and the same of a data directory in which none need run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from raftcluster.cluster.api import Members
from raftcluster.errors import Unavailable
from raftcluster.maillog import files
from raftcluster.maillog.files import Page
from raftcluster.maillog.gathering import FROM_THE_END, Gathering, Member, Source, serve
from raftcluster.offering import Offering
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.handshake import LOGS
from raftcluster.transport.mesh import Mesh
from raftcluster.transport.stream import Stream

LOOK_SECONDS = 0.2


class Logs(Offering):
    """The part of a node that reads mail logs."""

    members: Members
    mesh: Mesh
    _ending: threading.Event

    def logs(self, since: float | None = None, *, follow: bool = False) -> Gathering:
        """The mail logs of all members, merged by time: iterate over it, `close` ends that. `since` in seconds since the epoch;
        with `follow` it goes on with what comes, without `since` only that. A member that does not answer is named in a batch."""
        sources: dict[str, Source] = {}
        for each in self.members.list():
            mine = each.node_id == self.id
            source = self._own_page if mine else Member(partial(self.mesh.open_stream, each.node_id, LOGS))
            sources[each.name] = source
        return Gathering(sources, since, follow, self._ending)

    def recall(self, peer: str, stream: Stream) -> None:
        """A member reads this node's mail log. Called on a stream thread (`transport.Services`)."""
        serve(stream, self._own_page)

    def _own_page(self, after: int, since: float, wait: float) -> Page:
        return _page(self.maillog.folder, self._ending, after, since, wait, self.maillog.durable)


def read_logs(path: str | os.PathLike[str], since: float | None = None, *, follow: bool = False) -> Gathering:
    """The mail log of the node in the data directory `path`, which need not run; as `Node.logs`. Raises `StorageRefusal` when
    there is no node, `MissingPrivilege`."""
    with DataDirectory.look(path) as directory:
        name = str(directory.read_node()["name"])
        files.files(directory.maillog)
    ending = threading.Event()
    source = partial(_page, directory.maillog, ending)
    return Gathering({name: source}, since, follow, ending)


def _page(
    folder: Path,
    ending: threading.Event,
    after: int,
    since: float,
    wait: float,
    durable: Callable[[], int] | None = None,
) -> Page:
    """See `gathering.Source`. Who may outlive this host reads what is `durable`: the same number may be another entry's behind it."""
    waited = 0.0
    try:
        while True:
            if after == FROM_THE_END:
                return Page([], durable() if durable else files.last_sequence(folder), True, 0)
            page = files.page(folder, after, since, upto=durable() if durable else None)
            if page.last != after or not page.end or waited >= wait:
                return page
            if ending.wait(LOOK_SECONDS):
                raise Unavailable("the node is closed", subject=str(folder))
            waited += LOOK_SECONDS
    except OSError as error:
        raise Unavailable(f"its log cannot be read: {error.strerror}", subject=str(folder)) from error
