"""What a host has said of itself, read: `Facts`. Pure.

The realm that a host trusts is the Kerberos realm that it is enrolled in: what realmd says (`realm list`), else the realm of its
keytab's first entry. A host that is enrolled in none is `standalone`. A host name's suffix proves nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

STANDALONE: Final = "standalone"
UNREADABLE: Final = "unreadable"
_PYTHON: Final = re.compile(r"^(\S+) (\d{1,4})\.(\d{1,4})\.(\d{1,4})((?: no-\w+)*)\s*$")


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter."""

    path: str
    version: tuple[int, int, int]
    lacks: tuple[str, ...]
    """Of `venv` and `ensurepip`, what is not there."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Each is None or empty where the host could not tell."""

    greeting: str
    host: str
    user: str
    root: bool
    """Whether the account is root, or becomes it by sudo without a password."""
    sudo: str
    """"free", "password" (it asks for one, or refuses), or empty: there is no sudo."""
    machine: str
    boot: str
    clock_off: tuple[float, float] | None
    """Seconds by which its clock is ahead of ours, at least and at most: the answer took a while."""
    system: dict[str, str]
    """/etc/os-release."""
    systemd: bool
    commands: frozenset[str]
    pythons: tuple[Python, ...]
    """In the order in which they were looked at, up to the first that will do: 3.11 or later, and whole."""
    place: str
    """The folder there is, in which the node's directory would be made."""
    free_bytes: int | None
    filesystem: str
    read_only: bool
    node: dict[str, Any] | None
    """node.json of the node that is in the directory."""
    directory: str
    """"yes": a node's directory; "unknown": something is there that this account may not look at; empty: nothing."""
    version: str
    """Of the raftcluster that is installed."""
    realm: str | None
    """None: it could not be told, and `unread` says why."""
    unread: str
    ruleset: list[Any] | None
    """nft's listing; None: there is no nft, or this account may not ask it."""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Equal for one machine by whatever name it is called, and for no other: a clone has another boot or another name."""
        return self.machine, self.boot, self.host


def read(text: str, began: float, ended: float) -> Facts | None:
    """The facts in what the probe has printed; it was asked between these moments of this host's clock. None when it is cut short,
    or is something else."""
    values = _values(text)
    if "hello" not in values or "end" not in values:
        return None
    return Facts(
        greeting=values["hello"],
        host=values.get("host", ""),
        user=values.get("user", ""),
        root=values.get("uid") == "0" or values.get("sudo") == "free",
        sudo=values.get("sudo", ""),
        machine=values.get("machine", ""),
        boot=values.get("boot", ""),
        clock_off=_off(values.get("now", ""), began, ended),
        system=_assignments(values.get("os", "")),
        systemd=values.get("systemd") == "yes",
        commands=frozenset(values.get("commands", "").split()),
        pythons=tuple(found for line in values.get("pythons", "").splitlines() if (found := _python(line))),
        place=values.get("place", ""),
        free_bytes=_free(values.get("disk", "")),
        filesystem=values.get("filesystem", ""),
        read_only="ro" in values.get("mount", "").split(","),
        node=_object(values.get("node", "")),
        directory=values.get("directory", ""),
        version=values.get("version", ""),
        realm=_realm(values),
        unread="its keytab cannot be read without root" if values.get("keytab") == UNREADABLE else "",
        ruleset=_listing(values.get("nft", "")),
    )


def _values(text: str) -> dict[str, str]:
    """By name; what stands before the first is a login shell's greeting."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("= "):
            name = line[2:].strip()
            found[name] = []
        elif line.startswith("\t") and name:
            found[name].append(line[1:])
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def realm_of(listing: str) -> str | None:
    """The realm in `realm list`, in upper case; None when the host is enrolled in none."""
    configured, realm = False, None
    for line in listing.splitlines():
        key, _, value = line.strip().partition(": ")
        if not line.startswith((" ", "\t")):
            configured, realm = False, None
        elif key == "realm-name":
            realm = value.strip().upper()
        elif key == "configured":
            configured = value.strip() not in ("no", "")
        if configured and realm:
            return realm
    return None


def _realm(values: dict[str, str]) -> str | None:
    if (found := realm_of(values.get("realmd", ""))) is not None:
        return found
    keytab = values.get("keytab", "")
    if keytab == UNREADABLE:
        return None
    return keytab.upper() or STANDALONE


def _off(now: str, began: float, ended: float) -> tuple[float, float] | None:
    try:
        theirs = float(now.removesuffix(".%N").removesuffix(".N"))  # a date without %N
    except ValueError:
        return None
    return (theirs - ended, theirs - began) if isfinite(theirs) else None


def _python(line: str) -> Python | None:
    if (match := _PYTHON.match(line)) is None:
        return None
    lacks = tuple(each.removeprefix("no-") for each in match[5].split())
    return Python(match[1], (int(match[2]), int(match[3]), int(match[4])), lacks)


def _free(line: str) -> int | None:
    """Of `df -Pk`: file system, blocks, used, available, capacity, mounted on."""
    match = re.match(r"^.*\s(\d+)\s+(\d+)\s+(\d{1,18})\s+\d+%\s", line)
    return int(match[3]) * 1024 if match else None


def _assignments(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value.strip().strip("\"'") for name, _, value in pairs}


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _listing(text: str) -> list[Any] | None:
    found = _object(text)
    listing = found.get("nftables") if found is not None else None
    if not isinstance(listing, list):
        return None
    return [each for each in listing if isinstance(each, dict) and "metainfo" not in each]
