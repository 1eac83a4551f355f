"""docs/logs.md, written from the mail log's own code: `python -m tests.docs_logs --write` after a change."""

from __future__ import annotations

import sys

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

Whoever decides waits for nothing: an entry is put into a queue and written within a tenth of a second, and is on the disk a
second later; a power failure may cost that second. A crash of the process costs what was in the queue. When less than 64 MiB
are free on the disk nothing is logged, for the cluster's own data need it.

With the greylist's setting `privacy` the cluster keeps hashes; this log has the addresses all the same. Switch it off, or keep it
short, where that must not be.

## Reading

`raftcluster logs` prints this node's, also when it does not run; with `--all-nodes` those of all members, over the same mutually
authenticated port as everything else, in the order of `time`, which is each node's own clock's. A member that does not answer is
named, and the exit code is 5. `--follow` goes on with what comes, and goes on where it was when a member comes back. In Python
`node.maillog.read`, `node.logs`, `raftcluster.read_logs`.

## Settings

Of one node, set there; they hold at once: `raftcluster config set --local local/maillog/keep_days 7`.

| key | takes | default | is |
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
    return HEADER + "\n".join(columns) + "\n" + ACTIONS + "\n".join(settings) + "\n"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        sys.exit("usage: python -m tests.docs_logs --write")
