"""The command nft, through its JSON interface and without a shell. Everything that may go wrong has an error that says what
to do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any, Final

from raftcluster.errors import MissingPrivilege, Refusal
from raftcluster.firewall.table import without_ours

SECONDS: Final = 20.0
PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
WITHOUT: Final = "or go on without it: --no-firewall (in Python firewall=False); strangers then reach mutual TLS"

Json = Any


class Nft:
    """Thread: any but the tick thread: each call starts a process and waits for it.

    Raises `Refusal` when there is no nft or it fails, `MissingPrivilege` when it is not permitted.
    """

    def __init__(self, command: str | None = None) -> None:
        """`command` is nft's path; by default it is looked for where the system keeps its tools."""
        self._command = command

    def ruleset(self) -> list[Json]:
        """All tables of this network namespace, chains and rules included."""
        return self._list("list", "ruleset")

    def table(self, name: str) -> list[Json]:
        """The table `name` of family inet; empty when there is none."""
        try:
            return self._list("list", "table", "inet", name)
        except Refusal as error:
            if "No such file or directory" in error.message:
                return []
            raise

    def apply(self, commands: Sequence[Json]) -> None:
        """Carry out all of them in one transaction, or none."""
        self._run(["-j", "-f", "-"], json.dumps({"nftables": list(commands)}))

    def digest(self, but: str | None = None) -> str:
        """SHA-256 of what is lasting in the rule set, without the table `but`: equal when nothing of it has changed."""
        lasting = without_ours(self.ruleset(), but)
        return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()

    def _list(self, *arguments: str) -> list[Json]:
        text = self._run(["-j", *arguments])
        try:
            listing = json.loads(text)["nftables"]
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(f"nft {' '.join(arguments)} answers what is no JSON: {error}", subject="nft") from error
        return [each for each in listing if "metainfo" not in each]

    def _run(self, arguments: Sequence[str], given: str = "") -> str:
        command = self._command or shutil.which("nft", path=f"{os.environ.get('PATH', '')}:{PATH}")
        if command is None:
            raise Refusal(
                "there is no nft: the cluster's port cannot be closed to strangers",
                subject="nft",
                remedy=f"install it (apt-get install nftables), {WITHOUT}",
            )
        try:
            done = subprocess.run(
                [command, *arguments],
                input=given,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
                env={"PATH": PATH, "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Refusal(f"nft did not run: {error}", subject="nft", remedy=WITHOUT) from error
        if done.returncode == 0:
            return done.stdout
        said = " ".join((done.stderr or done.stdout).split())[:300]
        if "Operation not permitted" in said or "Permission denied" in said:
            raise MissingPrivilege(
                f"nft is not permitted to this user: {said}",
                subject="nft",
                remedy=f"run as root, or grant CAP_NET_ADMIN, {WITHOUT}",
            )
        raise Refusal(f"nft failed: {said}", subject="nft", remedy=f"see `nft list ruleset`, {WITHOUT}")
