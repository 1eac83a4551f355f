"""The commands against a control socket: what they print, with which exit code."""

from __future__ import annotations

import errno
import getpass
import json
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from raftcluster.cli.audit import COLUMNS as AUDIT_COLUMNS
from raftcluster.cli.main import main
from raftcluster.cluster.create import init
from raftcluster.cluster.view import View
from raftcluster.codec import unpack
from raftcluster.control.server import ControlServer
from raftcluster.errors import OutcomeUnknown, StorageFull, Unavailable
from raftcluster.quarantine.envelope import Envelope, Recipient
from tests.local_node import LocalNode

Run = Callable[..., Result]


@pytest.fixture
def node() -> LocalNode:
    return LocalNode()


@pytest.fixture
def run(node: LocalNode, tmp_path: Path) -> Iterator[Run]:
    server = ControlServer(node, tmp_path / "control.sock", lambda: {"policy": {"address": "inet:127.0.0.1:1"}})
    server.start()

    def invoke(*arguments: str, given: str = "") -> Result:
        return CliRunner().invoke(main, ["-C", str(tmp_path), *arguments], input=given)

    yield invoke
    node.held.set()
    server.close()


@pytest.fixture
def founded(node: LocalNode, tmp_path: Path) -> LocalNode:
    """The node after the genesis that `init` leaves."""
    made = tmp_path / "made"
    init(made, "mx1", ("127.0.0.1", 9777), ("127.0.0.1", 9777), "raftcluster/0.1", cluster="mail")
    genesis = unpack((made / "genesis").read_bytes())
    node.host.propose("cluster", genesis)
    node.id = node.host.id = node.members.list()[0].node_id
    return node


def value(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_status_shows_facts_and_a_row_per_member(run: Run) -> None:
    shown = run("status").stdout
    assert "alarms clock" in shown and "not for real mail" in shown and "1.2 ms" in shown
    assert "inet:127.0.0.1:1" in shown
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith("mx")] == [
        ["mx1", "leader"],
        ["mx2", "voter"],
    ]
    assert value(run("status", "--json"))["id"] == "node-1"


def test_configuration_as_it_was(run: Run, node: LocalNode) -> None:
    run("config", "set", "mail/limit", "5", "--reason", "first")
    node.host.now += 3_600_000
    run("config", "set", "mail/limit", "7")
    run("config", "set", "mail/text", "x")
    then = datetime.fromtimestamp(node.host.now / 1000 - 60, UTC).isoformat()
    assert [(e["revision"], e["key"]) for e in value(run("config", "log", "--json"))] == [
        (3, "mail/text"),
        (2, "mail/limit"),
        (1, "mail/limit"),
    ]
    assert "first" in run("config", "log", "mail/limit", "--limit", "2").stdout
    for moment in ("1", then):
        assert {key: e["value"] for key, e in value(run("config", "at", moment, "--json")).items()} == {"mail/limit": 5}
    assert value(run("config", "at", "2000-01-01", "--json")) == {}
    shown = run("config", "diff", "1").stdout
    assert "mail/limit  5        7" in shown and "mail/text   (unset)" in shown
    assert run("config", "rollback", then, "--reason", "too much").stdout == "rolled back, revision 4\n"
    assert run("config", "get", "mail/limit").stdout == "5\n"
    assert "nothing has changed" in run("config", "rollback", "1").stdout
    assert run("config", "at", "yesterday").exit_code == 2


def test_configuration_of_one_node(run: Run) -> None:
    run("config", "set", "mail/limit", "5")
    run("config", "set", "mail/limit", "7", "--node", "mx2")
    assert run("config", "get", "mail/limit").stdout == "5\n"
    assert run("config", "get", "mail/limit", "--node", "mx2").stdout == "7\n"
    assert value(run("config", "get", "mail/limit", "--cluster", "--json"))["revision"] == 1
    assert run("config", "delete", "mail/limit", "--node", "mx2").exit_code == 0
    assert run("config", "get", "mail/limit", "--node", "mx2").stdout == "5\n"
    refused = run("config", "set", "local/ui/theme", "dark")
    assert refused.exit_code == 4 and "belongs to one node" in refused.stderr
    assert run("config", "set", "local/ui/theme", "dark", "--local").exit_code == 0
    assert run("config", "get", "local/ui/theme").stdout == "dark\n"
    assert run("config", "keys", "local/").stdout == "local/ui/theme\n"
    assert run("config", "delete", "local/ui/theme", "--local").exit_code == 0
    assert run("config", "get", "local/ui/theme").exit_code == 1


def test_configuration_from_setting_to_forgetting(run: Run) -> None:
    assert "revision 1" in run("config", "set", "mail/limit", "5", "--reason", "holiday wave").stdout
    assert run("config", "get", "mail/limit").stdout == "5\n"
    assert value(run("config", "set", "mail/text", "5", "--text", "--json")) == {"key": "mail/text", "revision": 2}
    assert value(run("config", "get", "mail/text", "--json"))["value"] == "5"
    assert run("config", "keys").stdout == "mail/limit\nmail/text\n"
    assert run("config", "delete", "mail/text").exit_code == 0
    history = value(run("config", "history", "mail/limit", "--json"))
    assert [(each["revision"], each["reason"]) for each in history] == [(1, "holiday wave")]
    assert history[0]["author"]
    assert "holiday wave" in run("config", "history", "mail/limit").stdout


def test_a_key_that_is_not_set_is_exit_code_1(run: Run) -> None:
    result = run("config", "get", "no/such")
    assert (result.exit_code, result.stderr) == (1, "error: no/such is not set\n")


def test_a_condition_that_does_not_hold_is_exit_code_4_and_json_says_the_code(run: Run) -> None:
    run("config", "set", "a", "1")
    result = run("config", "set", "a", "2", "--expect-revision", "0", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["code"] == "revision-mismatch"
    assert result.stderr.startswith("error: ")


def test_greylist_settings_are_shown_changed_and_checked_together(run: Run) -> None:
    assert value(run("greylist", "settings", "--json"))["delay"] == 180
    assert "240" in run("greylist", "settings", "delay=240", "text=Wait %s s", "--reason", "slow").stdout
    refused = run("greylist", "settings", "window=100")
    assert refused.exit_code == 4 and "240" in refused.stderr and "100" in refused.stderr
    assert run("greylist", "settings", "delay").exit_code == 2
    for word, shared in (("off", False), ("on", True)):
        assert value(run("greylist", "settings", f"replicate={word}", "--json"))["replicate"] is shared


def test_greylist_explains_and_counts(run: Run, node: LocalNode) -> None:
    node.greylist.check(client="192.0.2.7", sender="a@example.net", recipient="b@example.org")
    explained = value(run("greylist", "explain", "192.0.2.7", "a@example.net", "b@example.org", "--json"))
    assert explained["key"]
    assert run("greylist", "explain", "192.0.2.7", "<>", "b@example.org").exit_code == 0
    assert value(run("greylist", "stats", "--json"))["records"] == 1
    assert "records" in run("greylist", "stats").stdout


def test_greylist_records_are_listed_exported_forgotten_and_imported(run: Run, node: LocalNode, tmp_path: Path) -> None:
    for number in range(3):
        node.greylist.check(client=f"192.0.{number}.7", sender=f"s{number}x@example.net", recipient="b@example.org")
    node.host.now += 1
    rows = [json.loads(line) for line in run("greylist", "list", "--json").stdout.splitlines()]
    assert sorted(row["network"] for row in rows) == ["192.0.0.0/24", "192.0.1.0/24", "192.0.2.0/24"]
    assert "s1x@example.net" in run("greylist", "list", "--client", "192.0.1.0/24").stdout
    assert len(run("greylist", "list", "--limit", "2", "--json").stdout.splitlines()) == 2
    for form in ("jsonl", "csv"):
        assert "3 triplets were written" in run("greylist", "export", str(tmp_path / form), "--format", form).stdout
        found = value(run("greylist", "import", str(tmp_path / form), "--json"))
        assert found == {"records": 3, "joined": 3, "expired": 0, "forgotten": 0}
    forgotten = value(run("greylist", "forget", "--client", "192.0.0.0/16", "--reason", "a try", "--json"))
    assert forgotten == {"forgotten": 3, "named": "client 192.0.0.0/16"}
    assert value(run("greylist", "import", str(tmp_path / "csv"), "--json"))["forgotten"] == 3
    assert "example" not in run("greylist", "list").stdout
    cut = tmp_path / "cut"
    cut.write_text("".join((tmp_path / "csv").read_text().splitlines(keepends=True)[:-1]))
    refused = run("greylist", "import", str(cut))
    assert refused.exit_code == 4 and "line 6: the last line is missing" in refused.stderr
    assert run("greylist", "forget").exit_code == 4
    assert run("greylist", "export", str(cut)).exit_code != 0, "no file is overwritten"


def test_a_failed_export_of_the_greylist_removes_nothing_that_was_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a free descriptor the system does not even look whether there is a file."""
    mine, real = tmp_path / "mine", os.open
    mine.write_text("dear")

    def refuse(path: Any, *how: Any, **more: Any) -> int:
        if path == mine or path == str(mine):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *how, **more)

    monkeypatch.setattr(os, "open", refuse)
    refused = run("greylist", "export", str(mine))
    assert refused.exit_code == 4 and "Too many open files" in refused.stderr and mine.read_text() == "dear"
    monkeypatch.undo()
    refused = run("greylist", "export", str(tmp_path / "absent" / "file"))
    assert refused.exit_code == 4 and "No such file" in refused.stderr


def test_leases_are_listed(run: Run, node: LocalNode) -> None:
    assert value(run("lease", "list", "--json")) == []
    with node.lease("nightly-scan"):
        (row,) = value(run("lease", "list", "--json"))
        assert (row["name"], row["token"], row["released"]) == ("nightly-scan", 1, False)
        assert "nightly-scan" in run("lease", "list").stdout


def test_the_quarantine_is_listed_shown_released_and_discarded(run: Run, node: LocalNode) -> None:
    message = b"To: spoofed@example.com\r\n\r\nhello\r\n"
    delivered: list[bytes] = []

    def deliver(envelope: Envelope, to: Recipient, body: bytes, left: Callable[[], float]) -> str:
        delivered.append(to.address)
        return "250 taken"

    node.quarantine.attach(b"k" * 32, lambda _: BytesIO(message), deliver)
    envelope = Envelope("a@example.net")
    for recipient in ("box@example.test", b"latin\xe9@example.test"):
        envelope.rcpt(recipient)
    digest = sha256(message).digest()
    ident = node.quarantine.capture(envelope, digest=digest, size=len(message), reference="1", reason="virus")
    (row,) = value(run("quarantine", "list", "--json"))
    assert (row["id"], row["first"], row["recipients"]) == (ident, "box@example.test", 2)
    assert "0 of 2" in run("quarantine", "list").stdout
    shown = value(run("quarantine", "show", ident, "--json"))
    assert shown["digest"] == digest.hex() and shown["recipients"][1]["address"] == "latin\\xe9@example.test"
    assert re.search("^intact +yes$", run("quarantine", "show", ident).stdout, re.MULTILINE)
    assert run("quarantine", "release", ident, "1").stdout == "delivered to box@example.test: 250 taken\n"
    assert value(run("quarantine", "release", ident, "2", "--json"))["state"] == "delivered"
    again = run("quarantine", "release", ident, "1", "--json")
    assert again.exit_code == 4 and json.loads(again.stdout)["error"]["code"] == "quarantine-delivered"
    assert (
        json.loads(run("quarantine", "release", ident, "3", "--json").stdout)["error"]["code"] == "quarantine-recipient"
    )
    assert delivered == [b"box@example.test", b"latin\xe9@example.test"]
    assert run("quarantine", "discard", ident).stdout == "discarded\n"
    assert value(run("quarantine", "discard", ident, "--json")) == {"id": ident, "was_there": False}
    unknown = run("quarantine", "show", ident)
    assert unknown.exit_code == 4 and "it may have expired" in unknown.stderr
    assert run("quarantine", "show", "17").exit_code == 4


def test_greylist_lists_are_changed_shown_and_tested(run: Run) -> None:
    assert run("greylist", "lists", "show").stdout == "no entries\n"
    assert "revision 1" in run("greylist", "lists", "add", "allow", "client", "192.0.2.7", "--comment", "ours").stdout
    made = run("greylist", "lists", "add", "greylist", "sender-domain", "example.net", "--expires", "30d", "--json")
    assert value(made) == {"revision": 2}
    for number in range(25):
        run("greylist", "lists", "add", "allow", "recipient", f"r{number}@example.org")
    shown = value(run("greylist", "lists", "show", "--json"))
    assert len(shown) == 27 and {each["comment"] for each in shown} == {"", "ours"}
    assert "ours" in run("greylist", "lists", "show").stdout
    mail = ("192.0.2.7", "a@mail.example.net", "b@example.org")
    told = value(run("greylist", "lists", "test", *mail, "--json"))
    assert told["rule"] == "listed" and told["entries"][0]["decides"] is True and len(told["entries"]) == 27
    text = run("greylist", "lists", "test", *mail).stdout
    assert "whatever else" in text and "goes before what allows" in text and "and 5 more" in text
    assert "more that do not match" not in run("greylist", "lists", "test", *mail, "--all").stdout
    assert run("greylist", "lists", "remove", "greylist", "sender-domain", "example.net").exit_code == 0
    assert "allowed" in run("greylist", "lists", "test", *mail).stdout
    twice = run("greylist", "lists", "add", "greylist", "client", "192.0.2.7", "--json")
    assert twice.exit_code == 4 and json.loads(twice.stdout)["error"]["code"] == "entry-exists"
    wrong = run("greylist", "lists", "add", "allow", "client", "192.0.2.7/24")
    assert wrong.exit_code == 4 and "did you mean 192.0.2.0/24?" in wrong.stderr


def test_notifications_from_publishing_to_acknowledging(run: Run) -> None:
    assert (
        run("notifications", "publish", "error", "disk full", "--key", "disk", "--ttl", "1h").stdout
        == "published at 1\n"
    )
    again = run("notifications", "publish", "error", "disk full", "--key", "disk", "--payload", '{"free": 0}', "--json")
    assert value(again) == {"position": 1}
    assert "disk full" in run("notifications", "list").stdout
    assert run("notifications", "ack", "1").stdout == "1 is acknowledged\n"
    assert value(run("notifications", "ack", "1", "--json")) == {"position": 1, "first": False}
    assert value(run("notifications", "list", "--json")) == []
    assert value(run("notifications", "list", "--all", "--json"))[0]["repeats"] == 1
    assert run("notifications", "ack", "7").exit_code == 4
    assert run("notifications", "publish", "loud", "x").exit_code == 4


def test_members_are_listed_and_removed(run: Run, founded: LocalNode) -> None:
    assert "127.0.0.1:9777" in run("members").stdout
    assert value(run("members", "--json"))[0]["name"] == "mx1"
    moved = run("members", "move", "mx1", "[2001:db8::1]:9777")
    assert moved.exit_code == 0 and "[2001:db8::1]:9777" in run("members").stdout
    refused = run("members", "remove", "mx9")
    assert refused.exit_code == 4 and "mx9" in refused.stderr
    last = run("members", "remove", "mx1")
    assert last.exit_code == 4 and "is the only voter" in last.stderr
    itself = run("members", "replace", "mx1", "mx2", "--address", "192.0.2.2")
    assert itself.exit_code == 4 and "cannot replace itself" in itself.stderr


def test_an_invitation_is_a_token_alone_on_standard_output(run: Run, founded: LocalNode) -> None:
    invited = run("invite", "mx2", "--ttl", "30m")
    assert invited.exit_code == 0
    assert invited.stdout.startswith("rc1.") and invited.stdout.count("\n") == 1
    assert "raftcluster join 127.0.0.1:9777" in invited.stderr
    secret = invited.stdout.strip().split(".")
    listed = run("tokens", "--json")
    (token,) = value(listed)
    assert token["token_id"] == secret[1] and secret[2] not in listed.stdout
    assert run("tokens", "revoke", secret[1]).exit_code == 0
    assert value(run("tokens", "--json"))[0]["revoked"] is True
    assert "yes" in run("tokens").stdout


def test_the_audit_log_is_one_for_configuration_settings_and_members(run: Run, founded: LocalNode) -> None:
    assert run("audit").stdout.splitlines()[0].split() == list(AUDIT_COLUMNS)
    done = [
        run("config", "set", "a/b", "1", "--reason", "first"),
        run("greylist", "settings", "delay=240", "--reason", "second"),
        run("invite", "mx2", "--reason", "third"),
        run("config", "delete", "a/b", "--reason", "fourth"),
        run("greylist", "lists", "add", "allow", "client", "192.0.2.0/24", "--reason", "fifth"),
        run("greylist", "forget", "--client", "192.0.2.7", "--reason", "sixth"),
    ]
    assert [each.exit_code for each in done] == [0] * 6, [each.output for each in done]
    rows = value(run("audit", "--json"))
    told = {each["reason"]: (each["log"], each["action"], each["subject"].split(" ")[0]) for each in rows}
    assert told["first"] == ("config", "set", "a/b") and told["fourth"] == ("config", "delete", "a/b")
    assert told["second"] == ("greylist", "configure", "delay") and told["third"] == ("cluster", "invite", "mx2")
    assert told["fifth"] == ("lists", "added", "allow") and told["sixth"] == ("records", "forgotten", "client")
    assert {each["author"] for each in rows if each["reason"]} == {getpass.getuser()}
    assert len(value(run("audit", "--limit", "2", "--json"))) == 2
    assert run("audit", "--limit", "0").exit_code == 2
    long = run("invite", "mx3", "--reason", "x" * 1025)
    assert long.exit_code == 4 and "at most 1024 bytes" in long.stderr
    assert len(value(run("tokens", "--json"))) == 1, "nothing was half done"


def test_destroying_is_confirmed_by_the_clusters_name(run: Run, founded: LocalNode) -> None:
    wrong = run("destroy", given="other\n")
    assert wrong.exit_code == 4 and "cannot be undone" in wrong.stderr
    assert run("destroy", given="").exit_code == 1
    assert run("destroy", "--dry-run").stdout == "mx1:\n  1. record the event\n  2. stop\n"
    assert value(run("destroy", "--dry-run", "--json"))[0]["reached"] is True
    assert founded.host.query("cluster", View.read).destruction is None


def test_transfer(run: Run, founded: LocalNode) -> None:
    founded.held.set()
    assert run("transfer").stdout == "mx1 leads\n"
    refused = run("transfer", "mx9")
    assert (refused.exit_code, refused.stderr) == (4, "error: mx9 is no voter (wait until it has caught up)\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [(Unavailable("no leader"), 5), (OutcomeUnknown("lost"), 6), (StorageFull("the disk is full"), 8)],
)
def test_a_script_can_tell_the_errors_apart(run: Run, node: LocalNode, error: Exception, code: int) -> None:
    node.host.failure = error  # type: ignore[assignment]
    result = run("config", "set", "a", "1")
    assert (result.exit_code, result.stderr) == (code, f"error: {error}\n")


def test_a_bug_in_the_node_is_one_line_and_exit_code_1(run: Run, node: LocalNode) -> None:
    node.broken = True
    result = run("status")
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
