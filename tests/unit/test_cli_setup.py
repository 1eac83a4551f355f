"""`raftcluster setup` at a terminal asks for what it was not told."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.helpers import eventually

COMMAND = [sys.executable, "-m", "raftcluster.cli"]


def test_without_a_host_it_asks(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = [*COMMAND, "-C", str(tmp_path), "setup", "--name", "mail"]
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.set_blocking(ours, False)
    heard = bytearray()

    def says(what: bytes) -> bool:
        try:
            heard.extend(os.read(ours, 4096))
        except OSError:  # nothing yet, or it has ended
            pass
        return what in heard

    eventually(lambda: says(b"none: look for them"), what="it asks for hosts")
    os.write(ours, b"no|host\n")
    eventually(lambda: says(b"error: "), what="it looks at what was typed")
    assert process.wait(60) == 4 and b"no|host" in heard
    os.close(ours)


def test_without_a_terminal_it_does_not() -> None:
    done = subprocess.run([*COMMAND, "setup"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2 and "name a HOST" in done.stderr
