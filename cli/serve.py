"""`raftcluster serve`: a node with its policy server and control socket, in the foreground."""

from __future__ import annotations

import logging
import signal
import sys

import click

import raftcluster
from raftcluster.cli.context import Address, Context, Duration

LEVELS = ("debug", "info", "warning", "error")


@click.command()
@click.option(
    "--policy",
    default="inet:127.0.0.1:10023",
    show_default=True,
    help="Where Postfix asks: inet:HOST:PORT, unix:/PATH, or none.",
)
@click.option("--deadline", type=Duration(), default="2s", show_default=True, help="Within which Postfix is answered.")
@click.option("--workers", type=click.Path(), help="A socket for the product's worker processes: this path.")
@click.option("--workers-group", help="The group that may open it besides this user and root.")
@click.option("--listen", type=Address(), help="From now on: where the other nodes reach this one.")
@click.option("--advertise", type=Address(), help="From now on: the same as seen by the others. They are told.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="How much to log.")
@click.pass_obj
def serve(
    obj: Context,
    policy: str,
    deadline: float,
    workers: str | None,
    workers_group: str | None,
    listen: tuple[str, int] | None,
    advertise: tuple[str, int] | None,
    log_level: str,
) -> None:
    """Run this node until SIGTERM or SIGINT. Logs go to standard error.

    When it stops it hands leadership over first. What Postfix needs in main.cf is printed at the start.
    """
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if listen or advertise:
        raftcluster.readdress(obj.directory, listen, advertise)
    service = raftcluster.Service(
        obj.directory,
        policy=None if policy == "none" else policy,
        deadline=deadline,
        workers=workers,
        workers_group=workers_group,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    with service:
        if service.postfix_line:
            click.echo(
                f"for Postfix's smtpd_recipient_restrictions, after reject_unauth_destination:\n{service.postfix_line}"
            )
        service.wait()
