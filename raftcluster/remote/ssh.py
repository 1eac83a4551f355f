"""Another host, through the system's `ssh`: its agent, keys, Kerberos tickets and configuration are the user's own.

Nothing is asked on the way (`BatchMode`), and a host whose key is not known is not spoken to (`StrictHostKeyChecking`): see
`hostkeys` for how a key gets known. What is run is in the argument list of both sides' processes; secrets are not: they go
through standard input.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from raftcluster.errors import Unavailable
from raftcluster.remote.shell import SECONDS, Done, Running, ended

PORT: Final = 22
CONNECT_SECONDS: Final = 10
"""For the TCP connection and the first words of the server."""
_OWN_FAILURE: Final = 255
"""ssh's exit status for failures of its own; a remote command may have it too."""
_KEPT: Final = ("HOME", "USER", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "KRB5CCNAME", "KRB5_CONFIG", "XDG_RUNTIME_DIR")
"""Of this process's environment: what ssh, its agent and Kerberos need."""


class Failure(StrEnum):
    """Why there is no way to a host."""

    UNRESOLVED = "unresolved"
    UNREACHABLE = "unreachable"
    KEY_UNKNOWN = "host-key-unknown"
    KEY_CHANGED = "host-key-changed"
    ACCOUNT = "account"
    """The server is there and does not let this account in."""
    OTHER = "other"


_WORDS: Final = (
    (re.compile(r"Could not resolve hostname"), Failure.UNRESOLVED),
    (re.compile(r"IDENTIFICATION HAS CHANGED"), Failure.KEY_CHANGED),
    (re.compile(r"host key is known|Host key verification failed"), Failure.KEY_UNKNOWN),
    (re.compile(r"Permission denied|Too many authentication failures|No supported authentication"), Failure.ACCOUNT),
    (
        re.compile(r"Connection (refused|timed out|closed|reset)|No route to host|unreachable|banner"),
        Failure.UNREACHABLE,
    ),
)


class SshFailed(Unavailable):
    """ssh did not get to run the command; `failure` says why. Nothing was run."""

    code = "ssh"

    def __init__(self, message: str, failure: Failure, *, subject: str, remedy: str) -> None:
        super().__init__(message, subject=subject, remedy=remedy)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Login:
    """How to log in; the same for all hosts but for what a host says itself."""

    user: str = ""
    """Empty: what ssh takes, by its configuration or this user's name."""
    port: int | None = None
    """None: what ssh takes, 22 without configuration."""
    identity: Path | None = None
    """A private key's file, used alone; None: the agent's and ssh's own."""
    known_hosts: Path | None = None
    """The only file of host keys that counts; None: the user's and the system's."""
    askpass: Path | None = None
    """Who answers when ssh asks for the account's password: an `Askpass`; None: nobody, and nothing is asked."""


@dataclass(frozen=True, slots=True)
class Ssh:
    """A host, by name or address. Each command is a connection of its own."""

    host: str
    login: Login = Login()

    def words(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` there."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ServerAliveInterval": "5",
            "ServerAliveCountMax": "3",
            "ClearAllForwardings": "yes",
            "ForwardAgent": "no",
            "PermitLocalCommand": "no",
            "LogLevel": "ERROR",
        }
        login = self.login
        if login.askpass is not None:
            options |= {"BatchMode": "no", "NumberOfPasswordPrompts": "1"}
        if login.known_hosts is not None:
            options |= {"UserKnownHostsFile": _quoted(login.known_hosts), "GlobalKnownHostsFile": "/dev/null"}
        if login.identity is not None:
            options |= {"IdentityFile": _quoted(login.identity), "IdentitiesOnly": "yes"}
        words = ["ssh", "-T"]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        words += ["-l", login.user] if login.user else []
        words += ["-p", str(login.port)] if login.port is not None else []
        return [*words, "--", self.host, shlex.join(command)]

    def run(self, words: Sequence[str], given: str = "", seconds: float = SECONDS) -> Done:
        """As `Shell.run`. Raises `SshFailed` when there is no way to the host, `Unavailable` when it does not end in time."""
        done = ended(self.words(words), given, seconds, _environment(self.login))
        if done.status == _OWN_FAILURE and (failure := failure_of(done.err)) is not None:
            raise SshFailed(
                f"ssh to {self.host}: {_last(done.err)}",
                failure,
                subject=self.host,
                remedy=remedy(failure, self.host, self.login),
            )
        return done

    def start(self, words: Sequence[str]) -> Running:
        """As `Shell.start`."""
        return Running(self.words(words), _environment(self.login))


def failure_of(said: str) -> Failure | None:
    """What ssh complains of, by its words; None when it is not ssh that complains."""
    for pattern, failure in _WORDS:
        if pattern.search(said):
            return failure
    return Failure.OTHER if re.search(r"^(ssh|kex_exchange|Bad |Load key|command-line)", said, re.MULTILINE) else None


def remedy(failure: Failure, host: str, login: Login) -> str:
    """The command that mends it, or shows more."""
    port = login.port or PORT
    where = host if port == PORT else f"[{host}]:{port}"
    file = login.known_hosts or Path("~/.ssh/known_hosts")
    user = f"{login.user}@" if login.user else ""
    options = f" -p {port}" if port != PORT else ""
    match failure:
        case Failure.UNRESOLVED:
            return f"getent hosts {host}; give its address instead, or enter it in DNS or /etc/hosts"
        case Failure.KEY_UNKNOWN:
            return f"ssh-keyscan{options} -t ed25519 {host} >> {file}, once its fingerprint is the host's"
        case Failure.KEY_CHANGED:
            return f"ssh-keygen -f {file} -R {where}, once it is clear why its key has changed"
        case Failure.ACCOUNT:
            key = f" -i {login.identity}.pub" if login.identity is not None else ""
            return f"ssh-copy-id{key}{options} {user}{host}"
        case Failure.UNREACHABLE:
            return f"on {host}: systemctl enable --now ssh; let TCP port {port} through its firewall"
        case Failure.OTHER:
            return f"ssh -v{options} {user}{host} true"


def _environment(login: Login) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C"}
    if login.askpass is not None:
        kept |= {"SSH_ASKPASS": str(login.askpass), "SSH_ASKPASS_REQUIRE": "force"}
    return kept


def _last(said: str) -> str:
    """ssh's last line says why; those before may be a banner."""
    lines = [line for line in said.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:300] if lines else "no word"


def _quoted(path: Path) -> str:
    """For an option of ssh: blanks in a path are kept."""
    return f'"{path}"' if " " in str(path) else str(path)
