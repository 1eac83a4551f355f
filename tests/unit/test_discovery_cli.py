"""`add` and `preflight` as commands: where hosts are read from, and how they end. What they find is shown end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

import raftcluster
from raftcluster.cli.main import main
from raftcluster.transport import sockets

NOWHERE = "mx9.nowhere.invalid"


def run(*words: str, given: str = "") -> Result:
    return CliRunner().invoke(main, [*words], input=given)


@pytest.mark.parametrize("verb", ["add", "preflight"])
def test_no_host_is_a_wrong_command_line(verb: str) -> None:
    said = run(verb)
    assert said.exit_code == 2 and "--autodetect" in said.stderr


@pytest.mark.parametrize("verb", ["add", "preflight"])
def test_what_is_no_host_is_refused_wherever_it_was_read(verb: str, tmp_path: Path) -> None:
    file = tmp_path / "hosts.txt"
    file.write_text("# none\n\nmx2;reboot\n")
    for words, given in ((["mx2;reboot"], ""), (["--from", str(file)], ""), (["-"], file.read_text())):
        said = run(verb, *words, "--json", given=given)
        assert (said.exit_code, json.loads(said.stdout)["error"]["code"]) == (4, "bad-host")
        assert "is no host" in said.stderr


def test_this_host_is_left_out() -> None:
    said = run("add", "127.0.0.1", "--json")
    told = json.loads(said.stdout)
    assert (said.exit_code, told["hosts"], told["error"]) == (0, [], None)
    assert list(told["left_out"].values()) == ["this host"]
    assert "left out, this host" in run("add", "127.0.0.2").stderr


def test_a_name_that_leads_nowhere_is_an_error_of_add_and_a_row_of_preflight() -> None:
    said = run("add", NOWHERE)
    assert said.exit_code == 4 and f"no address is known for {NOWHERE}" in said.stderr
    said = run("preflight", NOWHERE, "--json")
    told = json.loads(said.stdout)
    assert (said.exit_code, told["error"]["code"]) == (16, "checks-failed")
    assert [each["check"] for each in told["rows"] if each["outcome"] == "failed"] == ["name resolves"]
    said = run("preflight", NOWHERE)
    assert said.exit_code == 16 and "/etc/hosts" in said.stdout and "error: 1 of 12 checks failed" in said.stderr


def test_hosts_that_are_known_complete_what_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(
        "mx7.example.org ssh-ed25519 AAAA\n[mx8.example.org]:22 ssh-ed25519 AAAA\n"
    )
    assert {"mx7.example.org", "mx8.example.org"} <= set(raftcluster.known_hosts())
    complete = ShellComplete(main, {}, "raftcluster", "_RAFTCLUSTER_COMPLETE")
    offered = [each.value for each in complete.get_completions(["preflight"], "admin@mx7")]
    assert offered == ["admin@mx7.example.org"]


def test_addresses_of_this_host() -> None:
    assert sockets.is_local("127.0.0.1") and sockets.is_local("127.0.1.1") and sockets.is_local("::1")
    assert not sockets.is_local("192.0.2.1") and not sockets.is_local("") and not sockets.is_local("mx1")
