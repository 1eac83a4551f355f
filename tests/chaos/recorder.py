"""A history on disk: one JSON line per event, written at once, so that a killed process leaves all that it has told.

    {"t": seconds, "e": "call", "id": "mx1.2:17", "session": ..., "op": "set", ...arguments}
    {"t": seconds, "e": "ok" | "never" | "unknown", "id": "mx1.2:17", "result": ...}
    {"t": seconds, "e": "status" | "leads" | "down" | "tables" | "broken", ...}

Times are CLOCK_MONOTONIC, which all processes of one machine share. A call without an answer has an unknown outcome.
"""

from __future__ import annotations

import json
import os
import time
from itertools import count
from pathlib import Path
from typing import Any


class Recorder:
    """Thread-safe: an event is one write to a file that is only appended to."""

    def __init__(self, path: Path, prefix: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.prefix = prefix
        self._number = count()

    def event(self, kind: str, **fields: Any) -> None:
        os.write(self._file, json.dumps({"t": time.monotonic(), "e": kind, **fields}).encode() + b"\n")

    def call(self, session: str, op: str, **arguments: Any) -> str:
        """An operation is about to begin; its id, for the answer."""
        name = f"{self.prefix}:{next(self._number)}"
        self.event("call", id=name, session=session, op=op, **arguments)
        return name


def load(path: Path) -> list[dict[str, Any]]:
    """The events of one file. What a kill has cut short in the middle of its last line never happened."""
    *lines, _torn = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines]
