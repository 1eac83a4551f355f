"""A password for ssh: `Askpass`. It is in this process's memory, and goes to ssh through a pipe.

ssh asks a program (SSH_ASKPASS) that it starts itself, and lets it inherit nothing. So that program reads a named pipe in a folder
that only this user may enter; what is in it is in the kernel's memory, never on a disk, and gone with the folder. Only a question for a
password is answered: none about a host's key, and none for a key's passphrase.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PROGRAM: Final = """#!/bin/sh
case $1 in
*[Pp]assword*) ;;
*) exit 1 ;;
esac
exec 9<"$0" # one at a time, and no more than a line: each gets all of it
flock 9
until IFS= read -r answer <{pipe}; do # nothing, when it was opened while the one before was closed
    [ -p {pipe} ] || exit 1
done
printf '%s\\n' "$answer"
"""


class Askpass:
    """From entering to leaving ssh gets its answer from the program `path`. Thread: any number of ssh at once."""

    def __init__(self, password: str) -> None:
        self._answer = f"{password}\n".encode()
        self._ended = False
        self._folder = tempfile.TemporaryDirectory(prefix="raftcluster-ask-", ignore_cleanup_errors=True)
        self._pipe = Path(self._folder.name) / "pipe"
        self.path = Path(self._folder.name) / "ask"
        self._feeder = threading.Thread(target=self._feed, name="raftcluster-askpass", daemon=True)

    def __enter__(self) -> Self:
        os.mkfifo(self._pipe, 0o600)
        self.path.write_text(_PROGRAM.format(pipe=shlex.quote(str(self._pipe))))
        self.path.chmod(0o700)
        self._feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        reader = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)  # lets the feeder go on
        self._feeder.join()
        os.close(reader)
        self._folder.cleanup()

    def _feed(self) -> None:
        while not self._ended:
            writer = os.open(self._pipe, os.O_WRONLY)
            try:
                if not self._ended:
                    os.write(writer, self._answer)
            except BrokenPipeError:  # it has read enough
                continue
            finally:
                os.close(writer)
