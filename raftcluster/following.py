"""What somebody has changed -- configuration, greylist settings, lists and records, held messages, members, certificates -- since
this node has told it last, as events.

The place in each order of changes is kept in the data directory: what happened while the node was down is told when it is
back. It is kept after the events: a crash in between tells something twice rather than never. Values are not told.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from raftcluster import trail
from raftcluster.cluster import auditing
from raftcluster.config.reading import read_changes, read_revision
from raftcluster.errors import RaftclusterError
from raftcluster.events.recorder import Recorder
from raftcluster.greylist.acts import read_acts
from raftcluster.greylist.lists.machine import read_changes as read_list_changes
from raftcluster.greylist.lists.machine import read_revision as read_revision_of_lists
from raftcluster.greylist.machine import read_settings_history, read_settings_row
from raftcluster.host import Host
from raftcluster.quarantine.acts import Act
from raftcluster.quarantine.acts import read_acts as read_releases
from raftcluster.storage.directory import DataDirectory

log = logging.getLogger("raftcluster.events")

FILE: Final = "audit-config.json"
MACHINES: Final = frozenset({"config", "greylist", "quarantine", "cluster"})
"""Whose changes are told; those of the greylist's lists with the greylist's."""
PAGE: Final = 100
_ACTS: Final = {"forgotten": "greylist-forgotten", "imported": "greylist-imported"}
_HELD: Final = {
    "claimed": "quarantine-claimed",
    "delivered": "quarantine-delivered",
    "failed": "quarantine-failed",
    "discarded": "quarantine-discarded",
}
Event = tuple[str, dict[str, Any]]
"""The name of an event and its fields."""
KEYS: Final = 20
"""An event names so many keys, and counts the others."""


class Following:
    """Of one node. Thread: the auditor's."""

    def __init__(self, host: Host, directory: DataDirectory, recorder: Recorder) -> None:
        self._host, self._directory, self._recorder = host, directory, recorder
        self._told = self._kept()

    def tell(self, machines: Collection[str] = MACHINES) -> None:
        """Record what is new in the orders of these machines: each is a question to the tick thread, or more. Raises `Unavailable`
        when the node does not answer now: nothing is lost then."""
        if self._told is None:  # a node that is new has seen nothing happen
            self._told = self._newest()
            if self._told["cluster"] == 1:  # the founder tells the founding
                self._told["cluster"] = 0
            self._keep(self._told)
        before = dict(self._told)
        for name, fields in self._changes(self._told, machines):
            self._recorder.note(name, **fields)
        if self._told != before:
            self._keep(self._told)

    def _newest(self) -> dict[str, int]:
        return {
            "config": self._host.query("config", lambda tables, _: read_revision(tables)),
            "greylist": self._host.query("greylist", lambda tables, _: read_settings_row(tables)[0]),
            "lists": self._host.query("lists", lambda tables, _: read_revision_of_lists(tables)),
            "acts": self._host.query("greylist", lambda tables, _: trail.read_newest(tables)),
            "quarantine": self._host.query("quarantine", lambda tables, _: trail.read_newest(tables)),
            "cluster": self._host.query("cluster", lambda tables, _: auditing.read_count(tables)),
        }

    def _changes(self, told: dict[str, int], machines: Collection[str]) -> Iterator[Event]:
        """The events since `told`, which follows."""
        for machine, changed in (
            ("config", self._configured),
            ("greylist", self._greylisted),
            ("quarantine", self._released),
            ("cluster", self._administered),
        ):
            if machine in machines:
                yield from changed(told)

    def _administered(self, told: dict[str, int]) -> Iterator[Event]:
        while rows := self._host.query(
            "cluster", lambda tables, _: auditing.read_changes(tables, told["cluster"], PAGE)
        ):
            if rows[0].number > told["cluster"] + 1:
                yield "cluster-missed", {"first": told["cluster"] + 1, "last": rows[0].number - 1}
            for each in rows:
                about = {
                    name: getattr(each, name) for name in ("number", "action", "subject", "author", "origin", "reason")
                }
                yield "cluster-changed", {**about, "changed": _date(each.time)}
                told["cluster"] = each.number

    def _configured(self, told: dict[str, int]) -> Iterator[Event]:
        while True:
            reached = told["config"]
            page = self._host.query("config", lambda tables, _: read_changes(tables, "", reached, PAGE))  # noqa: B023
            if page is None:
                newest = self._newest()["config"]
                yield "config-missed", {"first": reached + 1, "last": newest}
                told["config"] = newest
                continue
            for revision, together in groupby(page.changes, attrgetter("revision")):
                changed = list(together)
                first = changed[0]
                yield (
                    "config-changed",
                    {
                        "revision": revision,
                        "keys": [each.key for each in changed[:KEYS]],
                        "count": len(changed),
                        "author": first.author,
                        "reason": first.reason,
                        "origin": first.node,
                        "changed": _date(first.time),
                    },
                )
                told["config"] = revision
            told["config"] = page.reached
            if page.reached == reached:
                return

    def _greylisted(self, told: dict[str, int]) -> Iterator[Event]:
        since = told["greylist"]
        rows = self._host.query("greylist", lambda tables, _: read_settings_history(tables, PAGE))
        for revision, settings, author, reason, time, node in reversed(rows):
            if revision > since:
                set_to = [f"{name} {value}" for name, value in settings.items()]
                yield (
                    "greylist-configured",
                    {"revision": revision, "settings": set_to, **_why(author, reason, node, time)},
                )
                told["greylist"] = revision
        yield from self._acts(told)

    def _acts(self, told: dict[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
        """What was done to the greylist's lists and records."""
        place = told["lists"]
        for change in self._host.query("lists", lambda tables, _: read_list_changes(tables, place, PAGE)):
            entries = [f"{effect} {kind} {pattern}" for effect, kind, pattern, _ in change.entries]
            yield (
                "greylist-lists-changed",
                {
                    "revision": change.revision,
                    "what": change.what,
                    "entries": entries,
                    "count": change.number,
                    **_why(change.author, change.reason, change.node, change.time),
                },
            )
            told["lists"] = change.revision
        number = told["acts"]
        for act in self._host.query("greylist", lambda tables, _: read_acts(tables, number, PAGE)):
            yield _ACTS[act.what], {"what": act.detail, **_why(act.author, act.reason, act.node, act.time)}
            told["acts"] = act.number

    def _released(self, told: dict[str, int]) -> Iterator[Event]:
        """What was done to held messages."""
        while rows := self._host.query("quarantine", lambda tables, _: read_releases(tables, told["quarantine"], PAGE)):
            if rows[0].number > told["quarantine"] + 1:
                yield "quarantine-missed", {"first": told["quarantine"] + 1, "last": rows[0].number - 1}
            for act in rows:
                yield _HELD[act.what], _done(act)
                told["quarantine"] = act.number

    def _kept(self) -> dict[str, int] | None:
        try:
            kept = json.loads((self._directory.path / FILE).read_bytes())
            found = {name: int(kept[name]) for name in ("config", "greylist", "lists", "acts")}
            return {
                **found,
                **{name: int(kept.get(name, 0)) for name in ("quarantine", "cluster")},
            }  # earlier versions had none
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            log.warning("%s is no place in the changes, it begins anew: %s", FILE, error)
            return None

    def _keep(self, told: dict[str, int]) -> None:
        try:
            self._directory.write(FILE, json.dumps(told).encode())
        except RaftclusterError as error:  # the disk; after a restart what was told is told again
            log.warning("%s", error)


def _why(author: str, reason: str, node: str, time: int) -> dict[str, Any]:
    return {"author": author, "reason": reason, "origin": node, "changed": _date(time)}


def _done(act: Act) -> dict[str, Any]:
    """The fields of an event about a held message."""
    who = {"author": act.author, "origin": act.node, "changed": _date(act.time)}
    if act.what == "discarded":
        return {"message_id": act.message.hex(), "delivered": act.deliveries, **who}
    recipient = act.address.decode("utf-8", "backslashreplace")
    about: dict[str, Any] = {"message_id": act.message.hex(), "number": act.recipient, "recipient": recipient, **who}
    if act.what != "claimed":
        about["detail"] = act.detail
    if act.what == "delivered":
        about["deliveries"] = act.deliveries
    return about


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
