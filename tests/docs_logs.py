"""docs/logs.md, written from the mail log's own code: `python -m tests.docs_logs --write` after a change."""

from __future__ import annotations

import sys

from raftcluster.events.catalogue import Kind
from raftcluster.maillog import catalogue, cef
from raftcluster.maillog.entry import Entry
from raftcluster.maillog.settings import Settings
from tests.checkout import ROOT
from tests.docs_config import meanings

PAGE = ROOT / "docs" / "logs.md"
HEADER = """# The mail log

What each node has decided about mail, one entry for each recipient of a message. Written from the code by
`python -m tests.docs_logs --write`; a test compares the two.

Every node keeps its own, below `maillog/` in its data directory. Nothing of it is replicated: it is in no entry of the cluster's
log, no snapshot and no backup, and it ends with the data directory when the cluster is destroyed. What happened to the node
and its cluster is elsewhere: [events.md](events.md).

## Entries

A file holds one JSON object a line, in the order of `sequence`, and is named by its first one. What says nothing is left out.

| field | is |
|---|---|
"""
ACTIONS = """
Actions of the category `greylisting`:

| action | when |
|---|---|
| `Rejected` | the first attempt: it has to wait, `seconds_left` |
| `Rejected (not verified)` | it came again before its time |
| `Verified` | it passes: it has waited now (`waited`) or before (`known`), or its client has earned it (`client`) |
| `Passed` | it passes without that: there was nothing to decide (the lists, SPF, an authenticated client), or the cluster could not \
decide and `on_unavailable` says so, or the setting `training` |
| `Dropped` | category `log`: the queue was full or the disk took nothing; `lost` entries are missing, and so many numbers |

Other categories and their actions are the product's: `node.maillog.write`.

Whoever decides waits for nothing: an entry is put into a queue and written within a fifth of a second, and is on the disk a
second later; a power failure may cost that second. A crash of the process costs what was in the queue. When less than 64 MiB
are free on the disk nothing is logged, for the cluster's own data need it. When the disk fails to take what was written, the log
goes on in another file; how many entries may be lost by that is `unsure` in `raftcluster status`, with an alarm until the next start.

With the greylist's setting `privacy` the cluster keeps hashes; this log has the addresses all the same. Switch it off, or keep it
short, where that must not be.

## Reading

`raftcluster logs` prints this node's, also when it does not run; with `--all-nodes` those of all members, over the same mutually
authenticated port as everything else, in the order of `time`, which is each node's own clock's. A member that does not answer is
named, and the exit code is 5. `--follow` goes on with what comes, and goes on where it was when a member comes back; members that
join meanwhile are not among them. In Python
`node.maillog.read`, `node.logs`, `raftcluster.read_logs`.

## Settings

Of one node, set there; they hold at once: `raftcluster config set --local local/maillog/keep_days 7`.

| key | takes | default | is |
|---|---|---|---|
"""

EXPORT = """
## Export

`raftcluster config set --local local/maillog/export tls://siem.example.org` sends each entry as a syslog message (RFC 5424,
facility `mail`) whose text is CEF: one datagram a message over UDP (RFC 5426), with octet counting over TCP (RFC 6587) and TLS
(RFC 5425; set the files for it before). Ports that are not given are 514, 601 and 6514. `system` hands the entries to this
host's journal, or to its syslog daemon where there is no journal. A first export begins with what is logged from then on.

* The files are the spool: a receiver that is away gets what it has missed as long as that is kept, `keep_bytes` and `keep_days`.
* Every message has its entry's number, in `meta sequenceId` and, whole, in `raftcluster@32473 sequence`. What was removed before it
  could be sent is a gap in the numbers, and an entry `Dropped` with the last missing number says how many are missing.
* At least once. Syslog acknowledges nothing, so behind a connection that broke what was sent within the minute before, at most
  16 MiB, is sent again under the same numbers, and whatever the receiver's host had not acknowledged in TCP; so it is after a crash
  of this node. A connection that ends in order, as when the node is stopped, has been read to its end, and nothing is sent twice.
* UDP promises nothing. When the receiver's host says that nobody listens, the exporter waits, and sends the second before
  again; what is lost on the way without a word is lost, and a gap at the receiver.
* journald limits how much it takes of one service (`RateLimitBurst=` in journald.conf) and drops the rest without a word.
* Entries leave once they are on this node's disk, within about a second. Behind a backlog half of the exporter's time is left to
  others: some thousand entries a second.

`raftcluster status` shows under `export` (with `--json` in `maillog`) what it does: `connecting`, `connected`, `blocked` (the receiver takes nothing) or
`waiting` (to try again, after at most a minute; `error` says why); up to which number all has arrived (`position`), how many
entries are `behind`, and since the start how many were `exported` and how many `lost`: removed before it was certain that they had arrived. One that has failed for a minute is an alarm.

### CEF

`CEF:0|raftcluster|raftcluster|VERSION|signature|name|severity|` and these keys, without those that say nothing; values are cut at
1,000 bytes, or at 250 where the whole would be longer than 8 KiB.

As a real rsyslog has received it, the same over UDP, TCP and TLS (`tests/e2e/test_syslog.py`; here in several lines):

```
<21>1 2026-11-29T10:04:14.264681Z mx1 raftcluster 12591 greylist-rejected [meta sequenceId="1"]
  [raftcluster@32473 sequence="1" node="c26fcbf7-0e15-4b1b-ae2a-f18753975c32" cluster="6774657d-da22-4829-b1d4-b049bad5719b"]
  CEF:0|raftcluster|raftcluster|0.1.0|greylist-rejected|Greylisting: first attempt rejected|3|rt=1795946654265
  src=192.0.2.7 shost=mx|1\\=a\\\\b]"c suser=a@example.net duser=b1@example.org act=Rejected cat=greylisting reason=new
  dhost=mx1 deviceExternalId=c26fcbf7-0e15-4b1b-ae2a-f18753975c32 sourceServiceName=policy externalId=1 cn1=180
  cn1Label=Seconds left cs1=test cs1Label=Cluster cs2=1 cs2Label=SMTP transaction cs3=mail.example.net cs3Label=Client name
```

| key | is |
|---|---|
"""
SIGNATURES = """
| signature, and MSGID | name | severity | syslog severity | entries |
|---|---|---|---|---|
"""
CATALOGUE = """
### The operating system's log

In the journal an entry has `MESSAGE_ID`, `PRIORITY`, `SYSLOG_IDENTIFIER=raftcluster`, the fields `RAFTCLUSTER_EVENT`, `_SEQUENCE`,
`_CLUSTER_ID`, `_CLUSTER`, `_NODE_ID`, `_NODE`, and each column as `RAFTCLUSTER_FIELD_<COLUMN>`; to syslog the columns go as
structured data behind the text. The ids never change and are never used again.

| `RAFTCLUSTER_EVENT` | `MESSAGE_ID`, with dashes | severity | entries |
|---|---|---|---|
"""


def page() -> str:
    """The text of docs/logs.md."""
    fields = meanings(Entry)
    columns = [
        f"| `{name}` | {fields[name]} |" for name in ("sequence", *(each for each in fields if each != "sequence"))
    ]
    takes = {bool: "true or false", int: "a whole number", str: "text"}
    settings = [
        f"| `local/maillog/{name}` | {takes[type(Settings().values()[name])]} | `{_shown(Settings().values()[name])}` | {meaning} |"
        for name, meaning in meanings(Settings).items()
    ]
    keys = [f"| `{key}` | {meaning} |" for key, meaning in cef.KEYS.items()]
    signatures = [
        f"| `{each.id}` | {each.name} | {each.severity} | {each.priority} | {which} |" for each, which in _signatures()
    ]
    kinds = [_kind(each) for each in (*catalogue.KINDS.values(), catalogue.OTHER)]
    parts = (HEADER, columns, ACTIONS, settings, EXPORT, keys, SIGNATURES, signatures, CATALOGUE, kinds)
    return "".join(each if isinstance(each, str) else "\n".join(each) + "\n" for each in parts)


def _signatures() -> list[tuple[cef.Signature, str]]:
    named = [(each, f"`greylisting`, `{action}`") for action, each in cef.SIGNATURES.items()]
    return [*named, (cef.MISSING, "`log`, `Dropped`"), (cef.OTHER, "every other category")]


def _kind(kind: Kind) -> str:
    return f"| `{kind.name}` | `{kind.id}` | {kind.severity} | {kind.meaning} |"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        sys.exit("usage: python -m tests.docs_logs --write")
