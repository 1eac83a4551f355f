"""keepalived.conf: the peers to which each VRRP instance speaks. Pure: files are read by who calls.

From keepalived.conf(5): words, `{`, `}`; `#` and `!` begin comments; `include` and its variants take a pattern that is
relative to the file; a line `@ID ...` counts only where keepalived's configuration id is ID (`@^ID`: is not ID), by default
the first part of the host's name; `$NAME=value` defines what `$NAME` and `${NAME}` stand for from then on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from posixpath import dirname, join
from typing import Final

from raftcluster.errors import Refusal

Read = Callable[[str], list[tuple[str, str]]]
"""The files that a pattern stands for: (path, text)."""

DEPTH: Final = 16
"""Of files that include each other."""
_INCLUDE: Final = re.compile(r"include[rmwba]*$")
_DEFINITION: Final = re.compile(r"^\$(\w+)\s*=\s*(.*)$")
_USE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_QUOTED: Final = re.compile(r'"([^"]*)"|([{}])|([^\s{}"]+)')


@dataclass(slots=True)
class VrrpInstance:
    """A `vrrp_instance`."""

    name: str
    origin: str
    """The file that it begins in."""
    source: str = ""
    """unicast_src_ip: this host's own address."""
    peers: list[str] = field(default_factory=list)
    """unicast_peer: addresses. Empty: it speaks by multicast, and nobody is listed."""


def instances(path: str, read: Read, id: str) -> list[VrrpInstance]:
    """Those in the file `path` and what it includes, as keepalived on the host `id` takes them. Raises `Refusal`."""
    found: list[VrrpInstance] = []
    blocks: list[list[str]] = []
    instance: VrrpInstance | None = None
    words: list[str] = []  # of the statement that has not ended: a `{` may be on the next line
    for file, line in _lines(path, read, id, {}, DEPTH):
        pending, words = words, []
        for word in line:
            if word == "{":
                blocks.append(words or pending)
                if blocks[-1][:1] == ["vrrp_instance"]:
                    instance = VrrpInstance(blocks[-1][1] if len(blocks[-1]) > 1 else "", file)
                    found.append(instance)
                words, pending = [], []
            elif word == "}":
                _take(instance, blocks, words)
                if not blocks:
                    raise Refusal(f"{file}: a }} too many", subject=file, remedy=f"keepalived -t -f {path}")
                if blocks.pop()[:1] == ["vrrp_instance"]:
                    instance = None
                words = []
            else:
                words.append(word)
        _take(instance, blocks, words)
    if blocks:
        what = " ".join(blocks[-1])
        raise Refusal(f"{path}: block {what!r} is not closed", subject=path, remedy=f"keepalived -t -f {path}")
    return found


def _take(instance: VrrpInstance | None, blocks: list[list[str]], words: list[str]) -> None:
    """What a line within an instance says about who speaks to whom."""
    if instance is None or not words:
        return
    inner = blocks[-1][0] if blocks[-1] else ""
    if inner == "unicast_peer":
        instance.peers.append(words[0])  # what may follow are limits of the time to live
    elif inner == "vrrp_instance" and words[0] == "unicast_src_ip" and len(words) > 1:
        instance.source = words[1]


def _lines(path: str, read: Read, id: str, known: dict[str, str], depth: int) -> Iterator[tuple[str, list[str]]]:
    """(file, words) of each line that counts, includes in their places."""
    if not depth:
        raise Refusal(f"{path} is included by itself", subject=path, remedy="keepalived -t shows where")
    for file, text in read(path):
        for raw in text.splitlines():
            line = re.sub(r"[#!].*$", "", raw).strip()
            if line.startswith("@"):
                condition, _, line = line[1:].partition(" ")
                if (condition.removeprefix("^") == id) == condition.startswith("^"):
                    continue
                line = line.strip()
            if (defined := _DEFINITION.match(line)) is not None:
                known[defined[1]] = _replaced(defined[2], known)
                continue
            words = [quoted or brace or plain for quoted, brace, plain in _QUOTED.findall(_replaced(line, known))]
            if words and _INCLUDE.match(words[0]) and len(words) > 1:
                yield from _lines(join(dirname(file), words[1]), read, id, known, depth - 1)
            elif words:
                yield file, words


def _replaced(line: str, known: dict[str, str]) -> str:
    return _USE.sub(lambda use: known.get(use[1] or use[2], use[0]), line)
