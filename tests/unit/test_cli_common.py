"""What all commands share: values, errors, output; without a node."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from raftcluster.cli import output
from raftcluster.cli.config import Moment
from raftcluster.cli.context import Address, Duration, json_or_text
from raftcluster.cli.main import main


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name, command in group.commands.items():
        here = (*path, name)
        found += leaves(command, here) if isinstance(command, click.Group) else [(here, command)]
        if isinstance(command, click.Group) and command.invoke_without_command:
            found.append((here, command))
    return found


LEAVES = leaves(main)
WITHOUT_A_NODE = set(
    "init,join,serve,discover,add,preflight,artefact,push,setup,logs,events,restore,recover,backup verify,certs verify,certs request,certs export,certs import,version,completion".split(
        ","
    )
)


ONE_OF: dict[tuple[str, ...], list[str]] = {("config", "set"): ["1"]}
"""What else must be given to commands that take one of several things."""


def arguments_of(words: tuple[str, ...], command: click.Command) -> list[str]:
    """Something for each argument that is required."""
    return [_something(each.type) for each in command.params if each.required] + ONE_OF.get(words, [])


def _something(kind: click.ParamType[object]) -> str:
    if isinstance(kind, click.Choice):
        return str(kind.choices[0])
    if isinstance(kind, Address):
        return "127.0.0.1:1"
    if isinstance(kind, click.Path) and kind.exists:
        return __file__
    return "1" if isinstance(kind, (Moment, click.types.IntParamType)) else "a"


@pytest.mark.parametrize(
    "path", [each for each in LEAVES if " ".join(each[0]) not in WITHOUT_A_NODE], ids=lambda each: str(each)
)
def test_without_a_node_every_command_says_so(
    path: tuple[tuple[str, ...], click.Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, command = path
    given = ["-C", str(tmp_path), *words, *arguments_of(words, command)]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, given, input="name\n")
    assert result.exit_code == 7, result.output
    assert str(tmp_path) in result.stderr and "raftcluster serve" in result.stderr
    assert result.stderr.count("error: ") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", [each for each in LEAVES if each[0][0] not in ("serve", "completion")], ids=lambda each: str(each)
)
def test_every_command_can_answer_in_json(path: tuple[tuple[str, ...], click.Command]) -> None:
    assert "--json" in [name for each in path[1].params for name in each.opts]


def test_the_real_command_exits_7_without_a_node(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "raftcluster.cli", "-C", str(tmp_path), "status", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert json.loads(done.stdout)["error"]["code"] == "not-running"
    assert done.stderr.startswith("error: no node answers at ") and done.stderr.count("\n") == 1


def test_a_secret_is_never_an_option_or_an_argument() -> None:
    names = [name for _, command in LEAVES for each in command.params for name in (*each.opts, each.name or "")]
    assert [name for name in names if "secret" in name or name.strip("-") == "token" or "password" in name] == []


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("30m", 1800), ("2h", 7200), ("1d", 86400)])
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1", "1w", "1 h", "١"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_addresses() -> None:
    assert Address().convert("mx1.example.org:9777", None, None) == ("mx1.example.org", 9777)
    assert Address().convert("[::1]:9777", None, None) == ("::1", 9777)


@pytest.mark.parametrize("text", ["", "mx1", ":9777", "mx1:", "mx1:x", "mx1:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Address().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("true", True), ('"5"', "5"), ("[1]", [1]), ("text", "text"), ("", "")]
)
def test_values_are_json_or_text(text: str, value: object) -> None:
    assert json_or_text(text) == value


def test_cells() -> None:
    cells = [None, True, 1.50, 3, b"\x01\xff", {"a": 1}, [], [1, "b"], "a\x1b[2Jé"]
    assert [output.text(cell) for cell in cells] == ["-", "yes", "1.5", "3", "01ff", "a 1", "-", "1, b", "a\\x1b[2Jé"]


@pytest.mark.parametrize("rich", [True, False])
def test_tables_without_a_terminal_are_never_folded(
    rich: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    output.table(["name", "n"], [["x" * 300, 1], ["[bold]y[/bold]", 22]])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["name", "n"], ["x" * 300, "1"], ["[bold]y[/bold]", "22"]]


def test_a_command_of_a_running_node_imports_nothing_of_what_makes_one() -> None:
    """Nor what draws tables, before there is one: a command would take three times as long."""
    dear = ["cryptography", "lmdb", "pysyncobj", "rich"]
    code = f"import sys, raftcluster.cli.main; print([each for each in {dear} if each in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_bytes_are_hexadecimal_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.as_json({"pins": [b"\x01\x02"], "text": "\ud800é"})
    assert json.loads(capsys.readouterr().out) == {"pins": ["0102"], "text": "\ud800é"}


def test_version_and_completion() -> None:
    assert "pysyncobj" in CliRunner().invoke(main, ["version"]).stdout
    for shell in ("bash", "zsh", "fish"):
        assert "_RAFTCLUSTER_COMPLETE" in CliRunner().invoke(main, ["completion", shell]).stdout
