"""Hosts that could become nodes: looked for, named, looked at."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import Context, json_option

_COLUMNS = ("name", "addresses", "port", "state", "ssh", "cluster port", "found by")
_ROWS = ("host", "check", "outcome", "found")
_CHECKED = ("name", "addresses", "port", "realm", "clock off (s)", "problems")
F = TypeVar("F", bound=Callable[..., Any])


def sources(command: F) -> F:
    """Options of commands that look for hosts."""
    for option in (
        click.option(
            "--nameserver",
            "nameservers",
            multiple=True,
            help="ADDRESS or ADDRESS:PORT to ask; may be repeated.",
            show_default="the system's",
        ),
        click.option(
            "--domain",
            "domains",
            multiple=True,
            help="Whose MX and SRV records to read; may be repeated.",
            show_default="this host's",
        ),
        click.option(
            "--provider",
            "providers",
            multiple=True,
            help="Ask only this one (pacemaker, keepalived, mx, srv, or of another package); may be repeated.",
            show_default="all that are installed",
        ),
    ):
        command = option(command)
    return command


def _completed(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    user, at, host = begun.rpartition("@")
    return [CompletionItem(f"{user}{at}{each}") for each in raftcluster.known_hosts() if each.startswith(host)]


def selecting(command: F, ask: Callable[[], Sequence[str]] | None = None) -> F:
    """Options of commands that take hosts and log in to them. The command gets `wanted`, and `how`: the other arguments of
    `browse` and `examine`. `ask` asks for hosts where none are given; when it has none, they are looked for."""

    @wraps(command)
    def selected(
        *args: Any,
        hosts: tuple[str, ...],
        files: tuple[Any, ...],
        autodetect: bool,
        yes: bool,
        providers: tuple[str, ...],
        domains: tuple[str, ...],
        nameservers: tuple[str, ...],
        user: str,
        ssh_port: int | None,
        identity: Path | None,
        known_hosts: Path | None,
        realm: str | None,
        **rest: Any,
    ) -> Any:
        if not (hosts or files or autodetect) and ask is not None and sys.stdin.isatty():
            hosts = tuple(ask())
            autodetect = not hosts
        if not (hosts or files or autodetect):
            raise click.UsageError("name a HOST, or give --from or --autodetect")
        wanted = raftcluster.Wanted(
            [each for each in hosts if each != "-"],
            [(file.read(), file.name) for file in (*files, *([sys.stdin] if "-" in hosts else []))],
            autodetect,
            lambda found: yes or not autodetect or _agreed(found, bool(rest.get("as_json"))),
            providers,
            domains,
            nameservers,
        )
        obj: Context = click.get_current_context().obj
        how = {
            "login": raftcluster.Login(user, ssh_port, identity, known_hosts),
            "realm": realm,
            "directory": obj.directory,
        }
        return command(*args, wanted=wanted, how=how, **rest)

    for option in (
        click.option("--realm", help="The trust realm of hosts that are enrolled in none.", show_default="standalone"),
        click.option(
            "--known-hosts",
            type=click.Path(path_type=Path),
            help="The only file of host keys that counts.",
            show_default="the user's and the system's",
        ),
        click.option(
            "--identity",
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help="The private key's file to log in with.",
            show_default="the agent's, and ssh's own",
        ),
        click.option(
            "--ssh-port", type=click.IntRange(1, 65_535), help="Of all hosts' SSH servers.", show_default="ssh's"
        ),
        click.option(
            "--user", default="", help="The account to log in to, the same on all hosts.", show_default="ssh's"
        ),
        sources,
        click.option("--yes", is_flag=True, help="Take those that are found without asking."),
        click.option("--autodetect", is_flag=True, help="Also the hosts that `discover` finds; they are shown first."),
        click.option(
            "--from",
            "files",
            type=click.File(),
            multiple=True,
            help="Hosts from a file, one or more a line; - is standard input.",
        ),
        click.argument("hosts", nargs=-1, shell_complete=_completed),
    ):
        selected = option(selected)
    return selected  # type: ignore[return-value]


@click.command()
@sources
@click.option("--no-reach", is_flag=True, help="Do not try whether the hosts can be connected to.")
@json_option
def discover(
    providers: tuple[str, ...], domains: tuple[str, ...], nameservers: tuple[str, ...], no_reach: bool, as_json: bool
) -> None:
    """List the hosts that could become nodes: members of a failover cluster, VRRP peers, what MX and SRV records name.

    Nothing is changed or added. Past members are listed as such.
    """
    found = raftcluster.discover(providers=providers, domains=domains, nameservers=nameservers, tried=not no_reach)
    output.as_json(found.as_dict()) if as_json else candidates(found)


@click.command()
@selecting
@json_option
@click.pass_context
def add(ctx: click.Context, wanted: raftcluster.Wanted, how: dict[str, Any], as_json: bool) -> None:
    """Look at HOSTs, as HOST, HOST:PORT or USER@HOST:PORT; - reads them from standard input.

    Each host is listed once, with what keeps it from becoming a node; then the exit code is 16. Nothing is changed there.
    """
    _end(ctx, raftcluster.browse(wanted, **how), _checked, as_json)


@click.command()
@selecting
@json_option
@click.pass_context
def preflight(ctx: click.Context, wanted: raftcluster.Wanted, how: dict[str, Any], as_json: bool) -> None:
    """Check what would keep HOSTs from becoming nodes: a row a check and host, with the command that mends what failed.

    Names and SSH, account and privilege, Python, disk, clock, firewall, and the cluster's port between all of them in both directions:
    for that each host listens at it for a moment. Nothing is changed. The exit code is 0 when no check failed, else 16.
    """
    _end(ctx, raftcluster.examine(wanted, **how), _rows, as_json)


def _end(ctx: click.Context, found: Any, show: Callable[[Any], None], as_json: bool) -> None:
    """Print it, and end with the exit code of what it has found."""
    output.as_json(found.as_dict()) if as_json else show(found)
    if found.error is not None:
        click.echo(f"error: {found.error}", err=True)
        ctx.exit(found.error.exit_code)


def _rows(report: raftcluster.Report) -> None:
    output.table(_ROWS, [[each.host, each.check, each.outcome, each.said] for each in report.rows])
    for each in report.failed:
        click.echo(f"\n{each.host}: {each.check}: {output.text(each.said)}\n    {output.text(each.remedy)}")


def candidates(found: raftcluster.Survey) -> None:
    """A table for people; what sources disagree about, and their remarks, on standard error."""
    rows = [
        [
            each.name,
            each.addresses,
            each.port,
            "this host" if each.here else each.state,
            each.ssh,
            each.cluster,
            each.provenance,
        ]
        for each in found.candidates
    ]
    output.table(_COLUMNS, rows)
    _said(found.remarks)
    for each in found.candidates:
        for conflict in each.conflicts:
            click.echo(f"{each.name}: {output.text(conflict)}", err=True)


def _agreed(found: raftcluster.Survey, as_json: bool) -> bool:
    """Whether the person at the terminal wants all of these; without one nothing is taken unasked."""
    if not as_json:
        candidates(found)
    if not found.wanted:
        return True
    names = ", ".join(each.name for each in found.wanted)
    if not sys.stdin.isatty():
        click.echo(f"nothing was taken; to take {names}, say --yes", err=True)
        return False
    return click.confirm(f"Take {names}?", err=True)


def _checked(checked: raftcluster.Checked) -> None:
    rows = []
    for each in checked.hosts:
        one = each.candidate
        rows.append([one.name, one.addresses, one.port, each.realm, each.clock_off, each.problems or "none"])
    output.table(_CHECKED, rows)
    _said(checked.remarks)
    for name, why in checked.left_out:
        click.echo(f"{name}: left out, {why}", err=True)
    for each in checked.hosts:
        for conflict in each.candidate.conflicts:
            click.echo(f"{each.name}: {output.text(conflict)}", err=True)


def _said(remarks: Any) -> None:
    for name, said in remarks.items():
        for each in said:
            click.echo(f"{name}: {output.text(each)}", err=True)
