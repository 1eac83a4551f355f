"""The reconciler: does on this node what `lifecycle.decide` finds missing, as often as it takes.

Thread: its own. It is woken by every entry that changes the cluster's tables and by a timer, and it may block: for the
disk, for the minting child, for a commit. Nothing of it runs on the tick thread but the setting of an event.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, Final, Protocol

from raftcluster import failpoints
from raftcluster.cluster import vouching
from raftcluster.cluster.actions import (
    Action,
    Alarm,
    Amend,
    CatchUp,
    Depart,
    Endorse,
    Expel,
    Forget,
    Found,
    HandOver,
    Local,
    Mint,
    Promote,
    Propose,
    Record,
    Relink,
    Renew,
    Request,
    Sign,
    Store,
    Use,
    Vouch,
    Wipe,
)
from raftcluster.cluster.auditing import ITSELF, attributed
from raftcluster.cluster.features import check_understood
from raftcluster.cluster.keystore import Keystore
from raftcluster.cluster.lifecycle import decide, is_for_the_unheard, peers, why_due
from raftcluster.cluster.manifests import majority
from raftcluster.cluster.records import Member
from raftcluster.cluster.returning import Return
from raftcluster.cluster.standing import Seating
from raftcluster.cluster.teardown import Teardown
from raftcluster.cluster.view import View, enabled, links
from raftcluster.codec import Value, unpack
from raftcluster.errors import OutcomeUnknown, RaftclusterError, Rejected, Removed, Unavailable
from raftcluster.host import Host
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.certificates import fingerprint, validity
from raftcluster.transport.minting import mint
from raftcluster.transport.ports import Address, Links, Peer

log = logging.getLogger("raftcluster.cluster")

INTERVAL_SECONDS: Final = 1.0
RELINKING_SECONDS: Final = 0.05
"""While links are being replaced nothing wakes the reconciler: look so often. One link at a time, for what is on its way over a
link is lost with it: a leader goes on with the others meanwhile. The first one only after so long, for the other members begin
to show their new certificates, too, and a pair needs one new link for both."""
AGAIN_SECONDS: Final = 0.005
"""After something was done; not 0, so that an action that changes nothing cannot spin."""
PROPOSE_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 0.5
"""For which a node that closes waits for a commit that is under way."""
ASK_SECONDS: Final = 4.0
"""Between two attempts of a lonely node to find out what it has slept through."""
GENESIS: Final = "genesis"
"""The file that `create.init` leaves in the founder's directory: the first command, packed."""


class Seats(Protocol):
    """What the reconciler needs of the engine. Thread: any but the tick thread; the two changes wait for their commit."""

    def look(self, learners: Collection[str]) -> Seating:
        """How they are; `learners` are those of whom is asked whether they have caught up."""

    def promote(self, node_id: str) -> None:
        """Make it a voter. Idempotent. Raises `Unavailable`, `OutcomeUnknown`, `Rejected`."""

    def expel(self, node_id: str) -> None:
        """Make it a voter no more. Idempotent. Raises `Unavailable`, `OutcomeUnknown`, `Rejected`."""

    def hand_over(self) -> None:
        """Have another voter lead, when this node does. Returns before that has come about."""


class Reconciler:
    """One per node. `step` may also be called by a test, instead of `start`."""

    def __init__(
        self,
        host: Host,
        directory: DataDirectory,
        keystore: Keystore,
        links: Links,
        seats: Seats,
        *,
        teardown: Teardown,
        on_destroyed: Callable[[], None],
        hello: Mapping[str, Any],
        features: Sequence[str] = (),
        on_removed: Callable[[], None] = lambda: None,
        interval_s: float = INTERVAL_SECONDS,
    ) -> None:
        """Tells `links` at once whom it knows from the disk: do this before they start.

        `hello`: what the links say of this node, for asking others without one. `features`: what it understands. `teardown` does this node's part of the
        cluster's end; `on_destroyed` is called on the reconciler's thread, when the directory is marked, until it does not raise: close
        the node (from another thread), then `ending.finish`.
        """
        self._host, self._directory, self._keystore, self._links, self._seats = host, directory, keystore, links, seats
        self._teardown = teardown
        self._tombstone: tuple[bytes, str] | None = None
        self._product, self._features = str(hello["product"]), features
        self._on_destroyed, self._on_removed = on_destroyed, on_removed
        self._interval_s = interval_s
        self._trust = keystore.trust()
        """What is on the disk and in force: replaced last, so that what has failed in between is done again."""
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._answers: SimpleQueue[RaftclusterError | None] = SimpleQueue()
        """Where the answer to what is proposed comes."""
        self._thread: threading.Thread | None = None
        self._troubles: dict[str, str] = {}
        self._relinked: dict[str, float] = {}
        """Peer -> when its link was last to be replaced: once per interval."""
        self._relinked_at = -RELINKING_SECONDS
        """When any of them was, or this node began to show another certificate."""
        self._destroying_since: float | None = None
        self._finished = False
        """Set when its end is under way: what has failed before is done again."""
        self._moved: dict[str, tuple[Address, Address]] = {}
        """Member -> where the record had it when it said that it was elsewhere, and where that is."""
        self._lonely_since: float | None = None
        self._asked_at = -ASK_SECONDS
        self._head = b""
        self._expires = self._until(self._trust.presented)
        self._return = Return(keystore, keystore.cluster_id, host.id, hello, stopping=self._closed.is_set)
        links.configure(self._trust.peers)
        host.on_apply("cluster", self._applied)

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._thread = threading.Thread(target=self._run, name=f"raftcluster-reconcile-{self._host.name}", daemon=True)
        self._thread.start()

    def _applied(self, index: int) -> None:
        """Tick thread. Raises `DataVersion`, which stops the node before it applies anything else, when what this program does not
        understand is enabled: another version had reported it for this node, or it was asked before."""
        self._wake.set()
        names = self._host.query("cluster", lambda tables, _: enabled(tables))
        check_understood(names, self._features, self._host.name)

    def close(self) -> None:
        """Stop, and wait for what is under way (a commit, the minting child) to end; for a commit not long: without a quorum there is
        none, and with one it may come afterwards, as after a crash. Idempotent."""
        self._closed.set()
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)
            self._answers.put(OutcomeUnknown("the node was closed meanwhile", subject=self._host.name))
            self._thread.join()

    def troubles(self) -> dict[str, str]:
        """What keeps this node from doing its part now: stable code -> text. Empty when all is well. Thread: any."""
        return dict(self._troubles)

    def moved(self, node_id: str, address: Address) -> None:
        """A member has proved who it is and says where, or an administrator does: look for it there until the record says something new. Without a
        quorum the record could not, and without a link there may be no quorum. Thread: any."""
        member = self._host.query("cluster", View.read).live().get(node_id)
        if member is not None:
            self._moved = {**self._moved, node_id: ((member.host, member.port), address)}
            self._wake.set()

    def address(self, member: Member) -> Address:
        """Where this node looks for a member: where the record has it, unless it was heard since that it is elsewhere. Thread:
        any."""
        recorded = (member.host, member.port)
        before, now = self._moved.get(member.node_id, (None, recorded))
        return now if before == recorded else recorded

    def step(self) -> float:
        """Compare and act once; the result is in how many seconds to look again at the latest."""
        if self._finished:
            return self._interval_s
        if self._tombstone is not None:
            self._bury(*self._tombstone)
            return self._interval_s
        view = self._host.query("cluster", View.read)
        self._configure(view)
        self._follow(view)
        troubles: dict[str, str] = {}
        again = self._interval_s
        unheard = False
        for action in decide(view, self._local(view)):
            if isinstance(action, Alarm):
                troubles[action.code] = action.text
                continue
            if unheard and not is_for_the_unheard(action):
                continue
            try:
                self._perform(action, view)
            except (Unavailable, OutcomeUnknown) as error:
                log.debug("%s: %s", type(action).__name__, error)
                unheard = True
            except (RaftclusterError, OSError) as error:
                self._failed(action, error, troubles)
            else:
                again = min(again, RELINKING_SECONDS if isinstance(action, Relink) else AGAIN_SECONDS)
        for code, text in troubles.items():
            if self._troubles.get(code) != text:
                log.warning("%s", text)
        self._troubles = troubles
        return again

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            try:
                pause = self.step()
            except (RaftclusterError, OSError) as error:  # the node cannot answer now, or its disk
                self._troubles = {getattr(error, "code", "os-error"): str(error)}
                pause = self._interval_s
            self._wake.wait(pause)

    def _local(self, view: View) -> Local:
        seats = self._seats.look([each.node_id for each in view.live().values() if each.role == "learner"])
        leader = seats.leader
        if view.destruction is not None:
            self._destroying_since = self._destroying_since or time.monotonic()
        linked = self._links.links()
        if len(linked) + 1 >= majority(len(self._trust.peers) + 1) and seats.led:
            self._lonely_since = None
        elif self._lonely_since is None:
            self._lonely_since = time.monotonic()
        return Local(
            node_id=self._host.id,
            leader=leader,
            revision=self._trust.revision,
            requests=self._keystore.requests(),
            stored=self._keystore.stored(),
            on_disk=self._keystore.on_disk(),
            presented=self._trust.presented,
            trusted=self._trust.trusted,
            links={peer: info.own_generation for peer, info in linked.items()},
            rooted=self._keystore.rooted(),
            lonely_s=0.0 if self._lonely_since is None else time.monotonic() - self._lonely_since,
            expired=time.time() > self._expires,
            product=self._product,
            features=self._features,
            founder=(self._directory.path / GENESIS).exists(),
            voters=seats.voters if leader else (),
            changing=leader and seats.changing,
            caught_up=seats.caught_up if leader else (),
            destroying_s=time.monotonic() - self._destroying_since if self._destroying_since is not None else 0.0,
            **self._teardown.local(view),
        )

    def _configure(self, view: View) -> None:
        """Let exactly the members link that the record names: a removed one's links close here."""
        if view.facts is None or view.revision < self._trust.revision or self._host.id not in view.live():
            return
        wanted = {node_id: self._peer(member) for node_id, member in peers(view, self._host.id).items()}
        if wanted != self._trust.peers:
            trust = replace(self._trust, revision=view.revision, peers=wanted)
            self._keystore.keep(trust)
            failpoints.reach("members.keep")
            self._links.configure(wanted)
            self._trust = trust

    def _peer(self, member: Member) -> Peer:
        return Peer(member.node_id, self.address(member), frozenset(member.pins))

    def _follow(self, view: View) -> None:
        """Keep the public chain where it is found without the tables: it is what this node would come back by."""
        if view.head is None or view.revision < self._trust.revision or view.head.manifest == self._head:
            return
        self._keystore.keep_chain(self._host.query("cluster", lambda tables, now: links(tables)))
        self._head = view.head.manifest

    def _perform(self, action: Action, view: View) -> None:
        match action:
            case Found():
                self._propose(unpack((self._directory.path / GENESIS).read_bytes()))
            case Request(number):
                self._propose(["csr", number, self._host.id, self._keystore.request(number)])
            case Mint(number, requests):
                self._mint(number, dict(requests), view)
            case Store(number, root, None):
                self._keystore.add_root(number, root)
            case Store(number, root, bytes(certificate)):
                self._keystore.store(number, root, certificate)
            case Vouch(number):
                self._propose(
                    ["trusted", number, self._host.id, vouching.endorsement(view, self._host.id, self._keystore)]
                )
            case Amend(candidate):
                self._propose(["amend", str(uuid.uuid4()), candidate])
            case Endorse(sequence):
                given = vouching.amendment(view, self._host.id, self._keystore)
                self._propose(["amended", sequence, self._host.id, given])
            case CatchUp():
                self._catch_up()
            case HandOver():
                self._seats.hand_over()
            case Use(present, trust):
                self._use(present, trust, view)
            case Relink(peers):
                self._relink(peers)
            case Propose(["overdue", *_] as command):
                self._propose_itself(command, "its deadline has passed")
            case Propose(["report", *_] as command):
                self._propose_itself(command, "")
            case Propose(command):
                self._propose(command)
            case Renew():
                self._propose_itself(["rotate", str(uuid.uuid4()), [], False], why_due(view))
            case Forget(numbers):
                self._keystore.forget(numbers)
                log.info("keys of generation %s deleted", ", ".join(map(str, numbers)))
            case Promote(node_id):
                self._seats.promote(node_id)
            case Expel(node_id):
                self._seats.expel(node_id)
            case Depart():
                self._on_removed()
                self._finished = True
            case Sign():
                self._propose(self._teardown.signing(view))
            case Record():
                self._teardown.record(view, self._host.query("cluster", lambda tables, now: links(tables)))
            case Wipe():
                assert view.destruction is not None
                heard = {*view.destruction.recorded, self._host.id}
                unheard = sorted(each.name for each in view.live().values() if each.node_id not in heard)
                self._leave(view.destruction.event_id, view.destruction.keep_software, unheard)
            case _:
                raise AssertionError(action)

    def _mint(self, number: int, requests: dict[str, bytes], view: View) -> None:
        assert view.facts is not None
        failpoints.reach("mint.before")
        minted = mint(view.facts.cluster_id, number, requests, vouching.manifest(view, requests))
        failpoints.reach("mint.after")
        issued = {
            node_id: [request, minted.certificates[node_id], fingerprint(minted.certificates[node_id])]
            for node_id, request in requests.items()
        }
        self._propose(
            ["minted", number, minted.root_pem, vouching.manifest(view, requests), minted.manifest_signature, issued]
        )
        log.info("generation %d minted for %d nodes; its root key is gone with the child", number, len(requests))

    def _catch_up(self) -> None:
        """At most once in `ASK_SECONDS`: this node may just be cut off."""
        if time.monotonic() - self._asked_at < ASK_SECONDS:
            return
        try:
            linked = self._links.links()
            peers = sorted(self._trust.peers.values(), key=lambda peer: peer.node_id in linked)
            trust = self._return.attempt(peers, self._trust.presented)
        except Removed as error:  # proven, see `returning`
            log.warning("%s: this node stops", error.message)
            self._on_removed()
            self._finished = True
            return
        finally:
            self._asked_at = time.monotonic()
        if trust is not None:
            self._links.use(self._keystore.identity(trust.presented), self._keystore.roots(trust.trusted))
            self._links.configure(trust.peers)
            self._expires = self._until(trust.presented)
            self._trust = trust

    def _until(self, number: int) -> float:
        """When this node's certificate of that generation expires, in seconds since the epoch."""
        return validity(self._keystore.identity(number).certificate)[1].timestamp()

    def _use(self, present: int, trust: tuple[int, ...], view: View) -> None:
        """First on the disk, then in force: a restart never falls behind what others may rely on."""
        identity, roots = self._keystore.identity(present), self._keystore.roots(trust)
        if present != self._trust.presented:
            self._relinked_at, self._relinked = time.monotonic(), {}
        new = replace(self._trust, revision=view.revision, presented=present, trusted=trust)
        self._keystore.keep(new)
        self._links.use(identity, roots)
        self._expires = self._until(present)
        self._trust = new
        log.info("generation %d is presented, %s trusted", present, " and ".join(map(str, trust)))

    def _relink(self, peers: Collection[str]) -> None:
        now = time.monotonic()
        due = [peer for peer in peers if now - self._relinked.get(peer, -self._interval_s) >= self._interval_s]
        if due and now - self._relinked_at >= RELINKING_SECONDS:
            self._relinked[due[0]] = self._relinked_at = now
            self._links.relink(due[:1])

    def bury(self, tombstone: bytes, source: str) -> None:
        """Any thread: tear this node down, if the tombstone proves that the cluster was destroyed while it was away."""
        self._tombstone = (tombstone, source)
        self._wake.set()

    def _bury(self, tombstone: bytes, source: str) -> None:
        try:
            said = self._teardown.believe(tombstone, source)
        except RaftclusterError as error:
            log.warning("no tombstone of this cluster from %s: %s", source, error)
            self._tombstone = None
            return
        self._leave(said.event_id, said.keep_software)

    def _leave(self, event_id: str, keep_software: bool, unheard: Sequence[str] = ()) -> None:
        self._teardown.mark(event_id, keep_software, unheard)
        log.warning("cluster destroyed: this node stops and removes its data")
        self._on_destroyed()
        self._finished = True

    def _propose(self, command: Value) -> None:
        """Raises what `Host.propose` raises; when it is closed meanwhile it does not wait for the answer."""
        answers: SimpleQueue[RaftclusterError | None] = SimpleQueue()
        self._answers = answers
        if self._closed.is_set():
            raise Unavailable("the node is closed", subject=self._host.name)
        self._host.submit("cluster", command, lambda _, error: answers.put(error), deadline=PROPOSE_SECONDS)
        error = answers.get()
        if error is not None:
            raise error

    def _propose_itself(self, command: Value, reason: str) -> None:
        """What nobody has asked for and people may wonder about."""
        self._propose(attributed(command, ITSELF, self._host.name, reason))

    def _failed(self, action: Action, error: Exception, troubles: dict[str, str]) -> None:
        """A refused report means that others were faster: look again. Anything else is for people."""
        if isinstance(error, Rejected) and isinstance(
            action, Propose | Renew | Request | Mint | Vouch | Amend | Endorse
        ):
            if error.code in OVERTAKEN:
                log.debug("%s: %s", type(action).__name__, error)
                return
        code = error.code if isinstance(error, RaftclusterError) else "os-error"
        troubles[code] = f"{type(action).__name__}: {error}"


OVERTAKEN: Final = frozenset(
    [
        "minted-already",
        "not-under-way",
        "out-of-order",
        "other-request",
        "other-manifest",
        "incomplete",
        "not-switched",
        "generation-under-way",
        "no-part",
        "no-voter",
        "endorsement-needed",
    ]
)
"""How a report is refused whose node did not know what others had done meanwhile."""
