"""Whether the hosts reach each other at the cluster's port: each listens there for a moment, and all others connect.

A connection alone proves little -- a firewall may refuse in the host's name, an address may be another host's -- so who listens
hands out a word that was given to it, and the caller looks for that word. What runs there is Python's standard library, given as an
argument; it ends when its standard input does, also when this host is gone. Where a node or something else has the port, nobody
can listen: then a connection that is accepted has to do.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from raftcluster.errors import RaftclusterError
from raftcluster.remote.shell import Running, Shell

SECONDS: Final = 3.0
"""For one connection."""
START_SECONDS: Final = 20.0
"""For a login and an interpreter."""
WORKERS: Final = 16
LISTEN: Final = """
import socket, sys, threading
port, word = int(sys.argv[1]), sys.argv[2].encode()
try:
    if socket.has_dualstack_ipv6():
        server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    else:
        server = socket.create_server(("", port))
except OSError as error:
    print("taken", error.strerror, flush=True)
    sys.exit()
def hand_out():
    while True:
        try:
            connection, _ = server.accept()
            connection.sendall(word)
            connection.close()
        except OSError:
            pass
threading.Thread(target=hand_out, daemon=True).start()
print("listening", flush=True)
sys.stdin.read()
"""
CONNECT: Final = """
import errno, json, socket, sys, threading
seconds, found = float(sys.argv[1]), {}
def meet(key, host, port, word):
    try:
        with socket.create_connection((host, port), seconds) as connection:
            connection.settimeout(seconds)
            met = "open"
            if word:
                try:
                    heard = b""
                    while len(heard) < len(word) and (more := connection.recv(64)):
                        heard += more
                    met = "met" if heard == word.encode() else "another"
                except OSError:
                    met = "another"
    except (socket.gaierror, UnicodeError):
        met = "unresolved"
    except ConnectionError:
        met = "refused"
    except TimeoutError:
        met = "silent"
    except OSError as error:
        met = "unreachable" if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH) else "silent"
    found[key] = met
threads = [threading.Thread(target=meet, args=each) for each in json.loads(sys.argv[2])]
for each in threads: each.start()
for each in threads: each.join()
print(json.dumps(found), flush=True)
"""


class Met(StrEnum):
    """What a host met at another one's port."""

    MET = "met"
    OPEN = "open"
    """A connection to what has the port already: it may be a node."""
    ANOTHER = "another"
    """Somebody else answers at that address and port."""
    REFUSED = "refused"
    SILENT = "silent"
    UNREACHABLE = "unreachable"
    UNRESOLVED = "unresolved"
    """The caller does not know the other's name."""
    UNTRIED = "untried"


WELL: Final = (Met.MET, Met.OPEN)


@dataclass(frozen=True, slots=True)
class Party:
    """A host that takes part."""

    name: str
    shell: Shell
    python: str
    """An interpreter there."""
    port: int
    addresses: dict[str, str]
    """What each other party has to connect to, by its name."""
    closed: str = ""
    """Why others cannot meet it, when that is known beforehand; then nobody tries."""


@dataclass(frozen=True, slots=True)
class Meetings:
    """Who met whom."""

    found: dict[tuple[str, str], Met]
    """By (caller, other)."""
    troubles: dict[str, str]
    """By party: why it could not listen or call."""
    closed: dict[str, str]
    """By party: why nobody tried to meet it."""
    taken: frozenset[str] = frozenset()
    """Those at whose port something listens already."""


def meet(parties: Sequence[Party]) -> Meetings:
    """Have all parties meet all others. Nobody listens any more when it returns. Thread: any; waits some seconds."""
    words = {each.name: secrets.token_hex(16) for each in parties if not each.closed}
    troubles: dict[str, str] = {}
    taken: set[str] = set()
    open_to: list[Party] = []
    listeners: list[Running] = []
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="raftcluster-meeting") as pool:
        try:
            started = [
                (each, pool.submit(_listen, each, words[each.name], listeners)) for each in parties if not each.closed
            ]
            for party, future in started:
                said = future.result()
                if said.startswith("taken"):
                    taken.add(party.name)
                if said == "listening" or party.name in taken:
                    open_to.append(party)
                else:
                    troubles[party.name] = said
            asked = {name: "" if name in taken else word for name, word in words.items()}
            called = [(each, pool.submit(_call, each, open_to, asked)) for each in parties]
            found: dict[tuple[str, str], Met] = {}
            for party, calling in called:
                met, trouble = calling.result()
                if trouble:
                    troubles.setdefault(party.name, trouble)
                for other in parties:
                    if other is not party:
                        found[party.name, other.name] = met.get(other.name, Met.UNTRIED)
        finally:
            list(pool.map(lambda each: each.close(), listeners))
    return Meetings(found, troubles, {each.name: each.closed for each in parties if each.closed}, frozenset(taken))


def _listen(party: Party, word: str, listeners: list[Running]) -> str:
    """ "listening", "taken ..." or what went wrong."""
    try:
        running = party.shell.start([party.python, "-c", LISTEN, str(party.port), word])
        listeners.append(running)
        return running.line(START_SECONDS) or f"{party.python} ended at once"
    except RaftclusterError as error:
        return str(error)


def _call(party: Party, others: Sequence[Party], words: dict[str, str]) -> tuple[dict[str, Met], str]:
    wanted = [
        [each.name, each.addresses[party.name], each.port, words[each.name]]
        for each in others
        if each is not party and each.addresses.get(party.name)
    ]
    if not wanted:
        return {}, ""
    try:
        done = party.shell.run([party.python, "-c", CONNECT, str(SECONDS), json.dumps(wanted)], "", START_SECONDS)
        told = json.loads(done.out.splitlines()[-1]) if done.out.strip() else {}
        return {str(name): Met(met) for name, met in told.items()}, "" if told else done.said
    except (RaftclusterError, ValueError, AttributeError) as error:
        return {}, str(error)
