"""The events that two looks at the cluster's tables make, and what the auditor does about crashes and falling back."""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from raftcluster import audit, limits
from raftcluster.audit import REFUSED, Auditor
from raftcluster.cluster import auditing
from raftcluster.cluster.auditing import attributed
from raftcluster.cluster.changes import Change, Look, changes
from raftcluster.cluster.create import init
from raftcluster.cluster.generations import expected_manifest
from raftcluster.cluster.machine import ClusterMachine
from raftcluster.cluster.view import View, invitations
from raftcluster.codec import unpack
from raftcluster.config.machine import ConfigMachine
from raftcluster.errors import StorageFailed
from raftcluster.events import log
from raftcluster.events.log import EventLog
from raftcluster.events.outlet import Outlet
from raftcluster.events.recorder import Recorder
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine
from raftcluster.quarantine.envelope import Envelope
from raftcluster.quarantine.machine import QuarantineMachine
from raftcluster.quarantine.rules import Content
from raftcluster.storage.directory import DataDirectory
from raftcluster.transport.certificates import certificate_hash, public_key
from tests.helpers import eventually
from tests.hierarchy import Hierarchy
from tests.local_host import LocalHost


class Told:
    """A founded cluster; `news` is what has happened since it was asked last."""

    def __init__(self, folder: Path) -> None:
        init(folder / "mx1", "mx1", ("127.0.0.1", 9777), ("192.0.2.1", 9777), "mta/1", cluster="mail")
        self.host = LocalHost(
            [ClusterMachine(), ConfigMachine(), GreylistMachine(), ListsMachine(), QuarantineMachine()]
        )
        self.host.propose("cluster", unpack((folder / "mx1" / "genesis").read_bytes()))
        self.me = self.look().members.copy().popitem()[0]
        self.seen = self.look()
        founder = (folder / "mx1" / "certificates" / "1" / "node.key").read_bytes()
        self.keys = [{self.me: public_key(founder)}]
        """Of each generation: node id -> its public key."""

    def look(self) -> Look:
        return self.host.query("cluster", lambda rows, time: Look.at(View.read(rows, time), invitations(rows)))

    def apply(self, *command: Any) -> Any:
        return self.host.propose("cluster", list(command))

    def news(self) -> list[Change]:
        before, self.seen = self.seen, self.look()
        return list(changes(before, self.seen))

    def join(self, number: int) -> None:
        node, name = f"n{number}", f"mx{number}"
        self.apply("invite", f"t{number}", b"k" * 32, name, 60, [])
        joiner = [node, name, f"192.0.2.{number}", 9777, "mta/1", 1, "standalone", f"t{number}", b"h" * 32, b"csr"]
        self.apply("begin", "x", joiner)

    def mint(self, number: int, nodes: list[str]) -> bytes:
        made = Hierarchy(nodes, cluster_id="c1", generation=number)
        for node in nodes:
            if node not in self.view().pending.joiners:  # type: ignore[union-attr]
                self.apply("csr", number, node, b"csr")
        issued = {node: [b"csr", made.minted.certificates[node], made.pin(node)] for node in nodes}
        view = self.view()
        assert view.facts is not None and view.head is not None and view.pending is not None
        pins = {node: made.pin(node) for node in nodes}
        manifest = expected_manifest(view.facts, view.head, view.live().values(), view.pending, pins)
        self.apply("minted", number, made.root, manifest.pack(), b"signature", issued)
        self.keys.append({node: public_key(made.keys[node]) for node in nodes})
        return made.root

    def finish(self, number: int, nodes: list[str]) -> None:
        head = self.view().head
        assert head is not None
        for node in nodes:
            voter = node in head.content().voters
            self.apply("trusted", number, node, [self.keys[-2][node], b"signature"] if voter else [])
        for node in nodes:
            self.apply("switched", number, node)
        self.apply("retire", number)

    def view(self) -> View:
        return self.host.query("cluster", View.read)


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no load here that an auditor would have to spare."""
    monkeypatch.setattr(audit, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(audit, "LEADERLESS_SECONDS", 0.2)


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_a_life_step_by_step(told: Told) -> None:
    first = told.look().root
    assert told.news() == []
    told.join(2)
    named = [name for name, _ in told.news()]
    assert named == ["token-created", "token-used", "member-joined", "generation-begun"]
    root = certificate_hash(told.mint(2, [told.me, "n2"])).hex()
    assert told.news() == [("generation-minted", {"generation": 2, "root": root})]
    told.finish(2, [told.me])
    assert told.news() == [("generation-active", {"generation": 2, "root": root, "before": first})]
    told.apply("promoted", "n2")
    assert told.news() == [("member-promoted", {"member": "mx2", "member_id": "n2"})]
    told.apply("address", "n2", "2001:db8::2", 9777)
    ((name, fields),) = told.news()
    assert name == "member-moved" and fields["before"] == "192.0.2.2:9777" and fields["after"] == "[2001:db8::2]:9777"
    told.apply("invite", "t3", b"k" * 32, "mx3", 60, [])
    ((name, fields),) = told.news()
    assert name == "token-created" and set(fields) == {"token", "member", "expires"}
    told.apply("revoke", "t3")
    assert told.news() == [("token-revoked", {"token": "t3", "member": "mx3"})]
    told.apply("removed", "n2")
    assert told.news() == [("member-removed", {"member": "mx2", "member_id": "n2"})]
    told.apply("destroy", "e1", "mail", False, "moved", False)
    assert told.news() == [("destroy-decided", {"event_id": "e1", "reason": "moved"})]


def test_a_node_that_slept_tells_it_all_at_once(told: Told) -> None:
    told.join(2)
    told.mint(2, [told.me, "n2"])
    told.finish(2, [told.me])
    told.apply("promoted", "n2")
    assert [name for name, _ in told.news()] == [
        "token-created", "token-used", "member-joined", "member-promoted",
        "generation-begun", "generation-minted", "generation-active",
    ]  # fmt: skip


def test_no_look_holds_a_secret_or_a_key(told: Told) -> None:
    told.join(2)
    told.mint(2, [told.me, "n2"])
    kept = repr(told.look().kept()) + repr(told.news())
    for held in ("kkkk", "csr", "PRIVATE", "CERTIFICATE"):
        assert held not in kept


class Audited:
    """An auditor over a host of one process; `leaders` is what it hears, one by one."""

    def __init__(self, told: Told, folder: Path) -> None:
        self.directory = DataDirectory.open(folder / "mx1")
        node = self.directory.read_node()
        self.leaders: deque[Any] = deque([(told.me, 1)])
        self.recorder = Recorder(EventLog(self.directory.events), node, Outlet(None, None))
        self.auditor = Auditor(told.host, self.directory, self.recorder, self.leadership)
        self.asked = threading.Event()
        self.auditor.start()

    def leadership(self) -> tuple[str | None, int]:
        now = self.leaders[0] if len(self.leaders) == 1 else self.leaders.popleft()
        if isinstance(now, Exception):
            raise now
        return now  # type: ignore[no-any-return]

    def names(self) -> list[str]:
        """Of what has happened; who has decided it is told beside: `decided`."""
        return [each["event"] for each in log.read(self.directory.events) if not each["event"].startswith("cluster-")]

    def decided(self) -> list[dict[str, Any]]:
        return [each["fields"] for each in log.read(self.directory.events) if each["event"].startswith("cluster-")]

    def stop(self) -> list[str]:
        self.auditor.close()
        self.recorder.close()
        self.directory.close()
        return self.names()


def test_what_was_told_is_not_told_again_after_a_restart(told: Told, tmp_path: Path) -> None:
    audited = Audited(told, tmp_path)
    eventually(lambda: audited.names() == ["leader-changed"])
    told.apply("invite", "t3", b"k" * 32, "mx3", 60, [])
    eventually(lambda: audited.names() == ["leader-changed", "token-created"])
    audited.stop()
    told.apply("revoke", "t3")
    again = Audited(told, tmp_path)
    eventually(lambda: again.names()[2:] == ["token-revoked", "leader-changed"], what="what it has missed, once")
    before = told.host.tables["cluster"].image()
    told.apply("invite", "t4", b"k" * 32, "mx4", 60, [])
    eventually(lambda: again.names()[4:] == ["token-created"])
    again.stop()
    assert before != told.host.tables["cluster"].image()
    third = Audited(told, tmp_path)
    eventually(lambda: third.names()[5:] == ["leader-changed"])
    assert third.stop().count("token-created") == 2


def test_changes_of_the_configuration_are_told_once_with_who_where_when_and_why(told: Told, tmp_path: Path) -> None:
    def set_(key: str, value: Any) -> None:
        told.host.propose("config", ["set", key, value, "admin", "holiday wave", "mx7", None])

    set_("before/the-node", 0)
    audited = Audited(told, tmp_path)
    eventually(lambda: audited.names() == ["leader-changed"])
    set_("mail/limit", "a-value")
    eventually(lambda: audited.names()[1:] == ["config-changed"])
    audited.stop()
    changes: list[Any] = [["set", f"k/{number}", number] for number in range(25)]
    told.host.propose("config", ["transact", [], changes, "admin", "many", "mx8"])
    told.host.propose("greylist", ["settings", {"delay": 240}, "admin", "slow", None, "mx1"])
    again = Audited(told, tmp_path)
    eventually(lambda: sorted(again.names()[2:]) == ["config-changed", "greylist-configured", "leader-changed"])
    again.stop()
    one, many = (each["fields"] for each in log.read(again.directory.events) if each["event"] == "config-changed")
    when = datetime.fromtimestamp(told.host.now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert one == {
        "revision": 2, "keys": ["mail/limit"], "count": 1, "author": "admin", "reason": "holiday wave", "origin": "mx7",
        "changed": when,
    }  # fmt: skip
    assert (many["count"], len(many["keys"]), many["origin"]) == (25, 20, "mx8")
    assert b"a-value" not in again.directory.events.read_bytes()
    third = Audited(told, tmp_path)
    eventually(lambda: third.names()[5:] == ["leader-changed"])
    third.stop()


def test_what_is_done_to_the_greylist_by_hand_is_told_with_who_where_when_and_why(told: Told, tmp_path: Path) -> None:
    audited = Audited(told, tmp_path)
    eventually(lambda: audited.names() == ["leader-changed"])
    audited.stop()
    greylist = Greylist(told.host)
    by: dict[str, Any] = {"author": "admin", "reason": "a good one"}
    greylist.configure({"delay": 240}, **by)
    greylist.lists.add("allow", "client", "192.0.2.0/24", **by)
    greylist.lists.remove("allow", "client", "192.0.2.0/24", **by)
    greylist.check(client="192.0.2.7", sender="a@example.net", recipient="b@example.org")
    file = tmp_path / "records"
    file.write_text("".join(greylist.records.export()))
    greylist.records.load(file, **by)
    greylist.records.forget(client="192.0.2.7", **by)
    again = Audited(told, tmp_path)
    wanted: dict[str, dict[str, Any]] = {
        "greylist-configured": {"settings": ["delay 240"], "revision": 1},
        "greylist-lists-changed": {
            "what": "removed",
            "entries": ["allow client 192.0.2.0/24"],
            "count": 1,
            "revision": 2,
        },
        "greylist-imported": {"what": "1 records of records"},
        "greylist-forgotten": {"what": "client 192.0.2.7/32"},
    }
    eventually(lambda: set(wanted) <= set(again.names()))
    again.stop()
    found = {each["event"]: each["fields"] for each in log.read(again.directory.events)}
    when = datetime.fromtimestamp(told.host.now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name, fields in wanted.items():
        assert found[name] == {**fields, **by, "origin": told.host.name, "changed": when}
    assert again.names().count("greylist-lists-changed") == 2
    so_far = len(again.names())
    third = Audited(told, tmp_path)
    eventually(lambda: third.names()[so_far:] == ["leader-changed"])
    third.stop()


def test_what_is_done_to_held_messages_is_told_with_who_which_whom_when_and_where(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def do(*command: Any) -> Any:
        return told.host.propose("quarantine", list(command))

    def captured(number: int) -> bytes:
        envelope = Envelope("a@example.net")
        envelope.rcpt("b@example.org")
        envelope.rcpt("c@example.org")
        made = Content(bytes([number]) * 16, envelope.values(), bytes(32), 9, "a-reference", "a virus", 10**6, "mx3")
        do("capture", *made, bytes(32))
        return made.id

    audited = Audited(told, tmp_path)
    eventually(lambda: audited.names() == ["leader-changed"])
    ident = captured(1)
    when = datetime.fromtimestamp(told.host.now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    whom = {"message_id": ident.hex(), "number": 2, "recipient": "c@example.org", "changed": when}
    jane, joe = {"author": "jane", "origin": "mx7"}, {"author": "joe", "origin": "mx8"}
    (token, _) = do("claim", ident, 2, "n7", "mx7", "jane", 1_000)
    do("finish", ident, 2, token, False, "450 later", "jane", "mx7")
    (token, _) = do("claim", ident, 2, "n7", "mx7", "jane", 1_000)
    told.host.now += 1_000
    (other, _) = do("claim", ident, 2, "n8", "mx8", "joe", 1_000)
    do("finish", ident, 2, token, True, "250 first", "jane", "mx7")
    do("finish", ident, 2, other, True, "250 second", "joe", "mx8")
    audited.stop()
    do("discard", ident, "joe", "mx8")
    do("discard", ident, "joe", "mx8")
    monkeypatch.setattr(audit, "SETTINGS_SECONDS", 0.01)
    again = Audited(told, tmp_path)
    eventually(lambda: "quarantine-discarded" in again.names())
    again.stop()
    later = datetime.fromtimestamp(told.host.now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = [
        (each["event"], each["fields"])
        for each in log.read(again.directory.events)
        if each["event"].startswith("quarantine")
    ]
    assert found == [
        ("quarantine-claimed", {**whom, **jane}),
        ("quarantine-failed", {**whom, **jane, "detail": "450 later"}),
        ("quarantine-claimed", {**whom, **jane}),
        ("quarantine-claimed", {**whom, **joe, "changed": later}),
        ("quarantine-delivered", {**whom, **jane, "changed": later, "detail": "250 first", "deliveries": 1}),
        ("quarantine-delivered", {**whom, **joe, "changed": later, "detail": "250 second", "deliveries": 2}),
        ("quarantine-discarded", {"message_id": ident.hex(), "delivered": 1, **joe, "changed": later}),
    ]
    assert b"a-reference" not in again.directory.events.read_bytes()
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 3)
    for number in range(2, 8):
        do("discard", captured(number), "joe", "mx8")
    third = Audited(told, tmp_path)
    eventually(lambda: third.names().count("quarantine-discarded") == 4)
    third.stop()
    (missed,) = (each["fields"] for each in log.read(again.directory.events) if each["event"] == "quarantine-missed")
    assert missed == {"first": 8, "last": 10}


def test_decisions_about_members_and_certificates_are_told_once_with_who_where_when_and_why(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def administer(*command: Any) -> None:
        told.host.propose("cluster", attributed(list(command), "admin", "mx7", "a new host"))

    audited = Audited(told, tmp_path)
    eventually(lambda: [each["action"] for each in audited.decided()] == ["init"], what="the founder tells its own")
    administer("invite", "t3", b"k" * 32, "mx3", 60, [])
    eventually(lambda: len(audited.decided()) == 2)
    audited.stop()
    when = datetime.fromtimestamp(told.host.now / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert audited.decided()[1] == {
        "number": 2, "action": "invite", "subject": "mx3 (token t3)", "author": "admin", "origin": "mx7",
        "reason": "a new host", "changed": when,
    }  # fmt: skip
    administer("revoke", "t3")
    told.apply("invite", "t4", b"k" * 32, "mx4", 60, [])  # as a node of an earlier version would
    again = Audited(told, tmp_path)
    eventually(lambda: [each["action"] for each in again.decided()] == ["init", "invite", "revoke"], what="once each")
    again.stop()
    monkeypatch.setattr(auditing, "KEPT", 2)
    for number in range(5, 9):
        administer("invite", f"t{number}", b"k" * 32, f"mx{number}", 60, [])
    third = Audited(told, tmp_path)
    eventually(lambda: len(third.decided()) == 6)
    third.stop()
    assert third.decided()[3] == {"first": 4, "last": 5}, "what was forgotten while it was away"
    assert [each["subject"] for each in third.decided()[4:]] == ["mx7 (token t7)", "mx8 (token t8)"]


def test_what_was_forgotten_while_a_node_was_away_is_told_as_missed(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HISTORY_REVISIONS", 3)
    audited = Audited(told, tmp_path)
    eventually(lambda: audited.names() == ["leader-changed"])
    audited.stop()
    for number in range(9):
        told.host.propose("config", ["set", "a", number, "", "", "mx7", None])
    again = Audited(told, tmp_path)
    eventually(lambda: "config-missed" in again.names())
    again.stop()
    (missed,) = (each["fields"] for each in log.read(again.directory.events) if each["event"] == "config-missed")
    assert missed == {"first": 1, "last": 9}


def test_leaders_are_followed_and_a_failure_is_told_once(told: Told, tmp_path: Path) -> None:
    audited = Audited(told, tmp_path)
    eventually(lambda: audited.names() == ["leader-changed"])
    audited.leaders.append((None, 2))
    eventually(lambda: audited.names() == ["leader-changed", "leader-lost"])
    audited.leaders.append((told.me, 3))
    eventually(lambda: audited.names()[2:] == ["leader-changed"])
    audited.leaders.append(StorageFailed("the disk"))
    eventually(lambda: audited.names()[3:] == ["node-failed"])
    audited.leaders.append(StorageFailed("the disk, again"))
    eventually(lambda: len(audited.leaders) == 1)
    assert audited.stop()[3:] == ["node-failed"]


def test_a_stranger_cannot_fill_the_file(told: Told, tmp_path: Path) -> None:
    audited = Audited(told, tmp_path)
    for number in range(1000):
        audited.auditor.refused("token-unknown", "192.0.2.7", f"attempt {number}")
    audited.auditor.refused("token-unknown", "192.0.2.8", "another one")
    assert audited.stop().count("join-refused") == 2
    assert len(audited.auditor._refused) <= REFUSED


def test_two_strangers_at_once_are_both_told_that_they_are_refused(told: Told, tmp_path: Path) -> None:
    """Each on a thread of its own: both found the same oldest one to forget, and who came second failed."""
    audited = Audited(told, tmp_path)
    auditor, others = audited.auditor, list[threading.Thread]()

    class Contended(dict[Any, float]):
        def __delitem__(self, key: Any) -> None:
            if not others:
                others.append(threading.Thread(target=auditor.refused, args=("rate", "192.0.2.9", "too many")))
                others[0].start()
                eventually(lambda: not others[0].is_alive() or auditor._refusing.locked())
            super().__delitem__(key)

    auditor._refused = Contended({("rate", str(number)): float("inf") for number in range(REFUSED)})
    auditor.refused("rate", "192.0.2.8", "too many")
    others[0].join(60)
    assert len(auditor._refused) == REFUSED and audited.stop().count("join-refused") == 2
