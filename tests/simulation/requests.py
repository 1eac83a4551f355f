"""What clients ask of leases, notifications, lists and held messages, and what they do with the answers: renew, release, read on."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from raftcluster.machine import ReadTables
from raftcluster.notifications.machine import read_dropped, read_page
from tests.simulation.checker import Checker
from tests.simulation.process import Process
from tests.simulation.world import World

NAMES: Final = ("nightly", "report", "sync")
TERMS_MS: Final = (1_000, 1_500, 3_000)
KEPT_MS: Final = (0, 0, 500, 2_000)
KEYS: Final = ("", "", "disk", "feed")
LIVES_MS: Final = (1_000, 3_000, 60_000, 600_000)
CONSUMERS: Final = ("pager", "mailer")
PAGE: Final = 4
ENTRIES: Final = (
    ("allow", "client", "192.0.2.0/24"),
    ("greylist", "client", "192.0.2.0/24"),
    ("allow", "sender-domain", "example.org"),
    ("opt-out", "recipient-domain", "example.net"),
    ("opt-in", "recipient", "a@example.net"),
)


class Requests:
    """The clients of these machines. They know what they were told, and no more."""

    def __init__(self, world: World, checker: Checker) -> None:
        self._world, self._checker = world, checker
        self._tokens: dict[str, int] = {}
        """Name -> the newest token that anybody was given."""
        self._captured = 0
        self._claims: list[tuple[bytes, int, int]] = []
        """(id, number, token) of those that anybody was given."""
        self._last = 0
        self._texts = 0
        self._read: dict[str, int] = dict.fromkeys(CONSUMERS, 0)
        """Consumer -> up to where it has read."""

    def lease(self) -> list[Any]:
        """Get one, keep one, or let one go."""
        random = self._world.random
        name = random.choice(NAMES)
        token, kind = self._tokens.get(name), random.random()
        if token is None or kind < 0.45:
            node = f"n{random.randint(1, 3)}"
            return ["acquire", name, node, f"{node}.test", random.choice(TERMS_MS), random.choice(KEPT_MS)]
        if kind < 0.8:
            return ["renew", name, token, random.choice(TERMS_MS)]
        if kind < 0.9:  # somebody asks for what it never had
            verb, other = random.choice(("renew", "release")), token + random.choice((-1, 1))
            if verb == "release":
                # The next one may be somebody's when this comes: it is let go behind its holder's back.
                self._checker.leases.given_up(name, other)
            return [verb, name, other, 1_000][: 4 - (kind > 0.85)]
        self._checker.leases.given_up(name, token)
        return ["release", name, token]

    def notification(self) -> list[Any]:
        """Publish, mostly; see to one, move a cursor, forget a consumer."""
        random = self._world.random
        kind = random.random()
        if kind < 0.6 or not self._last:
            self._texts += 1
            severity = random.choice(("info", "error"))
            return [
                "publish",
                severity,
                f"n{self._texts}",
                random.choice(KEYS),
                {"n": 1},
                random.choice(LIVES_MS),
                "n1",
            ]
        position, consumer = random.randint(0, self._last), random.choice(CONSUMERS)
        if kind < 0.8:
            return ["acknowledge", position, f"admin{random.randint(1, 3)}", "n2"]
        if kind < 0.95:
            return ["advance", consumer, self._read[consumer] if random.random() < 0.7 else position]
        return ["seek", consumer, position] if kind < 0.98 else ["forget", consumer]

    def entry(self) -> list[Any]:
        """Add one or two to the lists, or take one out."""
        random = self._world.random
        effect, kind, pattern = random.choice(ENTRIES)
        if random.random() < 0.3:
            return ["remove", [["opt" if effect.startswith("opt-") else "rule", kind, pattern]], "admin", "n1", "gone"]
        chosen = random.sample(ENTRIES, random.randint(1, 2))
        items = [[*each, "because", random.choice((None, 1_000, 60_000))] for each in chosen]
        return ["add", items, "admin", "n1", "new", random.random() < 0.5]

    def release(self) -> list[Any]:
        """Hold a message, claim a recipient's, say what became of it, discard one."""
        random = self._world.random
        kind = random.random()
        if kind < 0.2 or not self._captured:
            self._captured += 1
            recipients = [[b"r%d@example.org" % n, "", ""] for n in range(random.randint(1, 2))]
            envelope = [b"a@example.net", "", "", False, recipients]
            lifetime = random.choice((2_000, 60_000, 600_000))
            ident = self._captured.to_bytes(16, "big")
            return ["capture", ident, envelope, bytes(32), 1, "ref", "", lifetime, "n1", bytes(32)]
        ident, number = random.randint(1, self._captured).to_bytes(16, "big"), random.choice((1, 1, 1, 2, 3))
        if kind < 0.65 or not self._claims:
            node = f"n{random.randint(1, 3)}"
            ident = max(1, self._captured - random.randint(0, 2)).to_bytes(16, "big")  # all want the newest
            return ["claim", ident, number, node, f"{node}.test", "admin", random.choice((1_000, 1_500, 3_000))]
        if kind < 0.96:
            ident, number, token = random.choice(self._claims[-4:])
            delivered = random.random() < 0.4
            if not delivered:
                self._checker.quarantine.claims.given_up(f"{ident.hex()}/{number}", token)
            return ["finish", ident, number, token, delivered, "250", "admin", "n1.test"]
        return ["discard", ident, "admin", "n1.test"]

    def answered(self, machine: str, asked: float, command: list[Any], result: list[Any]) -> None:
        """A client was told `result`; it had asked at `asked`, in true time."""
        if result[0] != 0:
            return
        match machine, command:
            case "lease", ["acquire", name, _, _, term, _]:
                self._tokens[name] = max(result[1][0], self._tokens.get(name, 0))
                self._checker.leases.believed(name, result[1][0], asked, term / 1000)
            case "lease", ["renew", name, token, term]:
                self._checker.leases.believed(name, token, asked, term / 1000)
            case "quarantine", ["claim", ident, number, _, _, _, term]:
                self._claims.append((ident, number, result[1][0]))
                self._checker.quarantine.claims.believed(f"{ident.hex()}/{number}", result[1][0], asked, term / 1000)
            case "notifications", ["publish", *_]:
                self._last = max(self._last, result[1][0])

    def read(self, process: Process) -> None:
        """A consumer reads on at this process, from what that holds itself."""
        random, replica = self._world.random, process.replica
        assert replica is not None
        consumer = random.choice(CONSUMERS)
        after = self._read[consumer] if random.random() < 0.8 else random.randint(0, self._last)
        tables: ReadTables = replica.applier.tables("notifications")

        def look() -> None:
            time = replica.time()
            page = read_page(tables, time, after, PAGE)
            self._checker.notifications.page(process.name, after, page, time)
            reached = read_dropped(tables) if page is None else page.reached
            self._read[consumer] = max(self._read[consumer], reached)

        process.run(partial(look))
