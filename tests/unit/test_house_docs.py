"""What the documents say is what the code does."""

from __future__ import annotations

import importlib
import inspect
import re

import click
import pytest

from raftcluster import errors
from raftcluster.errors import RaftclusterError
from raftcluster.greylist.settings import NAMES
from raftcluster.maillog.entry import Entry
from raftcluster.maillog.settings import Settings
from tests import checkout, docs_cli, docs_config, docs_logs

DOCS = sorted(path for path in checkout.files() if path.suffix == ".md")


def subclasses(error: type[RaftclusterError]) -> set[type[RaftclusterError]]:
    return {error}.union(*(subclasses(each) for each in error.__subclasses__() if each.__module__ == errors.__name__))


def test_exit_codes_are_documented_as_they_are() -> None:
    text = (checkout.ROOT / "docs" / "exit-codes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `([a-z-]+)` \| `(\w+)` \| \S", text, re.MULTILINE)
    assert sorted(rows) == sorted(
        (str(each.exit_code), each.code, each.__name__) for each in subclasses(RaftclusterError)
    )


def test_error_codes_are_unique() -> None:
    codes = [each.code for each in subclasses(RaftclusterError)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("error", [errors.Damaged, errors.OtherCluster, errors.Removed, errors.NotRunning], ids=str)
def test_exit_codes_that_a_script_acts_upon_mean_one_thing(error: type[RaftclusterError]) -> None:
    assert [each for each in subclasses(RaftclusterError) if each.exit_code == error.exit_code] == [error]


def test_the_commands_are_documented_as_they_are() -> None:
    main = importlib.import_module("raftcluster.cli.main").main
    assert docs_cli.PAGE.read_text() == docs_cli.page(main), "run: python -m tests.docs_cli --write"


def test_the_configuration_is_documented_as_it_is() -> None:
    assert docs_config.PAGE.read_text() == docs_config.page(), "run: python -m tests.docs_config --write"


def test_the_mail_log_is_documented_as_it_is() -> None:
    assert docs_logs.PAGE.read_text() == docs_logs.page(), "run: python -m tests.docs_logs --write"
    for kind in (Entry, Settings):
        meanings = docs_config.meanings(kind)
        assert list(meanings) == list(inspect.get_annotations(kind)) and all(meanings.values())


def test_every_greylist_setting_says_what_it_is() -> None:
    assert list(docs_config.meanings()) == list(NAMES)
    assert all(docs_config.meanings().values())


def test_every_command_and_option_says_what_it_is() -> None:
    main = importlib.import_module("raftcluster.cli.main").main
    silent = [path for context, path in docs_cli.commands(main, "raftcluster") if not context.command.help]
    for context, path in docs_cli.commands(main, "raftcluster"):
        options = [each for each in context.command.params if isinstance(each, click.Option)]
        silent += [f"{path} {each.opts[0]}" for each in options if not each.help]
    assert silent == []


@pytest.mark.parametrize("document", DOCS, ids=str)
def test_commands_in_documents_exist(document: str) -> None:
    main = importlib.import_module("raftcluster.cli.main").main
    known = {path for _, path in docs_cli.commands(main, "raftcluster")}
    text = (checkout.ROOT / document).read_text()
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    shown = re.findall(r"^(?:[\w.]+[$#] )?(raftcluster(?: [a-z][a-z-]*)*)", blocks, re.MULTILINE)
    shown += re.findall(r"`(raftcluster(?: [a-z][a-z-]*)+)", text)
    assert [words for words in shown if not _names_command(words, known)] == []


def test_the_page_of_a_small_tree() -> None:
    @click.group()
    def tool() -> None:
        """Does things."""

    @tool.command()
    @click.argument("host")
    @click.option("--yes", is_flag=True, help="Do not ask | wait.")
    def add(host: str, yes: bool) -> None:
        """Add HOST."""

    page = docs_cli.page(tool)
    assert "## raftcluster\n\n```\nraftcluster [OPTIONS] COMMAND [ARGS]...\n```\n\nDoes things.\n" in page
    assert "## raftcluster add\n\n```\nraftcluster add [OPTIONS] HOST\n```\n\nAdd HOST.\n" in page
    assert "| `--yes` | Do not ask \\| wait. |\n" in page


@pytest.mark.parametrize("document", DOCS, ids=str)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    here = checkout.ROOT / document
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", here.read_text())
    assert [target for target in targets if not (here.parent / target).exists()] == []


def test_every_verb_of_run_leads_somewhere() -> None:
    """`./run` names scripts and modules; none of them may be missing."""
    script = (checkout.ROOT / "run").read_text()
    modules = set(re.findall(r"in_venv -m ((?:tests|benchmarks)[\w.]*)", script))
    paths = {f"{name.replace('.', '/')}/__main__.py" for name in modules}
    paths |= set(re.findall(r"(?:in_venv|sh) ((?:examples|tests)/[\w/.]+)", script))
    assert len(paths) >= 4
    assert sorted(paths - {str(path) for path in checkout.files()}) == []


def test_every_verb_of_run_is_in_its_help() -> None:
    script = (checkout.ROOT / "run").read_text()
    verbs = re.findall(r"^    ([a-z0-9]+)\)$", script, re.MULTILINE)
    assert len(verbs) >= 10
    assert [verb for verb in verbs if f"\n./run {verb} " not in script] == []


def _names_command(words: str, known: set[str]) -> bool:
    """Whether `words` are a command of `known`, or one that has no subcommands, and its arguments."""
    parts = words.split()
    prefixes = (" ".join(parts[:length]) for length in range(len(parts), 0, -1))
    longest = next(prefix for prefix in prefixes if prefix in known)
    return longest == words or not any(other.startswith(f"{longest} ") for other in known)


def test_a_command_that_does_not_exist_is_noticed() -> None:
    known = {"raftcluster", "raftcluster members", "raftcluster members add"}
    assert all(_names_command(words, known) for words in [*known, "raftcluster members add mx"])
    assert not _names_command("raftcluster member add", known)
    assert not _names_command("raftcluster members frob", known)
