"""Whatever waits has a twin for asyncio, which takes the same and does not hold up the loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from raftcluster import Node
from raftcluster.cluster.api import Members, Tokens
from raftcluster.cluster.certs import Certs
from raftcluster.config.api import Config
from raftcluster.config.machine import ConfigMachine
from raftcluster.errors import Rejected
from raftcluster.greylist.api import Greylist
from raftcluster.greylist.lists.api import Lists
from raftcluster.greylist.records import Records
from raftcluster.lease.api import Leases
from raftcluster.lease.holding import Lease
from raftcluster.notifications.api import Notifications
from raftcluster.quarantine.api import Quarantine
from raftcluster.twins import twin
from tests.local_host import LocalHost, MemoryRows

ITERATED = "gives what waits when it is iterated over; see its own twin, or asyncio.to_thread"
SIGNALS = "does not wait"
ENDS = "ends with its node, which has a twin"
INNER = "is for other parts of the library"
KEYWORDS = {"wait": "await_"}
"""Twins that cannot be called so."""
WITHOUT: dict[type, dict[str, str]] = {
    Node: {
        "submit": SIGNALS,
        "glance": SIGNALS,
        "on_apply": SIGNALS,
        "open": "begins before there is anything: asyncio.to_thread",
        "backup": "writes a file for a while: asyncio.to_thread",
        "backup_content": ITERATED,
        "logs": ITERATED,
        "verification": ITERATED,
        "destroy": "ends the node: asyncio.to_thread",
        **dict.fromkeys(("snapshot", "join", "bury", "examine", "recall"), INNER),
    },
    Config: {"apply": SIGNALS, "close": ENDS},
    Greylist: {"submit": SIGNALS, "close": ENDS},
    Records: {"export": ITERATED},
    Lists: dict.fromkeys(("ruling", "rule", "revision", "refresh"), INNER),
    Quarantine: {"attach": SIGNALS, "close": ENDS},
    Notifications: {"close": ENDS},
    Leases: {"close": ENDS},
    Lease: {
        "check": SIGNALS,
        "wait_lost": "`on_lost` tells the loop",
        "signal": SIGNALS,
        "close": ENDS,
    },
    Members: {},
    Tokens: {},
    Certs: {},
}


def methods(api: type) -> dict[str, Any]:
    """The public ones."""
    found = inspect.getmembers(api, inspect.isroutine)
    return {name: call for name, call in found if not name.startswith("_")}


@pytest.mark.parametrize("api", WITHOUT, ids=lambda api: api.__name__)
def test_every_call_that_waits_has_a_twin_that_takes_the_same(api: type) -> None:
    found = methods(api)
    twins = {name: KEYWORDS.get(name, f"a{name}") for name in found}
    missing = {name for name, other in twins.items() if other not in found} - set(twins.values())
    assert missing == set(WITHOUT[api]), "of the others it is known why"
    for name, other in twins.items():
        if other in found:
            assert inspect.iscoroutinefunction(found[other]) or other in ("awatch", "asubscribe"), other
            one, two = inspect.signature(found[name]).parameters, inspect.signature(found[other]).parameters
            assert list(one.values()) == list(two.values()), other


class Slow(LocalHost):
    """It answers when it may."""

    def __init__(self) -> None:
        super().__init__([ConfigMachine()])
        self.may = threading.Event()

    def propose(self, *arguments: Any, **named: Any) -> Any:
        assert self.may.wait(60)
        return super().propose(*arguments, **named)


def test_the_loop_goes_on_while_the_cluster_is_waited_for() -> None:
    host = Slow()
    config = Config(host, MemoryRows())

    async def both() -> tuple[int, Any]:
        setting = asyncio.create_task(config.aset("a/b", 5, reason="so"))
        await asyncio.sleep(0)
        host.may.set()  # nobody else does
        return await asyncio.wait_for(setting, 60), await config.aget("a/b")

    assert asyncio.run(both()) == (1, 5)
    with pytest.raises(Rejected):
        asyncio.run(config.adelete("nothing"))


def test_a_twin_is_named_and_says_whose_it_is() -> None:
    class Api:
        def act(self, number: int) -> int:
            """Do it."""
            return number + 1

        aact = twin(act)

    assert asyncio.run(Api().aact(1)) == 2
    assert (Api.aact.__name__, Api.aact.__doc__) == ("aact", "`act` from asyncio.")
