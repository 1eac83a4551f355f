"""What every command has in common: the data directory, the way to the node, errors, options, values."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from raftcluster.cli import output
from raftcluster.control.client import Client
from raftcluster.errors import RaftclusterError

DIRECTORY = "/var/lib/raftcluster"
F = TypeVar("F", bound=Callable[..., Any])
_JSON = "raftcluster.json"  # in click's `meta`: whether the command was asked for JSON
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Context:
    """What a command is told about where it is."""

    directory: Path

    @property
    def client(self) -> Client:
        """The node that runs in this directory. Nothing is connected before the first call."""
        return Client(self.directory / "control.sock")


class Commands(click.Group):
    """A group whose commands fail in one clear line, never with a traceback, when the library refuses."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of the library becomes one line on standard error and its exit code."""
        try:
            return super().invoke(ctx)
        except RaftclusterError as error:
            if ctx.meta.get(_JSON):
                told = {"code": error.code, "message": error.message, "subject": error.subject, "remedy": error.remedy}
                output.as_json({"error": told})
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            ctx.exit(error.exit_code)


class Duration(click.ParamType[float]):
    """Seconds, or a number with s, m, h or d behind it."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds that `value` spells."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no duration; examples: 90, 30m, 1h, 2d", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


class Address(click.ParamType[tuple[str, int]]):
    """HOST:PORT, an IPv6 address in brackets."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """(host, port) of `value`."""
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).strip().rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
            self.fail(f"{value!r} is not HOST:PORT", param, ctx)
        return host.removeprefix("[").removesuffix("]"), int(port)


def json_option(command: F) -> F:
    """`--json`: the result, or the error, as JSON on standard output."""

    def note(ctx: click.Context, _: click.Parameter, wanted: bool) -> bool:
        ctx.meta[_JSON] = wanted
        return wanted

    return click.option("--json", "as_json", is_flag=True, callback=note, help="Print the result as JSON.")(command)


def ttl_option(command: F) -> F:
    """`--ttl`: of an invitation."""
    option = click.option(
        "--ttl", type=Duration(), default="1h", show_default=True, help="How long the token may be used."
    )
    return option(command)


def addresses_option(command: F) -> F:
    """`--address`: where an invited host comes from."""
    option = click.option(
        "--address",
        "addresses",
        multiple=True,
        help="From where it will come, for the members' firewalls; may be repeated.",
        show_default="where the name leads",
    )
    return option(command)


def reason_option(command: F) -> F:
    """`--reason`: kept with the change."""
    return click.option("--reason", default="", help="Why; kept with the change, for `audit`.")(command)


def until_interrupted() -> None:
    """From now on Ctrl-C is how this command ends, at once and with success: it only reads and has nothing to tidy up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))


def author() -> str:
    """Who changes something, for the history: the user that called."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return ""


def json_or_text(value: str) -> Any:
    """`5`, `true`, `"5"`, `[1, 2]` are JSON; what is none is text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def secret(what: str) -> str:
    """A secret from standard input, or from a prompt that does not echo. Never from the command line."""
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=True, err=True))
    return sys.stdin.readline().strip()
