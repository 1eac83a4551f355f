"""docs/cli.md, written from the commands themselves: `python -m tests.docs_cli --write` after a change to cli/."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from tests.checkout import ROOT

PAGE = ROOT / "docs" / "cli.md"
WIDTH = 100
HEADER = """# Commands

Written from the commands' own help by `python -m tests.docs_cli --write`; a test compares the two. What a command's
exit code means: [exit-codes.md](exit-codes.md).
"""


def commands(
    command: click.Command, path: str, parent: click.Context | None = None
) -> Iterator[tuple[click.Context, str]]:
    """Every command below `command` and itself, each with its full name, in the order of the help."""
    context = click.Context(command, parent=parent, info_name=path.rpartition(" ")[2], terminal_width=WIDTH)
    yield context, path
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, f"{path} lists {name} and has no such command"
            yield from commands(child, f"{path} {name}", context)


def page(main: click.Command) -> str:
    """The text of docs/cli.md."""
    parts = [HEADER]
    for context, path in commands(main, "raftcluster"):
        usage = context.command.get_usage(context).removeprefix("Usage: ")
        parts.append(f"## {path}\n\n```\n{' '.join(usage.split())}\n```\n")
        parts.append(_prose(context.command.help or "") + "\n")
        options = [each for each in context.command.get_params(context) if isinstance(each, click.Option)]
        records = [record for each in options if (record := each.get_help_record(context))]
        if records:
            rows = [f"| `{_cell(names)}` | {_cell(' '.join(text.split()))} |" for names, text in records]
            parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _prose(text: str) -> str:
    """A docstring as paragraphs, without click's marks for those that are not to be wrapped."""
    return inspect.cleandoc(text).replace("\b\n", "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    from raftcluster.cli.main import main

    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(main))
    else:
        sys.exit("usage: python -m tests.docs_cli --write")
