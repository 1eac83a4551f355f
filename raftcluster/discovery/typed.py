"""Hosts that a person has named: on the command line, in a file, on standard input. Pure.

`HOST`, `HOST:PORT` or `USER@HOST:PORT`: a name or an address (IPv6 with a port in brackets), the cluster's port where it is another
one, and the account for SSH where it is another one. In a file one or more a line; `#` begins a comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from raftcluster.discovery.candidate import Sighting
from raftcluster.discovery.merging import is_address, is_host
from raftcluster.errors import Refusal

NAME: Final = "typed"
HOSTS: Final = 64
"""At once; a cluster has up to 9 voters."""
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+\\-]*\$?")


class BadHost(Refusal):
    """What was typed is no host, or its name leads nowhere."""

    code = "bad-host"


def host(text: str, origin: str = "command line") -> Sighting:
    """The host that `text` spells. Raises `BadHost`, saying what is wrong with it."""
    user, at, rest = text.strip().rpartition("@")
    if at and not _USER.fullmatch(user):
        raise _bad(text, f"{user[:40]!r} is no account")
    name, port = _split(text, rest)
    if is_address(name):
        return Sighting(NAME, origin, addresses=(name,), port=port, user=user)
    plain = name.lower().removesuffix(".")
    if not is_host(plain):
        raise _bad(text, "it is neither a host name nor an address")
    if plain.replace(".", "").isdigit():
        raise _bad(text, "it is no address")
    return Sighting(NAME, origin, plain, port=port, user=user)


def hosts(words: Iterable[str]) -> list[Sighting]:
    """Those on a command line, in their order. Raises `BadHost`."""
    return _bounded([host(each) for each in words])


def listed(text: str, origin: str) -> list[Sighting]:
    """Those in a file. Raises `BadHost`, naming the line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        found += [host(each, f"{origin}, line {number}") for each in line.partition("#")[0].split()]
    return _bounded(found)


def _bounded(found: list[Sighting]) -> list[Sighting]:
    if len(found) > HOSTS:
        raise BadHost(f"{len(found)} hosts at once", subject="hosts", remedy=f"name at most {HOSTS}")
    return found


def _split(text: str, rest: str) -> tuple[str, int | None]:
    if is_address(rest):
        return rest, None
    bracketed = re.fullmatch(r"\[([^]]*)\](?::(.*))?", rest)
    if bracketed is not None:
        if not is_address(bracketed[1]):
            raise _bad(text, f"{bracketed[1][:40]!r} is no address")
        name, port = bracketed[1], bracketed[2]
    else:
        name, colon, after = rest.partition(":")
        port = after if colon else None
    if port is None:
        return name, None
    if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65_535):
        raise _bad(text, f"{port[:40]!r} is no port")
    return name, int(port)


def _bad(text: str, why: str) -> BadHost:
    return BadHost(f"{text[:80]!r} is no host: {why}", subject=text[:80], remedy="HOST, HOST:PORT or USER@HOST:PORT")
