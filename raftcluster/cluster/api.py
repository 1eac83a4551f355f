"""Members, tokens and certificates as an administrator's program sees them, on any node.

Every change takes a `reason` and an `author`, and keeps them with this node's name: see `auditing`.

Thread: any. Errors: `Unavailable` (also while a cluster that was just made has not committed its genesis), `OutcomeUnknown`,
`Rejected` with a stable code (see `machine`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from raftcluster.cluster import auditing
from raftcluster.cluster import view as tables
from raftcluster.cluster.asking import MACHINE, administer, facts_of, plain_name, read, unfounded
from raftcluster.cluster.auditing import Change
from raftcluster.cluster.features import Feature, listed
from raftcluster.cluster.records import Facts, Invitation, Member, rejected
from raftcluster.cluster.rows import check_address
from raftcluster.cluster.standing import Standing
from raftcluster.cluster.tokens import ADDRESSES
from raftcluster.cluster.view import View
from raftcluster.errors import OutcomeUnknown, Rejected, Removed, Unavailable
from raftcluster.host import Host
from raftcluster.transport.certificates import Token
from raftcluster.transport.ports import Address
from raftcluster.twins import twin

INVITE_SECONDS = 3600.0
"""Default life of a token."""
LOOK_SECONDS = 0.05
REMOVE_SECONDS = 15.0
"""A removal takes a second or two: a hand-over, a change of voters, an entry; or a generation that it endorses first."""
list_ = list
"""The type: `Members` has a method of that name."""


class Members:
    """Who belongs to the cluster."""

    def __init__(
        self,
        host: Host,
        resolve: Callable[[str], list[str]] | None = None,
        standing: Callable[[], Standing] | None = None,
        moved: Callable[[str, Address], None] = lambda node_id, address: None,
    ) -> None:
        """`resolve` finds a name's addresses, for the members' firewalls; None when this node has none. `standing` tells which
        voters are up. `moved` has this node look for a member elsewhere, and let it in from there, before the record says so."""
        self._host = host
        self._resolve = resolve
        self._standing = standing
        self._moved = moved

    def facts(self) -> Facts:
        """What makes this cluster this cluster: id, name, product, trust realm. Raises `Unavailable` before genesis."""
        return facts_of(read(self._host))

    afacts = twin(facts)

    def list(self, *, removed: bool = False) -> list[Member]:
        """The members by name; with `removed` also those that were."""
        view = read(self._host)
        rows = view.members.values() if removed else view.live().values()
        return sorted(rows, key=lambda member: (member.name, member.joined_at))

    alist = twin(list)  # noqa: A003

    def get(self, name: str) -> Member:
        """The member of that name or node id. Raises `Rejected` when there is none."""
        member = read(self._host).named(plain_name(name))
        if member is None:
            raise rejected("no-member", f"{name} is no member", subject=name)
        return member

    aget = twin(get)

    def features(self) -> list_[Feature]:
        """What the members' programs understand, by name. What belongs to a feature may be proposed once it is enabled: from
        then on every member understands it, and one that does not is refused. See `features`."""
        return listed(read(self._host))

    afeatures = twin(features)

    def log(self, limit: int = 100) -> list_[Change]:
        """The newest `limit` decisions about members and certificates, newest first: who, when, from where, why."""
        return self._host.query(MACHINE, lambda rows, time: auditing.read_newest(rows, limit))

    alog = twin(log)

    def invite(
        self,
        name: str,
        ttl_s: float = INVITE_SECONDS,
        *,
        addresses: Sequence[str] = (),
        reason: str = "",
        author: str = "",
    ) -> Token:
        """A token with which the host `name` may join once, within `ttl_s` seconds. `str(token)` is what it needs.

        It names the root that is in force now and lives on when that one is replaced: the chain of manifests leads from it to
        its successors. Only here and in the hands of whom you give it to is the secret: what is replicated is its public half.

        The members' firewalls let in `addresses`, by default those that the name leads to, as long as the token holds.
        Raises `Rejected` with code `no-address` when there is a firewall and the name leads nowhere.
        """
        sources = self._sources(plain_name(name), addresses)
        view = read(self._host)
        if view.active is None:
            raise unfounded()
        token = Token.new(view.active.root)
        command = ["invite", token.id, token.public_key(), plain_name(name), math.ceil(ttl_s), sources]
        administer(self._host, command, author, reason)
        return token

    ainvite = twin(invite)

    def _sources(self, name: str, addresses: Sequence[str]) -> list_[str]:
        found = list_(addresses)
        for each in found:
            try:
                ip_address(each)
            except ValueError as error:
                raise rejected("bad-address", f"{each[:80]!r} is no IP address", subject=each[:80]) from error
        if not found and self._resolve is not None:
            found = self._resolve(name)
            if not found:
                raise rejected(
                    "no-address",
                    f"{name} leads to no address, and the firewall lets in nobody else",
                    subject=name,
                    remedy="name the address from which it will come: --address",
                )
        return found[:ADDRESSES]

    def remove(self, name: str, *, wait_s: float = REMOVE_SECONDS, reason: str = "", author: str = "") -> Member:
        """Take a member out, also one that is down, also the leader (it hands over first), and return when that is done.

        First its vote goes, then, from that commit on, its links are closed; a new certificate generation follows. The node
        stops when it hears of it, and does not start again until it has joined anew.

        Raises `Rejected`: `would-lose-quorum` when too few of the others are up to decide, or to endorse the generation that
        follows, `no-quorum`, `last-voter`, `change-under-way` while another one is being removed. `Unavailable` when it is
        not done within `wait_s` seconds: it is decided then, and whoever leads carries on.
        """
        member = self.get(name)
        if self._standing is not None:
            view, standing = read(self._host), self._standing()
            names = {each.node_id: each.name for each in view.members.values()}
            standing.check(member.node_id, names)
            named = view.head.content().voters if view.head is not None else ()
            awake = [each.node_id for each in view.live().values() if not each.asleep_since]
            standing.check_endorsers(member.node_id, named, awake, names)
        administer(self._host, ["leaving", member.node_id], author, reason)
        end = time.monotonic() + wait_s
        try:
            while member.node_id in read(self._host).live():
                if time.monotonic() >= end:
                    raise Unavailable(
                        f"{member.name} is being removed, and that is not done within {wait_s:g} s",
                        subject=member.name,
                        remedy="it goes on by itself; see the alarms in `raftcluster status`",
                    )
                threading.Event().wait(LOOK_SECONDS)
        except Removed:  # it was this node
            return member
        return member

    aremove = twin(remove)

    def replace(
        self,
        old: str,
        new: str,
        ttl_s: float = INVITE_SECONDS,
        *,
        addresses: Sequence[str] = (),
        wait_s: float = REMOVE_SECONDS,
        reason: str = "",
        author: str = "",
    ) -> Token:
        """Take `old` out, which may be down, and invite `new` in its place; they may have the same name.

        Waits up to `wait_s` seconds each for the removal, and for the generation without `old`, whose root the token names.
        Raises what `remove` and `invite` raise. When `invite` does, `old` is out already: invite again.
        """
        if self.get(old).node_id == self._host.id:
            raise rejected("itself", f"{old} cannot replace itself", subject=old, remedy="ask another member")
        if plain_name(new) != self.get(old).name and read(self._host).named(plain_name(new)) is not None:
            raise rejected("name-taken", f"{new} is a member already", subject=new, remedy="choose another name")
        self._sources(plain_name(new), addresses)
        self.remove(old, wait_s=wait_s, reason=reason, author=author)
        end = time.monotonic() + wait_s
        while _is_renewing(read(self._host)) and time.monotonic() < end:
            threading.Event().wait(LOOK_SECONDS)
        return self.invite(new, ttl_s, addresses=addresses, reason=reason, author=author)

    areplace = twin(replace)

    def move(
        self,
        name: str,
        host: str,
        port: int,
        *,
        wait_s: float = REMOVE_SECONDS,
        reason: str = "",
        author: str = "",
    ) -> None:
        """Tell all members that `name` is at another address now. Its identity stays.

        This node looks for it there at once, and its firewall lets it in: without the member there may be no quorum to tell
        the others with. Raises `Unavailable` or `OutcomeUnknown` when there is none within `wait_s` seconds.
        """
        check_address(host, port)
        member = self.get(name)
        self._moved(member.node_id, (host, port))
        end = time.monotonic() + wait_s
        while True:
            try:
                administer(self._host, ["address", member.node_id, host, port], author, reason)
                return
            except Rejected:
                self._moved(member.node_id, (member.host, member.port))
                raise
            except (Unavailable, OutcomeUnknown):  # it may be repeated
                if time.monotonic() >= end:
                    raise
            threading.Event().wait(LOOK_SECONDS)

    amove = twin(move)


def _is_renewing(view: View) -> bool:
    """Whether a generation without a removed member is under way, or about to begin."""
    if view.pending is not None or view.active is None:
        return True
    number = view.active.number
    return any(each.role == "removed" and each.generation >= number for each in view.members.values())


class Tokens:
    """The invitations. Their secrets are known to nobody here."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def list(self) -> list[Invitation]:
        """All that are remembered: open, used, revoked, and expired for less than a day."""
        return self._host.query(MACHINE, lambda rows, time: tables.invitations(rows))

    alist = twin(list)  # noqa: A003

    def revoke(self, token_id: str, *, reason: str = "", author: str = "") -> None:
        """Make a token worthless. Raises `Rejected` when it is unknown or was used."""
        administer(self._host, ["revoke", token_id], author, reason)

    arevoke = twin(revoke)
