"""Every kind of event there is. The ids never change and are never used again: filters and alarms are built on them.

`docs/events.md` is written from this file (`python -m tests.docs_events --write`); a test compares the two. Pure.

An event says what happened *on this node*, or what this node has seen happen to the cluster. It holds names, ids,
numbers and public fingerprints: never a key, a token's secret, or anything of a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Field = str | int | float | bool | Sequence[str] | None

SEVERITIES: Final = {"alert": 1, "critical": 2, "error": 3, "warning": 4, "notice": 5, "info": 6}
"""As in RFC 5424, 6.2.1."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the catalogue."""

    id: str
    """UUID; the journal's MESSAGE_ID."""
    name: str
    severity: str
    fields: tuple[str, ...]
    """The names of its fields, all of which every event of this kind has."""
    text: str
    """The message, with the fields in braces."""
    meaning: str
    """For the documentation: when it is written."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    kind: Kind
    time: float
    """Of this node's wall clock, seconds since the epoch."""
    sequence: int
    """Counts this node's events from 1, across restarts: a gap shows that some are missing."""
    cluster_id: str
    cluster: str
    node_id: str
    node: str
    fields: Mapping[str, Field]

    @property
    def message(self) -> str:
        """The event as a sentence, on one line whatever its fields hold."""
        shown = {name: _shown(value) for name, value in self.fields.items()}
        return self.kind.text.format(**shown)

    def record(self) -> dict[str, Any]:
        """The event as JSON has it, in the file and in `raftcluster events --json`."""
        return {
            "sequence": self.sequence,
            "time": self.time,
            "id": self.kind.id,
            "event": self.kind.name,
            "severity": self.kind.severity,
            "message": self.message,
            "cluster_id": self.cluster_id,
            "cluster": self.cluster,
            "node_id": self.node_id,
            "node": self.node,
            "fields": dict(self.fields),
        }


def kind(name: str) -> Kind:
    """The kind of that name. Raises `KeyError`."""
    return _BY_NAME[name]


def check(kind: Kind, fields: Mapping[str, Field]) -> None:
    """Raise `ValueError` unless `fields` are those of the kind."""
    if set(fields) != set(kind.fields):
        raise ValueError(f"{kind.name} has the fields {sorted(kind.fields)}, not {sorted(fields)}")


def _shown(value: Field) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ", ".join(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text) or "-"


CATALOGUE: Final = (
    Kind(
        "306cd557-dff3-4d23-aa31-5188d0101edf",
        "node-started",
        "info",
        ("version", "listen"),
        "raftcluster {version} started, listening at {listen}",
        "the node has started",
    ),
    Kind(
        "6c93bf3a-0fd5-4537-8bf8-e3e1a4332842",
        "node-artefact",
        "info",
        ("artefact",),
        "the program was installed from artefact {artefact}",
        "the node has started with a program that was pushed, or came with the Debian package; equal hashes are equal programs",
    ),
    Kind(
        "84f6cdb3-0dbe-4b3d-bef4-511c2ef1b939",
        "node-stopped",
        "info",
        (),
        "the node has stopped",
        "the node was stopped in an orderly way; after a crash it is missing",
    ),
    Kind(
        "21c076ec-6448-4e59-b938-43453ab5c8ee",
        "node-failed",
        "critical",
        ("reason",),
        "the node takes no part in the cluster any more: {reason}",
        "the node stopped for good and must be restarted, once what is named is mended",
    ),
    Kind(
        "b52163b4-bc72-4b00-9a5d-9db33689a9e9",
        "leader-changed",
        "notice",
        ("leader", "leader_id", "term"),
        "{leader} leads in term {term}",
        "this node has seen a new leader, or the same one in a new term",
    ),
    Kind(
        "2d1a3a0f-a090-4f3f-9b7f-3badef5c9f9c",
        "leader-lost",
        "warning",
        ("term",),
        "no leader since term {term}: there is no quorum, or an election",
        "this node has seen no leader for two seconds",
    ),
    Kind(
        "9cbb5d19-36df-44b8-a241-2bc8a35297a3",
        "storage-unhealthy",
        "error",
        ("health", "detail"),
        "storage is {health}: {detail}",
        "the disk is full, or a write failed",
    ),
    Kind(
        "11a6e6df-9c6c-4343-8ad8-f621e751a383",
        "storage-well",
        "notice",
        (),
        "storage is well again",
        "there is space again, the node goes on",
    ),
    Kind(
        "eec70281-71ce-400d-addd-dadb8dc2e784",
        "member-joined",
        "notice",
        ("member", "member_id", "address"),
        "{member} at {address} was let in",
        "a host has used its invitation; it is no voter yet",
    ),
    Kind(
        "9c922998-ebf5-4bdf-9b17-f8771c10f600",
        "member-promoted",
        "notice",
        ("member", "member_id"),
        "{member} has caught up and votes",
        "a learner became a voter",
    ),
    Kind(
        "85359670-cd9d-4bbd-b14d-215cab1b3ca9",
        "member-moved",
        "notice",
        ("member", "member_id", "before", "after"),
        "{member} is at {after} now, before at {before}",
        "a member's address was changed",
    ),
    Kind(
        "df0076a6-dc6c-4976-b2f3-19491d7c3667",
        "member-removed",
        "warning",
        ("member", "member_id"),
        "{member} was removed: its links are closed",
        "a member was shut out",
    ),
    Kind(
        "75eb7dd6-6f82-41c4-9cb7-a567842a808d",
        "node-removed",
        "warning",
        (),
        "this node was removed from the cluster; it stops, and does not start again until it has joined anew",
        "this node has learnt that it is a member no more",
    ),
    Kind(
        "c0f8150f-0244-40a6-b4b6-0d1d7ea79c1f",
        "join-refused",
        "warning",
        ("code", "address", "reason"),
        "a host at {address} was not let in: {code}: {reason}",
        "somebody asked to join and was refused; at most one for each address and code in 30 seconds",
    ),
    Kind(
        "7aa2757a-07d3-419a-a952-ba60839c34ea",
        "token-created",
        "notice",
        ("token", "member", "expires"),
        "{member} is invited with token {token} until {expires}",
        "an invitation was made; the token's id is no secret",
    ),
    Kind(
        "bcb9b6d3-be59-4276-a049-949a92caed62",
        "token-used",
        "notice",
        ("token", "member"),
        "{member} has used token {token}",
        "an invitation was used; it is worthless from now on",
    ),
    Kind(
        "f9019d7c-894c-42c9-81df-6a1057d3b87d",
        "token-revoked",
        "notice",
        ("token", "member"),
        "token {token} for {member} was revoked",
        "an invitation was made worthless",
    ),
    Kind(
        "692da4e2-2f46-4658-a1ac-f2fe2cad1422",
        "generation-begun",
        "notice",
        ("generation",),
        "certificate generation {generation} has begun",
        "a new hierarchy is being made",
    ),
    Kind(
        "2e2acd74-1a7b-4595-aa34-5fc6884e2192",
        "generation-minted",
        "notice",
        ("generation", "root"),
        "certificate generation {generation} is minted (root {root}), its root key destroyed",
        "all certificates of the new hierarchy are signed; every node learns to trust its root",
    ),
    Kind(
        "58109431-87ee-43bf-a4f1-a5def0d0a2d7",
        "generation-active",
        "notice",
        ("generation", "root", "before"),
        "certificate generation {generation} is in force (root {root}, before {before})",
        "the new hierarchy is the only one that is trusted; both roots' fingerprints are named",
    ),
    Kind(
        "e93be086-1c4f-4f23-b575-60a12c616e9d",
        "generation-aborted",
        "warning",
        ("generation",),
        "certificate generation {generation} was given up",
        "a generation was aborted before anybody trusted it; its number is not used again",
    ),
    Kind(
        "b9a0eac2-d51b-49cf-943a-19260830701e",
        "backup-taken",
        "notice",
        ("index",),
        "a backup of the state at entry {index} was taken",
        "somebody has read all of the tables at this node, for a backup",
    ),
    Kind(
        "38f6d6a1-7847-4643-9681-cb445ec41417",
        "cluster-restored",
        "warning",
        ("former_id", "index", "checksum", "author", "reason"),
        "a new cluster was begun with the state of cluster {former_id} at entry {index}, by {author}, reason: {reason}",
        "`raftcluster restore` has made this node the first of a new cluster; the checksum is the backup's",
    ),
    Kind(
        "fbc5da87-8697-420a-b19d-d36ff723bed7",
        "cluster-recovered",
        "alert",
        ("former_id", "index", "removed", "author", "reason"),
        "after a lost quorum this node goes on alone, without {removed}, as another cluster than {former_id}; "
        "by {author}, reason: {reason}",
        "`raftcluster recover` has made what this node held a new cluster; the others have to join it anew",
    ),
    Kind(
        "ab3076d3-f977-4a8a-87d5-bb560b1f83b5",
        "firewall-created",
        "notice",
        ("table", "port", "sources"),
        "table {table} lets {sources} reach port {port}, and no stranger",
        "this node has made its nftables table, or made it again because somebody had removed or changed it",
    ),
    Kind(
        "79e133c7-e764-4d83-ab1f-9df57b11de71",
        "firewall-changed",
        "notice",
        ("table", "added", "removed"),
        "table {table}: let in from now on: {added}; no more: {removed}",
        "the table has followed membership or an invitation",
    ),
    Kind(
        "bf521c9c-df36-42f9-9383-6b4e5f42fa9a",
        "firewall-failed",
        "error",
        ("table", "reason"),
        "table {table} cannot be kept up to date: {reason}",
        "nft is missing or not permitted; strangers still fail at mutual TLS",
    ),
    Kind(
        "c36618c3-9247-44a8-93fd-ec8ebaf54395",
        "firewall-removed",
        "notice",
        ("table", "restored"),
        "table {table} is removed; the rule set is the one from before: {restored}",
        "the cluster was destroyed and its table is gone. 'no': others have changed their rules since, and keep them",
    ),
    Kind(
        "34594211-6559-4dc7-8630-edd365ca1051",
        "cluster-changed",
        "notice",
        ("number", "action", "subject", "author", "origin", "reason", "changed"),
        "members or certificates: {action} {subject}, by {author} at {origin}, {changed}, reason: {reason}",
        "somebody has changed members or certificates: init, invite, revoke, join, return, remove, move, rotate, abort, transfer, "
        "restore, recover, destroy. `origin` is the node at which it was asked, or the address of a host that joins or returns; "
        "the author `raftcluster` is the cluster itself",
    ),
    Kind(
        "11c0f4c7-f6c0-4ae3-adc3-b859cdb45926",
        "cluster-missed",
        "warning",
        ("first", "last"),
        "changes {first} to {last} of members and certificates were made while this node was away and are no longer kept",
        "who decided them is in the records of the nodes that were up",
    ),
    Kind(
        "0a9c3880-543a-4398-a9d6-1fd572628eab",
        "config-changed",
        "notice",
        ("revision", "keys", "count", "author", "reason", "origin", "changed"),
        "configuration revision {revision}: {keys} ({count}) changed by {author} at {origin}, {changed}, reason: {reason}",
        "the configuration was changed; up to 20 of the `count` keys are named, their values are not",
    ),
    Kind(
        "39ffff2c-da4d-462e-9ad0-3c3c9411adce",
        "config-missed",
        "warning",
        ("first", "last"),
        "revisions {first} to {last} of the configuration were made while this node was away, some are no longer kept",
        "who changed what in them is in the records of the nodes that were up",
    ),
    Kind(
        "5c7eedc5-b36d-4af3-8eaf-8988a8024159",
        "greylist-configured",
        "notice",
        ("revision", "settings", "author", "reason", "origin", "changed"),
        "greylist settings revision {revision}: {settings}, changed by {author} at {origin}, {changed}, reason: {reason}",
        "the greylist's settings were changed",
    ),
    Kind(
        "4b597756-bca3-471c-85c3-4016391e61ff",
        "greylist-lists-changed",
        "notice",
        ("revision", "what", "entries", "count", "author", "reason", "origin", "changed"),
        "greylist lists revision {revision}: {what} {entries} ({count} in all), by {author} at {origin}, {changed}, "
        "reason: {reason}",
        "entries of the greylist's lists were added or removed",
    ),
    Kind(
        "cbfb5cc8-b1a5-42ea-a8d3-192fd385ce3b",
        "greylist-forgotten",
        "notice",
        ("what", "author", "reason", "origin", "changed"),
        "greylist records were forgotten: {what}, by {author} at {origin}, {changed}, reason: {reason}",
        "an administrator had triplets forgotten; what was named is told",
    ),
    Kind(
        "cb5000b3-6dc6-472d-bd3c-9e0694186237",
        "greylist-imported",
        "notice",
        ("what", "author", "reason", "origin", "changed"),
        "greylist records were imported: {what}, by {author} at {origin}, {changed}, reason: {reason}",
        "an administrator began to import a file of greylist records",
    ),
    Kind(
        "1ebf3686-f0e7-4b1c-84bb-296020495dfe",
        "quarantine-claimed",
        "info",
        ("message_id", "number", "recipient", "author", "origin", "changed"),
        "held message {message_id}: a release to recipient {number}, {recipient}, has begun, by {author} at {origin}, {changed}",
        "somebody has a held message released to one of its envelope's recipients; what becomes of it is another event, or none "
        "when that node crashes",
    ),
    Kind(
        "5acf7765-76a0-4df7-8c71-bfa6cf330424",
        "quarantine-delivered",
        "notice",
        ("message_id", "number", "recipient", "author", "origin", "changed", "deliveries", "detail"),
        "held message {message_id} was delivered to recipient {number}, {recipient}, released by {author} at {origin}, {changed}: "
        "{detail}",
        "a server has taken a held message for this recipient; more than one of `deliveries` says that it came more than once",
    ),
    Kind(
        "951e2c70-c25a-4c38-b2bb-f4d2eb6ab608",
        "quarantine-failed",
        "warning",
        ("message_id", "number", "recipient", "author", "origin", "changed", "detail"),
        "held message {message_id} was not delivered to recipient {number}, {recipient}, released by {author} at {origin}, "
        "{changed}: {detail}",
        "a release has failed; it may be tried again",
    ),
    Kind(
        "333219ca-3a0e-4dfb-9f65-632974c20afd",
        "quarantine-discarded",
        "notice",
        ("message_id", "delivered", "author", "origin", "changed"),
        "held message {message_id} was discarded by {author} at {origin}, {changed}; delivered to {delivered} recipients before",
        "somebody had the cluster forget a held message",
    ),
    Kind(
        "016f6466-7d18-441b-a270-19e6a9c24869",
        "quarantine-missed",
        "warning",
        ("first", "last"),
        "acts {first} to {last} on held messages were done while this node was away and are no longer kept",
        "who released what in them is in the records of the nodes that were up",
    ),
    Kind(
        "39ee3b73-f355-441b-af38-822372ce1b6e",
        "destroy-decided",
        "warning",
        ("event_id", "reason"),
        "the cluster is being destroyed (event {event_id}, reason: {reason})",
        "the decision to dismantle the cluster is committed; nothing changes any more",
    ),
    Kind(
        "8cf32ee6-f0ed-43fd-8d42-fe511ddd073b",
        "tombstone-accepted",
        "warning",
        ("event_id", "source"),
        "the cluster was destroyed while this node was away (event {event_id}), as {source} proves",
        "this node was shown the tombstone, signed by a majority of the cluster, and tears itself down",
    ),
    Kind(
        "bb6abe00-4ec0-4476-8870-3e10c3ab2482",
        "cluster-destroyed",
        "warning",
        ("event_id", "reason", "decided", "signed_by"),
        "the cluster was destroyed (event {event_id}, reason: {reason}, decided {decided}, signed by {signed_by})",
        "the record of the destruction, with the same `event_id` on all nodes; on the disk before anything is removed",
    ),
    Kind(
        "c20302e4-2d45-475a-a914-5a3d6115b7a8",
        "members-not-heard",
        "warning",
        ("event_id", "members"),
        "the cluster was destroyed (event {event_id}) and {members} were not heard to have recorded it",
        "this node goes without them: they were down, or are; they tear themselves down when they are shown the tombstone",
    ),
    Kind(
        "1e0d15b2-4522-4bba-b74f-bed13e7dafcb",
        "teardown-step",
        "info",
        ("event_id", "step"),
        "destroying (event {event_id}): {step}",
        "one thing has been removed from this node",
    ),
    Kind(
        "7f57852b-1ed2-44ef-bbc0-07bfad575137",
        "teardown-finished",
        "notice",
        ("event_id",),
        "nothing of the cluster is left on this node (event {event_id})",
        "the node is as it was before; it can be used in another cluster",
    ),
)

_BY_NAME: Final = {each.name: each for each in CATALOGUE}
