"""A million entries of the mail log through a real rsyslog that is stopped for a while: `./run export` (root).

    ./run export [--events N] [--transport udp|tcp|tls] [--folder DIR]

For each transport: a quarter of the entries arrives as it comes; then rsyslogd is stopped with SIGTERM, half of them are logged
meanwhile, it is started again; a quarter more. All must be there, and how many came twice is told. Then it is stopped once more,
with a bound of 8 MiB for what is kept, and as much is logged as does not fit: what is kept must arrive, and the gap be told.

Exit code 1 when something is missing. The figures in docs/performance.md are of this command.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from raftcluster import limits
from raftcluster.config.local import Local
from raftcluster.greylist.request import Mail
from raftcluster.greylist.verdict import Verdict
from raftcluster.maillog.api import MailLog
from tests.e2e.rsyslog import Rsyslog
from tests.helpers import eventually
from tests.local_host import MemoryRows

FACTS: Final = {"name": "mx1.example.org", "node_id": "n1", "cluster": "mail", "cluster_id": "c1"}
VERDICT: Final = Verdict("defer", "new", 300, 0, None, False, "wait")
TRANSPORTS: Final = ("udp", "tcp", "tls")
AHEAD: Final = 10_000  # entries put before the writer is waited for
SECONDS: Final = 900.0
SMALL_BYTES: Final = 8 * limits.MIB


class Run:
    """One transport."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.receiver = kind, Rsyslog(folder)
        self.local = Local(MemoryRows())
        self.log = MailLog(folder / "maillog", self.local, FACTS)
        self.set(file_bytes=4 * limits.MIB, keep_bytes=2 * limits.GIB)
        if kind == "tls":
            self.set(export_ca=str(self.receiver.ca), export_certificate=str(self.receiver.node_pem))
        self.set(export=self.receiver.target(kind))

    def set(self, **settings: object) -> None:
        for name, value in settings.items():
            self.local.set(f"local/maillog/{name}", value)

    def decide(self, count: int) -> float:
        """So many decisions are logged; seconds until all are on the disk."""
        began = time.monotonic()
        for number in range(count):
            mail = Mail(
                "192.0.2.7",
                "mail.example.net",
                "a@example.net",
                f"b{number}@example.org",
                f"{number:x}.2",
                False,
                False,
            )
            self.log.decided(mail, VERDICT, "policy")
            if number % AHEAD == AHEAD - 1:
                assert self.log.flush(60)
        assert self.log.flush(60)
        return time.monotonic() - began

    def state(self, name: str) -> object:
        found = self.log.status()["export"]
        assert isinstance(found, dict)
        return found[name]

    def arrived(self, last: int) -> float:
        """Seconds until the last one has arrived."""
        began = time.monotonic()
        eventually(lambda: self.state("sent") == last, SECONDS, "all is sent")
        eventually(lambda: self.receiver.sequences()[-1:] == [last], SECONDS, "all has arrived")
        return time.monotonic() - began

    def whole(self, events: int) -> bool:
        """The first part; whether nothing is missing."""
        quarter = events // 4
        self.receiver.start()
        written = self.decide(quarter)
        first = self.arrived(quarter)
        self.receiver.stop()
        written += self.decide(events - 2 * quarter)
        self.receiver.start()
        began = time.monotonic()
        backlog = self.arrived(events - quarter)
        rate = (events - 2 * quarter) / (time.monotonic() - began)
        written += self.decide(quarter)
        self.arrived(events)
        found = self.receiver.sequences()
        missing = events - len(set(found) & set(range(1, events + 1)))
        print(
            f"{self.kind}: {events:,} entries, logged in {written:.1f} s, the first quarter arrived {first:.1f} s later; "
            f"stopped meanwhile: {backlog:.1f} s for the backlog, {rate:,.0f} entries/s; missing {missing}, "
            f"twice {len(found) - len(set(found)):,}, lost {self.state('lost')}, dropped {self.log.status()['dropped']}",
            flush=True,
        )
        return missing == 0 and self.state("lost") == 0 and self.log.status()["dropped"] == 0

    def beyond(self, events: int) -> bool:
        """The second part; whether the gap is as told and nothing else is missing."""
        self.receiver.stop()
        self.receiver.forget()
        self.set(keep_bytes=SMALL_BYTES)
        more = max(events // 4, 100_000)
        self.decide(more)
        first, last = self.log.status()["first"], events + more
        assert isinstance(first, int)
        self.receiver.start()
        self.arrived(last)
        found = sorted(set(self.receiver.sequences()))
        told = [each for each in self.receiver.records() if each["msgid"] == "log-dropped"]
        print(
            f"{self.kind}: {more:,} more than {SMALL_BYTES >> 20} MiB hold: {first - 1 - events:,} lost, told as "
            f"{self.state('lost'):,} in {len(told)} message(s); kept and arrived: {last - first + 1:,}",
            flush=True,
        )
        return bool(told) and found == list(range(first - 1, last + 1)) and first > events + 1

    def close(self) -> None:
        self.log.close()
        self.receiver.stop()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="./run export", description="the mail log through a rsyslog that is stopped")
    parser.add_argument("--events", type=int, default=1_000_000, help="entries for each transport")
    parser.add_argument("--transport", choices=TRANSPORTS, action="append", help="by default all three")
    parser.add_argument("--folder", type=Path, help="where its files are; by default a temporary one")
    asked = parser.parse_args()
    good = True
    for kind in asked.transport or TRANSPORTS:
        folder = Path(tempfile.mkdtemp(prefix=f"export-{kind}-", dir=asked.folder))
        run = Run(kind, folder)
        try:
            good &= run.whole(asked.events)
            good &= run.beyond(asked.events)
        finally:
            run.close()
            shutil.rmtree(folder)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"processor time {used.ru_utime + used.ru_stime:.0f} s, at most {used.ru_maxrss / 1024:.0f} MiB")
    print("good" if good else "NOT GOOD")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
