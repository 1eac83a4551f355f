"""Host keys: what a host shows, what of it is known, and how a key that a person has compared gets pinned.

`ssh-keyscan` asks the host, which proves nothing: whoever sits in the middle answers too. So a key from here is shown with its
fingerprint and is pinned only by who was told to accept just that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftcluster.errors import Refusal, Unavailable
from raftcluster.remote.shell import ended
from raftcluster.remote.ssh import PORT

SCAN_SECONDS: Final = 5
KINDS: Final = "ed25519,ecdsa,rsa"


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public key that a host shows."""

    kind: str
    """Such as ssh-ed25519."""
    key: str
    """In base64, as in known_hosts."""

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l has it: SHA256:..."""
        digest = hashlib.sha256(base64.b64decode(self.key)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def line(self, host: str, port: int = PORT) -> str:
        """Of a known_hosts file."""
        return f"{where(host, port)} {self.kind} {self.key}"


def where(host: str, port: int = PORT) -> str:
    """How known_hosts calls a server."""
    return host if port == PORT else f"[{host}]:{port}"


def scan(host: str, port: int = PORT) -> list[HostKey]:
    """The keys that whoever answers at `host` shows; none when nobody does. Raises `Refusal` without ssh-keyscan."""
    words = ["ssh-keyscan", "-T", str(SCAN_SECONDS), "-p", str(port), "-t", KINDS, "--", host]
    try:
        done = ended(words, "", SCAN_SECONDS * 3.0)
    except Unavailable:
        return []
    return keys(done.out)


def keys(text: str) -> list[HostKey]:
    """Those of known_hosts lines; comments and what is no key are left out."""
    found = []
    for line in text.splitlines():
        parts = line.split()
        if line.startswith("#") or len(parts) < 3:
            continue
        try:
            base64.b64decode(parts[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        found.append(HostKey(parts[1], parts[2]))
    return sorted(set(found), key=lambda each: KINDS.find(each.kind.removeprefix("ssh-").split("-")[0]))


def pin(file: Path, host: str, accepted: Iterable[HostKey], port: int = PORT) -> None:
    """Add keys that somebody has accepted to a known_hosts file, durably; it is made when it is not there. Raises `Refusal`."""
    lines = "".join(f"{each.line(host, port)}\n" for each in accepted)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "a") as opened:
            opened.write(lines)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise Refusal(f"{file} cannot be written: {error.strerror}", subject=str(file)) from error


def named(files: Iterable[Path]) -> list[str]:
    """The host names in known_hosts files and /etc/hosts, sorted; hashed ones are nobody's to read. For completion."""
    found: set[str] = set()
    for file in files:
        try:
            text = file.read_text(errors="replace")
        except OSError:  # not there, or not ours to read
            continue
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            if not words or words[0].startswith(("|", "@")):
                continue
            ours = words[1:] if file.name == "hosts" else words[0].split(",")
            found.update(each.removeprefix("[").partition("]")[0] for each in ours)
    return sorted(each for each in found if each and each[0].isalnum() and "*" not in each)
