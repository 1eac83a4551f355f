"""docs/events.md, written from the catalogue: `python -m tests.docs_events --write` after a change to it."""

from __future__ import annotations

import sys

from raftcluster.events.catalogue import CATALOGUE
from tests.checkout import ROOT

PAGE = ROOT / "docs" / "events.md"
HEADER = """# Events

What a node records of itself and of its cluster, for people who watch it and for programs that do. Written from the
catalogue by `python -m tests.docs_events --write`; a test compares the two.

`raftcluster events` prints them, `--json` one a line. They are kept in `events.log` in the data directory, each line with a
checksum and on the disk before anything goes on; beside it up to four older files. They also go to the operating system's
log, once each: to the journal where it runs (`journalctl MESSAGE_ID=<id without dashes>`, fields `RAFTCLUSTER_...`), else to
syslog (facility daemon, identifier `raftcluster`). A daemon that does not listen loses an event; the file has it. When a
cluster is destroyed, the file is kept outside the data directory: see [operations.md](operations.md#the-end-of-a-cluster).

* `id` never changes and is never used again: build filters on it, not on texts.
* `sequence` counts one node's events: a gap shows that some are missing.
* Each node records what it sees. One change in the cluster is one event on every node; a node that was down records it
  when it is back. After a crash an event may come twice.
* There is no secret in any event: no key, no secret of a token, nothing of a message.

| event | id | severity | fields | written when |
|---|---|---|---|---|
"""


def page() -> str:
    """The text of docs/events.md."""
    rows = [
        f"| `{each.name}` | `{each.id}` | {each.severity} | {_names(each.fields)} | {each.meaning} |"
        for each in CATALOGUE
    ]
    return HEADER + "\n".join(rows) + "\n"


def _names(fields: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in fields) or "–"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    else:
        sys.exit("usage: python -m tests.docs_events --write")
