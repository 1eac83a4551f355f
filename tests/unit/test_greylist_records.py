"""Records by hand: read page by page, forgotten, exported, imported; and the merge that brings copies together."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcluster import codec, limits
from raftcluster.errors import Rejected, Unavailable
from raftcluster.greylist import forgetting, records, transfer
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.check import command as check_command
from raftcluster.greylist.clients import CLIENTS, read_client
from raftcluster.greylist.expiry import EXPIRY, RECORDS
from raftcluster.greylist.forgetting import FORGOTTEN
from raftcluster.greylist.lists.machine import ListsMachine
from raftcluster.greylist.machine import GreylistMachine, read_record, read_record_count
from raftcluster.greylist.record import Record, node_label
from raftcluster.greylist.rules import Triplet, key_of
from raftcluster.greylist.selection import TRIPLET, Selection
from raftcluster.greylist.settings import Settings
from tests.local_host import LocalHost

DELAY, WINDOW, LIFE = Settings().waits()
HOUR = 3_600_000
MAIL: dict[str, Any] = {"client": "192.0.2.7", "sender": "a@example.net", "recipient": "b@example.org"}
WHY: dict[str, Any] = {"author": "admin", "reason": "a good one"}


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([GreylistMachine(), ListsMachine()])


@pytest.fixture
def greylist(host: LocalHost) -> Greylist:
    return Greylist(host)


def mail(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "client": f"198.51.{number % 100}.7",
        "sender": f"s{number}x@d{number % 3}.example.net",
        "recipient": f"r{number % 5}x@example.org",
        **changes,
    }


def shown(greylist: Greylist, limit: int = limits.SCAN_ROWS, **named: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = greylist.records.show(after=after, limit=limit, **named)
        assert len(page["records"]) <= limit
        found += page["records"]
        after = page["next"]
        if not after:
            return found


# --- list


def test_all_living_records_are_shown_page_by_page_once(host: LocalHost, greylist: Greylist) -> None:
    for number in range(2_300):
        greylist.check(**mail(number))
    everything = shown(greylist, 7)
    assert len({record["key"] for record in everything}) == len(everything) == 2_300
    assert everything == shown(greylist)
    host.now += WINDOW
    assert shown(greylist) == []


@pytest.mark.parametrize(
    ("named", "matches"),
    [
        ({"client": "198.51.7.0/24"}, lambda n: n % 100 == 7),
        ({"client": "198.51.7.200"}, lambda n: n % 100 == 7),
        ({"client": "198.51.0.0/21"}, lambda n: n % 100 < 8),
        ({"client": "2001:db8::/32"}, lambda n: False),
        ({"sender": "S3x@d0.example.net."}, lambda n: n == 3),
        ({"sender_domain": "d1.example.net"}, lambda n: n % 3 == 1),
        ({"sender_domain": "example.net"}, lambda n: True),
        ({"sender_domain": "ample.net"}, lambda n: False),
        ({"recipient": "r2x@example.org"}, lambda n: n % 5 == 2),
        ({"recipient_domain": "example.org", "sender_domain": "d2.example.net"}, lambda n: n % 3 == 2),
    ],
)
def test_records_are_named_by_what_they_hold(
    host: LocalHost, greylist: Greylist, named: dict[str, Any], matches: Any
) -> None:
    for number in range(200):
        greylist.check(**mail(number))
    wanted = {f"s{number}x" for number in range(200) if matches(number)}
    found = shown(greylist, 9, **named)
    assert sorted(record["sender"].partition("@")[0] for record in found) == sorted(wanted)
    host.now += 1
    assert greylist.records.forget(**named)["forgotten"] == len(wanted)
    assert len(shown(greylist)) == 200 - len(wanted)


@pytest.mark.parametrize(
    "named", [{"colour": "red"}, {"client": "everybody"}, {"sender_domain": "a@b"}, {"client_name": "example.net"}]
)
def test_what_names_nothing_is_refused_with_what_does(greylist: Greylist, named: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        greylist.records.show(**named)
    with pytest.raises(Rejected):
        greylist.records.forget(**named)
    with pytest.raises(Rejected):
        greylist.records.forget()


# --- forget


def test_one_triplet_is_forgotten_and_begins_anew(host: LocalHost, greylist: Greylist) -> None:
    greylist.check(**MAIL)
    greylist.check(**{**MAIL, "recipient": "c@example.org"})
    host.now += DELAY
    assert greylist.records.forget(**MAIL, **WHY) == {
        "forgotten": 1,
        "named": f"triplet {greylist.explain(**MAIL)['key']}",
    }
    assert b"a@example.net\0\rb@example.org" not in host.tables["greylist"].image(), "its addresses are gone"
    assert greylist.explain(**MAIL)["rule"] == "new"
    assert greylist.check(**MAIL).reason == "new"
    host.now += DELAY
    assert greylist.check(**MAIL).reason == "waited"
    assert greylist.check(**{**MAIL, "recipient": "c@example.org"}).reason == "waited"
    assert greylist.records.forget(**{**MAIL, "sender": "no@example.net"})["forgotten"] == 0
    (act, _) = greylist.records.acts()
    assert (act.what, act.author, act.node, act.reason) == ("forgotten", "admin", host.name, "a good one")


def test_every_record_stays_in_the_index_once(host: LocalHost, greylist: Greylist) -> None:
    greylist.check(**MAIL)
    host.now += 1
    greylist.records.forget(**MAIL)
    greylist.check(**MAIL)
    index = host.tables["greylist"].rows[EXPIRY]
    assert sum(len(row) for row in index.values()) == 16
    host.now += WINDOW + 2 * HOUR
    host.entry("greylist", [])
    assert not index and not host.tables["greylist"].rows[RECORDS]
    assert read_record_count(host.tables["greylist"]) == 0


def test_a_forgotten_client_is_a_stranger(host: LocalHost, greylist: Greylist) -> None:
    greylist.configure({"auto_allow": 1})
    greylist.check(**MAIL)
    host.now += DELAY
    greylist.check(**MAIL)
    assert greylist.explain(**mail(1, client="192.0.2.9"))["rule"] == "client"
    host.now += 1
    assert greylist.records.forget(client="192.0.2.0/25")["forgotten"] == 1
    assert greylist.explain(**mail(1, client="192.0.2.9"))["rule"] == "new"
    assert greylist.check(**mail(1, client="192.0.2.9")).reason == "new"
    client = read_client(host.tables["greylist"], b"192.0.2.0/24")
    assert client is not None and not client.network
    host.now += LIFE + 2 * HOUR
    host.entry("greylist", [])
    assert not host.tables["greylist"].rows[CLIENTS]


def test_a_walk_is_bounded_per_command_and_ends_by_itself(host: LocalHost, greylist: Greylist) -> None:
    for start in range(0, 3_000, 500):
        commands = [["merge", [[key_of(t.pack()), 0, copy(host.now, t)]]] for t in triplets(start, 500)]
        host.entry("greylist", commands)
    host.now += 1
    writes = host.tables["greylist"].writes
    host.propose("greylist", ["forget", {"sender-domain": "example.net"}, "", "", ""])
    assert host.tables["greylist"].writes - writes < 2 * forgetting.ENTRY_ROWS
    for _ in range(3_000 // forgetting.ENTRY_ROWS):
        host.entry("greylist", [])
    assert shown(greylist) == []


def test_what_is_first_seen_while_the_walk_goes_on_stays(host: LocalHost, greylist: Greylist) -> None:
    for number in range(500):
        greylist.check(**mail(number))
    host.now += 1
    host.propose("greylist", ["forget", {"sender-domain": "example.net"}, "", "", ""])
    host.now += 1
    for number in range(1000, 1200):
        greylist.check(**mail(number))
    assert greylist.records.forget(sender_domain="nowhere.example")["forgotten"] == 0
    assert len(shown(greylist)) == 200


def test_a_walk_that_takes_too_long_goes_on_by_itself(
    host: LocalHost, greylist: Greylist, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(500):
        greylist.check(**mail(number))
    host.now += 1
    monkeypatch.setattr(forgetting, "SWEEP_ROWS", 10)
    with pytest.raises(Unavailable, match="goes on by itself"):
        greylist.records.forget(sender_domain="example.net", deadline=1e-9 + 0.0005)
    for _ in range(9):
        host.entry("greylist", [])
    assert shown(greylist) == []


@pytest.mark.parametrize(
    "packed", [b"no triplet", b"\0\1", b"\0\0" * 4, Triplet(b"\xff/x", b"", b"").pack(), b"\xff" * 40]
)
def test_what_a_strange_member_has_sent_stops_no_walk_and_no_list(
    host: LocalHost, greylist: Greylist, packed: bytes, tmp_path: Path
) -> None:
    """A check with such a triplet is a record like any other; a walk that failed at it would have stopped the clean-up, too."""
    host.propose("greylist", check_command(0, key_of(packed), node_label("n"), False, packed))
    greylist.check(**MAIL)
    host.now += 1
    assert len(shown(greylist)) == 2
    assert greylist.records.forget(client="192.0.2.7")["forgotten"] == 1
    assert greylist.records.forget(sender_domain="nobody.example")["forgotten"] == 0
    (left,) = shown(greylist)
    assert greylist.records.load(written(tmp_path, greylist, "jsonl"))["records"] == 1
    host.now += WINDOW + 2 * HOUR
    host.entry("greylist", [])
    assert left["key"] == key_of(packed).hex() and not image(host)


def test_tombstones_are_bounded_and_those_whose_time_is_over_make_room(
    host: LocalHost, greylist: Greylist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "TRIPLETS_MAX", 5)
    monkeypatch.setattr(forgetting, "OTHERS_MAX", 5)
    for number in range(5):
        greylist.records.forget(**mail(number))
        greylist.records.forget(client=f"192.0.2.{number}")
    with pytest.raises(Rejected, match="5 forgotten triplets are remembered already"):
        greylist.records.forget(**mail(6))
    with pytest.raises(Rejected, match="5 forgotten patterns"):
        greylist.records.forget(client="192.0.2.9")
    greylist.records.forget(**mail(0))
    host.now += LIFE
    greylist.records.forget(**mail(6))
    greylist.records.forget(client="192.0.2.9")
    assert len(host.tables["greylist"].rows[FORGOTTEN]) == 2


def test_under_privacy_one_triplet_can_be_forgotten_and_no_pattern(host: LocalHost, greylist: Greylist) -> None:
    greylist.configure({"privacy": True})
    greylist.check(**MAIL)
    host.now += 1
    with pytest.raises(Rejected, match="under privacy no record holds an address"):
        greylist.records.forget(sender_domain="example.net")
    assert greylist.records.forget(**MAIL)["forgotten"] == 1


# --- export, import


@pytest.fixture(params=["jsonl", "csv"])
def form(request: pytest.FixtureRequest) -> Any:
    return request.param


def filled(host: LocalHost, greylist: Greylist) -> None:
    for number in range(30):
        greylist.check(**mail(number))
    greylist.check(client="2001:db8::1", sender=b'\xff\xfe,"x"@example.net', recipient="ü;'@example.org")
    host.now += DELAY
    for number in range(0, 30, 2):
        greylist.check(**mail(number))


def written(tmp_path: Path, greylist: Greylist, form: Any) -> Path:
    path = tmp_path / f"records.{form}"
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.writelines(greylist.records.export(form))
    return path


def image(host: LocalHost) -> dict[bytes, bytes]:
    return dict(host.tables["greylist"].rows[RECORDS])


def test_what_was_exported_is_imported_elsewhere_and_again_without_a_change(
    host: LocalHost, greylist: Greylist, tmp_path: Path, form: Any
) -> None:
    filled(host, greylist)
    path = written(tmp_path, greylist, form)
    there = LocalHost([GreylistMachine(), ListsMachine()], now=host.now)
    other = Greylist(there)
    assert other.records.load(path, **WHY) == {"records": 31, "joined": 31, "expired": 0, "forgotten": 0}
    assert image(there) == image(host)
    (act,) = other.records.acts()
    assert (act.what, act.detail, act.author) == ("imported", f"31 records of {path.name}", "admin")
    other.records.load(path)
    assert image(there) == image(host)
    assert other.check(**mail(0)).reason == "known"
    there.now += LIFE + 2 * HOUR
    there.entry("greylist", [])
    assert not image(there), "they are in the index"


def test_a_file_that_is_cut_or_changed_anywhere_imports_nothing_and_its_line_is_named(
    host: LocalHost, greylist: Greylist, tmp_path: Path, form: Any
) -> None:
    filled(host, greylist)
    path = written(tmp_path, greylist, form)
    whole = path.read_bytes()
    there = LocalHost([GreylistMachine(), ListsMachine()], now=host.now)
    other, bad = Greylist(there), tmp_path / "bad"
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    cuts = [whole[:at] for at in (0, 1, *ends[:-1], *range(5, len(whole), 97), len(whole) - 1)]
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(2, len(whole), 61)]
    swapped = b"".join(
        [*whole.splitlines(True)[:5], *reversed(whole.splitlines(True)[5:7]), *whole.splitlines(True)[7:]]
    )
    for damaged in [*cuts, *changed, swapped, whole + b"x\n", whole.replace(whole.splitlines(True)[4], b"", 1)]:
        bad.write_bytes(damaged)
        with pytest.raises(Rejected, match=r"line \d+: "):
            other.records.load(bad)
    assert there.proposals == 0


def first_line(fields: dict[str, Any]) -> str:
    """A file that begins well, and whose first record has these fields instead of sound ones."""
    times = {"first_ms": 1, "last_ms": 1, "expires_ms": 1}
    sound = {"key": "00", "network": "", "sender": "", "recipient": "", **times, "passed": True, "counters": []}
    header = {"raftcluster-greylist": 1, "node": "", "time_ms": 0, "network4": 24, "network6": 64}
    return f"{json.dumps(header)}\n{json.dumps({**sound, **fields})}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: the last line is missing: the file is cut"),
        ("\0\0\n", "line 1: is not the beginning of greylist records"),
        ("[" * 100_000 + "\n", "line 1: is cut, or longer than any record"),
        ("{" + "[" * 50_000 + "\n", "line 1: is not the beginning"),
        (
            '{"raftcluster-greylist": 2, "node": "", "time_ms": 0, "network4": 24, "network6": 64}\n',
            "is of version 2",
        ),
        ('{"raftcluster-greylist": 1, "node": "", "time_ms": 0, "network4": 24, "network6": 64}\nx\n', "line 2"),
        ("raftcluster-greylist,1,c,0,24,64\nkey\n", "line 2: the columns are others"),
        (first_line({"network": 5}), "line 2: has an address or a node that is no text"),
        (first_line({"counters": [[5, 1, 1]]}), "line 2: has an address or a node that is no text"),
        (first_line({"counters": 5}), "line 2: is no record"),
    ],
)
def test_what_is_no_such_file_is_refused(greylist: Greylist, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(Rejected) as caught:
        greylist.records.load(tmp_path / "file")
    assert problem in str(caught.value)


def test_what_cannot_be_read_or_has_no_end_is_refused(greylist: Greylist, tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "absent", Path("/dev/zero")):
        with pytest.raises(Rejected) as caught:
            greylist.records.load(file)
        assert caught.value.remedy


def test_records_of_other_networks_would_match_nobody(host: LocalHost, greylist: Greylist, tmp_path: Path) -> None:
    greylist.check(**MAIL)
    path = written(tmp_path, greylist, "jsonl")
    greylist.configure({"network4": 32})
    before = image(host)
    with pytest.raises(Rejected, match="networks of /24, here they are of /32"):
        greylist.records.load(path)
    assert image(host) == before


def test_many_records_come_in_bounded_commands(
    host: LocalHost, greylist: Greylist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(700):
        greylist.check(**mail(number, recipient="x" * 400 + "@example.org"))
    monkeypatch.setattr(records, "PAGE_BYTES", 20_000)
    path = written(tmp_path, greylist, "jsonl")
    there = LocalHost([GreylistMachine(), ListsMachine()], now=host.now)
    sizes: list[int] = []
    propose = there.propose

    def counted(machine: str, command: Any, **options: Any) -> Any:
        sizes.append(sum(len(row) for _, _, row in command[1]))
        return propose(machine, command, **options)

    monkeypatch.setattr(there, "propose", counted)
    assert Greylist(there).records.load(path)["joined"] == 700
    assert len(sizes) > 3 and max(sizes) < transfer.BATCH_BYTES + 2_000
    assert image(there) == image(host)


def test_an_import_that_breaks_off_is_finished_by_the_next_one(
    host: LocalHost, greylist: Greylist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(host, greylist)
    monkeypatch.setattr(transfer, "BATCH_ROWS", 10)
    path = written(tmp_path, greylist, "jsonl")
    there = LocalHost([GreylistMachine(), ListsMachine()], now=host.now)
    other = Greylist(there)
    put, left = other.records.put, [2]

    def breaking(rows: Any, why: Any = None) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Unavailable("no quorum")
        return put(rows, why)

    monkeypatch.setattr(other.records, "put", breaking)
    with pytest.raises(Unavailable):
        other.records.load(path)
    assert len(image(there)) == 20
    left[0] = 1000
    assert other.records.load(path)["joined"] == 31
    assert image(there) == image(host)


def test_what_was_forgotten_does_not_come_back_with_a_file(host: LocalHost, greylist: Greylist, tmp_path: Path) -> None:
    filled(host, greylist)
    path = written(tmp_path, greylist, "jsonl")
    greylist.records.forget(**mail(1))
    greylist.records.forget(sender_domain="d0.example.net")
    assert greylist.records.load(path) == {"records": 31, "joined": 20, "expired": 0, "forgotten": 11}
    assert len(shown(greylist)) == 20
    host.now += WINDOW
    assert greylist.records.load(path) == {"records": 31, "joined": 10, "expired": 16, "forgotten": 5}


def test_what_was_forgotten_does_not_come_back_with_a_file_when_a_life_has_become_shorter(
    host: LocalHost, greylist: Greylist, tmp_path: Path
) -> None:
    """The tombstone is kept for one life, and that of the copy in the file was longer."""
    filled(host, greylist)
    path = written(tmp_path, greylist, "jsonl")
    greylist.configure({"life": 3 * 86_400})
    host.now += 1
    greylist.records.forget(**mail(0))
    host.now += 3 * 86_400_000
    assert greylist.records.load(path) == {"records": 31, "joined": 0, "expired": 31, "forgotten": 0}
    assert greylist.check(**mail(0)).reason == "new"
    assert greylist.check(**mail(2)).reason == "known", "what is here keeps the life that it was given"


def test_a_time_to_come_is_taken_for_now(host: LocalHost) -> None:
    (triplet,) = triplets(0, 1)
    far = host.now + 10 * LIFE
    row = Record(far, far, far + LIFE, True, ((node_label("n"), 1, 1),), triplet.pack()).pack()
    host.propose("greylist", ["import", [[key_of(triplet.pack()), 0, row]], None])
    found = read_record(host.tables["greylist"], key_of(triplet.pack()))
    assert found is not None and (found.first, found.last, found.expires) == (host.now, host.now, host.now + LIFE)


@pytest.mark.parametrize(
    "command",
    [
        ["merge", []],
        ["merge", None],
        ["merge", [[b"x" * 16, 0, b""]]],
        ["merge", [[b"x" * 16, -1, b"x" * 60]]],
        ["merge", [[b"x" * 16, True, b"x" * 60]]],
        ["merge", [[b"x" * 16, 0]]],
        ["import", [], None],
        ["import", [[b"x" * 16, 0, b"x" * 60]], None],
        ["forget", {}, "", "", ""],
        ["forget", None, "", "", ""],
        ["forget", {TRIPLET: b"short"}, "", "", ""],
        ["forget", {TRIPLET: b"x" * 16, "client": "192.0.2.7/32"}, "", "", ""],
        ["forget", {"client": "192.0.2.7"}, "", "", ""],
        ["forget", {"client-name": "example.org"}, "", "", ""],
        ["forget", {5: "example.org"}, "", "", ""],
        ["forget", {"client": "192.0.2.7/32"}, "", "", 5],
        ["forget", {"client": "192.0.2.7/32"}, "x" * 2000, "", ""],
        ["sweep", 1],
    ],
)
def test_malformed_commands_are_rejected_and_leave_no_trace(host: LocalHost, command: Any) -> None:
    host.entry("greylist", [])
    before = host.tables["greylist"].image()
    with pytest.raises(Rejected):
        host.propose("greylist", command)
    assert host.tables["greylist"].image() == before


# --- the merge


def triplets(start: int, count: int) -> list[Triplet]:
    return [
        Triplet(b"192.0.%d.0/24" % (n % 200), b"s%d@d%d.example.net" % (n, n % 3), b"r@example.org")
        for n in range(start, start + count)
    ]


def copy(first: int, triplet: Triplet, last: int = 0, passed: bool = False, *nodes: tuple[bytes, int, int]) -> bytes:
    last = max(first, last)
    expires = last + LIFE if passed else first + WINDOW
    return Record(first, last, max(last, expires), passed, nodes or ((node_label("n"), 1, 0),), triplet.pack()).pack()


def _in_order(made: Any) -> bool:
    return bool(made[2].last <= made[2].expires)


NOW = 1_750_000_000_000
COPIES: Any = st.lists(
    st.builds(
        lambda number, age, began, seen, passed, nodes, plain: (
            [
                key_of(triplets(number, 1)[0].pack()),
                NOW - began if began is not None else 0,
                Record(
                    NOW - age,
                    NOW - min(age, seen),
                    NOW - age + WINDOW if not passed else NOW - min(age, seen) + LIFE,
                    passed,
                    tuple((b"node-%d\0\0" % n, *nodes[n]) for n in sorted(nodes)),
                    triplets(number, 1)[0].pack() if plain else b"",
                ),
            ]
        ),
        st.integers(0, 4),
        st.one_of(st.integers(0, WINDOW - 1), st.integers(0, 2 * LIFE)),
        st.one_of(st.none(), st.integers(0, 2 * LIFE)),
        st.integers(0, 2 * LIFE),
        st.booleans(),
        st.dictionaries(st.integers(0, 3), st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=3),
        st.booleans(),
    ).filter(_in_order),
    min_size=1,
    max_size=8,
)
FORGETS = st.lists(
    st.tuples(
        st.one_of(
            st.integers(0, 4).map(lambda n: {TRIPLET: key_of(triplets(n, 1)[0].pack())}),
            st.integers(0, 2).map(lambda n: {"sender-domain": f"d{n}.example.net"}),
            st.integers(0, 4).map(lambda n: {"client": f"192.0.{n}.0/24"}),
        ),
        st.integers(0, 2 * LIFE),
    ),
    max_size=3,
)
CHECKED = st.lists(st.tuples(st.integers(0, 4), st.integers(0, LIFE)), max_size=6)


def world(checks: list[tuple[int, int]], forgets: list[tuple[Any, int]]) -> LocalHost:
    """A greylist at NOW with a history of checks and of what was forgotten."""
    host = LocalHost([GreylistMachine()], now=NOW - 3 * LIFE)
    steps: list[tuple[int, Any]] = [(NOW - ago, number) for number, ago in checks]
    steps += [(NOW - ago, named) for named, ago in forgets]
    for when, what in sorted(steps, key=lambda step: step[0]):
        host.now = max(host.now, when)
        if isinstance(what, int):
            triplet = triplets(what, 1)[0]
            host.propose("greylist", ["merge", [[key_of(triplet.pack()), 0, copy(host.now, triplet)]]])
        else:
            host.propose("greylist", ["forget", what, "", "", ""])
            host.propose("greylist", ["sweep"])
            host.propose("greylist", ["sweep"])
    host.now = NOW
    return host


def kept(host: LocalHost) -> dict[bytes, Record]:
    """What a check could see."""
    rows = host.tables["greylist"].rows[RECORDS]
    found = {key: Record.unpack(row) for key, row in rows.items()}
    return {key: record for key, record in found.items() if host.now < record.expires}


def merged(host: LocalHost, batches: list[list[Any]]) -> dict[bytes, Record]:
    for batch in batches:
        if batch:
            host.propose("greylist", ["merge", [[key, began, record.pack()] for key, began, record in batch]])
    index = host.tables["greylist"].rows[EXPIRY]
    keys = [row[at : at + 16] for row in index.values() for at in range(0, len(row), 16)]
    assert sorted(keys) == sorted(host.tables["greylist"].rows[RECORDS]), "every record is in the index once"
    return kept(host)


@settings(deadline=None)
@given(CHECKED, FORGETS, COPIES, st.integers(0, 8), st.integers(0, 8), st.randoms(use_true_random=False))
def test_the_merge_is_commutative_associative_and_idempotent(
    checks: list[tuple[int, int]], forgets: list[tuple[Any, int]], copies: list[Any], cut: int, again: int, random: Any
) -> None:
    """On the machine itself, with expired and forgotten records among the table's and the copies."""
    once = merged(world(checks, forgets), [copies])
    shuffled = copies[:]
    random.shuffle(shuffled)
    assert merged(world(checks, forgets), [shuffled]) == once, "commutative"
    assert merged(world(checks, forgets), [copies[:cut], copies[cut:]]) == once, "associative"
    assert merged(world(checks, forgets), [copies[cut:], copies[:cut]]) == once
    assert merged(world(checks, forgets), [copies, copies[:again], copies]) == once, "idempotent"


@settings(deadline=None)
@given(CHECKED, FORGETS, COPIES)
def test_nothing_forgotten_or_expired_comes_back_no_wait_restarts_and_no_count_is_lost(
    checks: list[tuple[int, int]], forgets: list[tuple[Any, int]], copies: list[Any]
) -> None:
    host = world(checks, forgets)
    before = kept(host)
    after = merged(host, [copies])
    last = {str(named): NOW - ago for named, ago in sorted(forgets, key=lambda each: -each[1])}
    for key, record in after.items():
        number = next(n for n in range(5) if key_of(triplets(n, 1)[0].pack()) == key)
        names: tuple[Any, ...] = (
            {TRIPLET: key},
            {"sender-domain": f"d{number % 3}.example.net"},
            {"client": f"192.0.{number}.0/24"},
        )
        forgotten = max((last.get(str(named), 0) for named in names), default=0)
        if forgotten > NOW - LIFE:
            firsts = [r.first for k, _, r in copies if k == key and r.first >= forgotten]
            assert key in before or firsts, "a forgotten record came back"
        if key in before:
            assert record.first <= before[key].first, "a wait began anew"
            counts = {node: (d, p) for node, d, p in record.counters}
            for node, deferred, passed in before[key].counters:
                assert counts[node][0] >= deferred and counts[node][1] >= passed, "a count was lost"
        assert record.expires > NOW
    assert set(before) <= set(after)


def test_forgetting_and_merging_change_places_freely(host: LocalHost) -> None:
    """A copy of before the forgetting, brought before or after it, ends the same."""
    names: list[Any] = [{TRIPLET: key_of(triplets(1, 1)[0].pack())}, {"client": "192.0.1.0/24"}]
    for named, order in itertools.product(names, ("merge first", "forget first")):
        there = LocalHost([GreylistMachine()], now=NOW)
        rows = [[key_of(t.pack()), NOW - 5, copy(NOW - 10, t)] for t in triplets(0, 3)]
        there.now += 1
        steps: list[Any] = [["merge", rows], ["forget", named, "", "", ""]]
        for step in steps if order == "merge first" else reversed(steps):
            there.propose("greylist", step)
        there.propose("greylist", ["sweep"])
        assert sorted(kept(there)) == sorted(key_of(t.pack()) for t in triplets(0, 3) if t != triplets(1, 1)[0])


def test_what_was_kept_apart_for_longer_than_a_life_is_not_believed(host: LocalHost) -> None:
    (triplet,) = triplets(0, 1)
    row = copy(host.now - 2 * LIFE, triplet, host.now, True)
    assert host.propose("greylist", ["merge", [[key_of(triplet.pack()), host.now - LIFE, row]]]) == [0, 1, 0]


@pytest.mark.parametrize("named", [{"sender": "a@*.example.org"}, {"client": "fe80::1%a/128"}])
def test_a_tombstone_in_a_form_that_only_an_earlier_version_wrote_holds(
    host: LocalHost, greylist: Greylist, named: dict[str, Any]
) -> None:
    """Whoever reads one reads all: else nothing could be forgotten or merged for a life."""
    greylist.records.forget(sender="b@example.org")
    rows = host.tables["greylist"].rows[FORGOTTEN]
    ((_, row),) = rows.items()
    key = forgetting.tombstone_key(Selection(named, kept=True))
    rows[key] = codec.pack([named, *codec.unpack(row)[1:]])
    forgetting.inspect_forgotten(key, rows[key])
    assert forgetting.Forgotten(host.tables["greylist"], host.now).covers_client(0, b"") == ("client" in named)
    with pytest.raises(Rejected):
        Selection(named)
