"""The cluster itself: begin it, let nodes in and out, look at it, end it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

import raftcluster
from raftcluster.cli import output
from raftcluster.cli.context import (
    Address,
    Context,
    addresses_option,
    author,
    json_option,
    reason_option,
    secret,
    ttl_option,
    until_interrupted,
)

LISTEN = ("0.0.0.0", 9777)

name_option = click.option(
    "--node", "node_name", default=platform.node, show_default="this host's name", help="This node's name."
)
listen_option = click.option(
    "--listen",
    type=Address(),
    default=LISTEN,
    show_default="0.0.0.0:9777",
    help="Where the other nodes reach this one.",
)
advertise_option = click.option(
    "--advertise", type=Address(), help="The same as seen by the others, when it differs.", show_default="by --node"
)


firewall_option = click.option(
    "--no-firewall",
    is_flag=True,
    help="Go on without closing the port to strangers (nftables); without it nft and root are needed.",
)

realm_option = click.option(
    "--realm",
    help="The trust realm, where none is to be detected.",
    show_default="where this host is enrolled, or standalone",
)


@click.command()
@click.option("--name", required=True, help="The cluster's name, for people.")
@name_option
@listen_option
@advertise_option
@click.option("--lab", is_flag=True, help="A cluster for trying out: waits below a minute are allowed.")
@realm_option
@firewall_option
@reason_option
@json_option
@click.pass_obj
def init(
    obj: Context,
    name: str,
    node_name: str,
    listen: tuple[str, int],
    advertise: tuple[str, int] | None,
    lab: bool,
    realm: str | None,
    no_firewall: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Begin a cluster of one node in the data directory. Then: `raftcluster serve`."""
    cluster_id = raftcluster.init(
        obj.directory,
        cluster=name,
        node=node_name,
        listen=listen,
        advertise=advertise,
        lab=lab,
        realm=realm,
        firewall=not no_firewall,
        reason=reason,
        author=author(),
        progress=lambda step: click.echo(step, err=True),
    )
    if as_json:
        output.as_json({"cluster": name, "cluster_id": cluster_id, "node": node_name})
    else:
        click.echo(f"cluster {name} begun at {obj.directory}; start it with: raftcluster -C {obj.directory} serve")


@click.command()
@click.argument("name")
@ttl_option
@addresses_option
@reason_option
@json_option
@click.pass_obj
def invite(obj: Context, name: str, ttl: float, addresses: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Let the host NAME join, once. Standard output is the token alone; it is a secret."""
    invited = obj.client.members.invite(name, ttl, addresses=addresses, reason=reason, author=author())
    output.invitation(invited, as_json)


@click.command()
@click.argument("address", type=Address())
@name_option
@listen_option
@advertise_option
@realm_option
@firewall_option
@reason_option
@json_option
@click.pass_obj
def join(
    obj: Context,
    address: tuple[str, int],
    node_name: str,
    listen: tuple[str, int],
    advertise: tuple[str, int] | None,
    realm: str | None,
    no_firewall: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Join the cluster of the member at ADDRESS (HOST:PORT). Then: `raftcluster serve`.

    The token is read from standard input, or asked for.
    """
    token = secret("token")
    joined = raftcluster.join(
        obj.directory,
        address=address,
        token=token,
        node=node_name,
        listen=listen,
        advertise=advertise,
        realm=realm,
        firewall=not no_firewall,
        reason=reason,
        progress=lambda step: click.echo(step, err=True),
    )
    if as_json:
        output.as_json(asdict(joined))
    else:
        click.echo(f"joined {joined.cluster}; start this node with: raftcluster -C {obj.directory} serve")


@click.command()
@click.option("--watch", is_flag=True, help="Show it again every second, until interrupted.")
@json_option
@click.pass_obj
def status(obj: Context, watch: bool, as_json: bool) -> None:
    """Show this node, who leads, and how the others are. Answers without a quorum too."""
    if watch:
        until_interrupted()
    for found in obj.client.watch_status() if watch else [obj.client.status()]:
        if as_json:
            output.as_json(found)
        else:
            if watch:
                click.clear()
            output.document(_for_people(found))


@click.command()
@click.argument("node", required=False)
@reason_option
@json_option
@click.pass_obj
def transfer(obj: Context, node: str | None, reason: str, as_json: bool) -> None:
    """Hand leadership over to NODE (name or id), or to the member that is furthest."""
    leader = obj.client.transfer(node, reason=reason, author=author())
    name = next((each["name"] for each in obj.client.members.list() if each["node_id"] == leader), leader)
    output.as_json({"leader": leader, "name": name}) if as_json else click.echo(f"{name} leads")


def _for_people(status: Mapping[str, Any]) -> dict[str, Any]:
    """The status with names instead of ids, and without what only a bug report needs."""
    names = {row["id"]: row["name"] for row in status["members"]}
    facts = {
        "node": f"{status['name']} ({status['id']})",
        "cluster": status["cluster_id"],
        "role": status["role"],
        "leader": names.get(status["leader"], status["leader"]) or "none: there is no quorum, or an election",
        "term": status["term"],
        "applied": f"{status['applied_index']} of {status['commit_index']} committed",
        "cluster_time_ms": status["cluster_time_ms"],
        "storage": status["storage"],
    }
    if status["lab"]:
        facts["lab"] = "yes: not for real mail, waits below a minute are allowed"
    if status["failure"]:
        facts["failure"] = status["failure"]
    columns = ("name", "role", "linked", "trails_by", "generation", "round_trip", "address", "product")
    rows = [{**row, "round_trip": _milliseconds(row["round_trip"])} for row in status["members"]]
    shown = {**facts, "members": [{column: row[column] for column in columns} for row in rows]}
    kept = dict(status.get("maillog", {}))
    export = kept.pop("export", None)
    blocks = {
        **{name: status.get(name) for name in ("alarms", "firewall", "policy")},
        "mail log": kept,
        "export": export,
    }
    return {**shown, **{name: block for name, block in blocks.items() if block}}


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.1f} ms"
