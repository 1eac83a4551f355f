"""One host to which the program is pushed: `Target`, what can be done there, each a command as root."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from raftcluster.errors import MissingPrivilege, PushFailed, Refusal
from raftcluster.push import script
from raftcluster.push.artefact import SUMS, WHEELS, Artefact
from raftcluster.push.place import Place
from raftcluster.push.plan import Found
from raftcluster.remote.facts import Facts
from raftcluster.remote.shell import Shell

STEP_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 30.0
COMMAND_SECONDS: Final = 60.0
ENTER_SECONDS: Final = 180.0
LOOKS: Final = 60
"""At a node's status, with its own time and a pause."""
PYTHON: Final = (3, 11)
RUN: Final = 'program=$1; shift; [ -x "$program" ] || program=raftcluster; exec "$program" "$@"'
"""The node's program, also of a host that got it in another way."""


@dataclass(frozen=True, slots=True)
class Target:
    """A host that has said what it is. Thread: any, one at a time."""

    name: str
    shell: Shell
    facts: Facts
    place: Place

    def check(self, artefact: Artefact) -> str:
        """The interpreter that is used there. Raises `Refusal` or `MissingPrivilege` when it cannot be installed there."""
        if not self.facts.root:
            raise MissingPrivilege(
                f"{self.facts.user} is not root on {self.name}, and sudo asks for a password",
                subject=self.name,
                remedy="give --ask-pass, or an account that is root or becomes it by sudo",
            )
        pythons = [each for each in self.facts.pythons if each.version[:2] >= PYTHON and not each.lacks]
        if not pythons:
            raise Refusal(
                f"{self.name} has no Python 3.11 or later that can make virtual environments",
                subject=self.name,
                remedy="see raftcluster preflight for the command that installs it",
            )
        for each in pythons:
            if not artefact.unfit(each.version[:2]):
                return each.path
        version = ".".join(map(str, pythons[0].version[:2]))
        raise Refusal(
            f"{self.name} has Python {version}, which cannot install {artefact.unfit(pythons[0].version[:2])[0]}",
            subject=self.name,
            remedy=f"build the artefact with Python {version} (raftcluster artefact FOLDER) and give it with --artefact",
        )

    def look(self, artefact: Artefact) -> Found:
        """What is there of it."""
        return Found.read(self._run(script.LOOK, artefact, seconds=LOOK_SECONDS))

    def copy(self, artefact: Artefact) -> None:
        """Send all of it."""
        self._run(script.COPY, artefact, [artefact.hash], packed(artefact))

    def install(self, artefact: Artefact) -> None:
        """Make its virtual environment."""
        self._run(script.INSTALL, artefact, [self.check(artefact)])

    def arrange(self, artefact: Artefact, options: str) -> None:
        """User, directory, unit and scripts; `options` are for `serve` where none are set yet."""
        files = self.place.files()
        words = [self.place.digest, files["unit"], files["supervise"], files["uninstall"], options]
        self._run(script.ARRANGE, artefact, words)

    def switch(self, id: str) -> None:
        """The release `id` is the one that runs from the next start on."""
        self._run(script.SWITCH, id)

    def enter(self, artefact: Artefact, words: Sequence[str], token: str = "") -> None:
        """`raftcluster init` or `join` with these words; the token goes to its standard input."""
        self._run(script.ENTER, artefact, words, token, seconds=ENTER_SECONDS)

    def start(self, id: str) -> None:
        """Have the node run this release."""
        self._run(script.START, id)

    def status(self, id: str, looks: int = LOOKS) -> dict[str, Any]:
        """What the node says, once it runs this release and has a leader."""
        return dict(json.loads(self._run(script.STATUS, id, [str(looks)])))

    def undo(self) -> None:
        """Take away what a first push has left; refused once there is a node."""
        self._run(script.UNDO, "", [self.place.files()["uninstall"]])

    def command(self, *words: str, seconds: float = COMMAND_SECONDS) -> Any:
        """The answer of the node's `raftcluster ... --json`. Raises what it says as `PushFailed`."""
        given = [self.place.program, "-C", self.place.directory, *words, "--json"]
        done = self._root(["sh", "-c", RUN, "sh", *given], "", seconds)
        return json.loads(done)

    def _run(
        self,
        text: str,
        release: Artefact | str,
        words: Sequence[str] = (),
        given: str = "",
        *,
        seconds: float = STEP_SECONDS,
    ) -> str:
        name = release if isinstance(release, str) else release.id
        return self._root(
            ["sh", "-c", text, "sh", self.place.prefix, self.place.directory, name, *words], given, seconds
        )

    def _root(self, words: list[str], given: str, seconds: float) -> str:
        if self.facts.sudo == "free":
            words = ["sudo", "-n", "--", *words]
        done = self.shell.run(words, given, seconds)
        if done.status != 0:
            said = done.err.strip() or done.out.strip() or f"exit {done.status}"
            raise PushFailed(f"{self.name}: {' '.join(said.split())[-400:]}", subject=self.name)
        return done.out


def packed(artefact: Artefact) -> str:
    """A tar of it in base64: what a shell can take on its standard input."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as tar:
        _add(tar, SUMS, artefact.sums.encode())
        for each in artefact.wheels:
            _add(tar, f"{WHEELS}/{each.name}", artefact.file(each).read_bytes())
    return base64.encodebytes(memory.getvalue()).decode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
