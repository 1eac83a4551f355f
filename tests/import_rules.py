"""Who may import whom: docs/architecture.md as a check over syntax trees.

`violations` takes the library's sources by path and returns one line per offence, so that the check itself can be
shown a tree that must not pass.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

PURE_ROOMS = (
    "raftcluster.errors",
    "raftcluster.limits",
    "raftcluster.codec",
    "raftcluster.machine",
    "raftcluster.trail",
)
FAILPOINTS = "raftcluster.failpoints"
"""It ends the process, so it is not pure; rooms with IO and threads of their own may import it."""
PURE_STDLIB = frozenset(
    "__future__ abc array base64 binascii bisect collections contextlib copy dataclasses decimal enum fnmatch "
    "fractions functools hashlib heapq hmac ipaddress itertools json keyword math operator re string struct textwrap "
    "types typing unicodedata zlib".split()
)

# What a room may import of raftcluster, beyond itself and the pure rooms. The facade (the other files at the top of
# raftcluster/) may import every room but cli.
ROOMS = {
    "raftcluster.storage": (),
    "raftcluster.transport": (),
    "raftcluster.engine": ("raftcluster.storage.ports", "raftcluster.storage.overlay"),
    "raftcluster.greylist": ("raftcluster.host", "raftcluster.twins"),
    "raftcluster.config": ("raftcluster.host", "raftcluster.iteration", "raftcluster.twins"),
    "raftcluster.lease": ("raftcluster.host", "raftcluster.iteration", "raftcluster.twins"),
    "raftcluster.notifications": ("raftcluster.host", "raftcluster.iteration", "raftcluster.twins"),
    "raftcluster.quarantine": ("raftcluster.host", "raftcluster.twins"),
    "raftcluster.cluster": (
        "raftcluster.host",
        "raftcluster.events.log",
        "raftcluster.events.recorder",
        "raftcluster.storage.directory",
        "raftcluster.transport.certificates",
        "raftcluster.transport.connect",
        "raftcluster.transport.minting",
        "raftcluster.transport.ports",
        "raftcluster.transport.stream",
        "raftcluster.transport.subject",
        "raftcluster.twins",
    ),
    "raftcluster.discovery": ("raftcluster.remote.", "raftcluster.transport.ports", "raftcluster.transport.sockets"),
    "raftcluster.events": (),
    "raftcluster.firewall": ("raftcluster.storage.directory",),
    "raftcluster.maillog": (
        "raftcluster.greylist.request",
        "raftcluster.greylist.rules",
        "raftcluster.greylist.verdict",
        "raftcluster.events.catalogue",
        "raftcluster.events.outlet",
        "raftcluster.events.syslog",
        "raftcluster.transport.outbound",
        "raftcluster.transport.sockets",
    ),
    "raftcluster.policy": (
        "raftcluster.loop",
        "raftcluster.greylist.api",
        "raftcluster.greylist.rules",
        "raftcluster.greylist.settings",
        "raftcluster.greylist.verdict",
    ),
    "raftcluster.control": (
        "raftcluster.loop",
        "raftcluster.backup.file",
        "raftcluster.backup.summary",
        "raftcluster.greylist.exchange",
        "raftcluster.greylist.transfer",
    ),
    "raftcluster.workers": (
        "raftcluster.builtin",
        "raftcluster.config.watch",
        "raftcluster.control.client",
        "raftcluster.control.greylisting",
        "raftcluster.control.server",
        "raftcluster.control.wire",
        "raftcluster.greylist.decider",
        "raftcluster.greylist.rules",
        "raftcluster.greylist.verdict",
        "raftcluster.host",
        "raftcluster.lease.",
        "raftcluster.loop",
        "raftcluster.notifications.rules",
        "raftcluster.request_ids",
        "raftcluster.quarantine.envelope",
        "raftcluster.quarantine.rules",
        "raftcluster.transport.sockets",
    ),
    "raftcluster.push": ("raftcluster.remote.",),
    "raftcluster.preflight": (
        "raftcluster.discovery.candidate",
        "raftcluster.discovery.checked",
        "raftcluster.firewall.foreign",
        "raftcluster.remote.",
        "raftcluster.transport.sockets",
    ),
    "raftcluster.remote": (),
    "raftcluster.verify": ("raftcluster.storage.",),
    "raftcluster.cli": ("raftcluster", "raftcluster.control.client"),
}
# Files whose results must be equal on every node, with all files of their own room that they use.
DETERMINISTIC = ("machine", "rules")
DETERMINISTIC_ROOMS = (
    "raftcluster.greylist",
    "raftcluster.greylist.lists",
    "raftcluster.config",
    "raftcluster.cluster",
    "raftcluster.lease",
    "raftcluster.notifications",
    "raftcluster.quarantine",
)

OWNERS = {
    "click": "raftcluster.cli.",
    "dns": "raftcluster.discovery.domain",
    "cryptography": "raftcluster.transport.certificates",
    "lmdb": "raftcluster.storage.environment",
    "msgpack": "raftcluster.codec",
    "msgspec": "raftcluster.config.models",
    "pydantic": "raftcluster.config.models",
    "pysyncobj": "raftcluster.engine.seam",
    "rich": "raftcluster.cli.",
    "socket": "raftcluster.transport.sockets raftcluster.events.outlet",
    "ssl": "raftcluster.transport.tls",
}
SEAM = "raftcluster.engine.seam"
UNPICKLERS = ("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle")
ENGINE_PRIVATE = "_SyncObj" + "__"


class Import(NamedTuple):
    line: int
    module: str  # absolute; `from raftcluster import limits` is raftcluster.limits


def module_name(path: str) -> str:
    """The name that the file at `path` is installed under."""
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts if parts[0] == "raftcluster" else ["raftcluster", *parts])


def imports(tree: ast.Module, known: frozenset[str]) -> Iterator[Import]:
    """Every import of a module's syntax tree, in functions and under `if TYPE_CHECKING` as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                yield Import(node.lineno, deeper if deeper in known else base)


def violations(library: Mapping[str, str]) -> list[str]:
    """`path:line: what` for everything that the rules forbid."""
    trees = {module_name(path): ast.parse(text, path) for path, text in library.items()}
    paths = {module_name(path): path for path in library}
    known = frozenset(trees)
    used = {module: sorted(set(imports(tree, known))) for module, tree in trees.items()}
    deterministic = _deterministic(used)
    found = []
    for module in sorted(trees):
        for line, target in used[module]:
            found += [f"{paths[module]}:{line}: {what}" for what in _offences(module, target, module in deterministic)]
        for line, name in _forbidden_names(trees[module]) if module != SEAM else ():
            found.append(f"{paths[module]}:{line}: {name} belongs to {SEAM}")
    return found


def _offences(module: str, target: str, deterministic: bool) -> Iterator[str]:
    top = target.partition(".")[0]
    if target.startswith("."):
        yield f"relative import of {target}"
    elif top in ("storage", "transport", "cli"):
        yield f"{target} is installed as raftcluster.{target}"
    elif top == "raftcluster":
        yield from _room_offences(module, target, deterministic)
    elif top in OWNERS:
        if not any(_within(module, owner) for owner in OWNERS[top].split()):
            yield f"{top} belongs to {OWNERS[top]}"
    elif top in UNPICKLERS:
        if module != SEAM:
            yield f"{top} is used nowhere: nothing is unpickled"
    elif top not in sys.stdlib_module_names:
        yield f"{top} has no owner"
    elif top == "importlib" and target not in ("importlib.metadata", "importlib.resources"):
        if module != SEAM:
            yield f"{target}: imports are to be seen in the syntax tree"
    elif (module in PURE_ROOMS or deterministic) and top not in PURE_STDLIB:
        yield f"{top} in a file that must be pure"


def _room_offences(module: str, target: str, deterministic: bool) -> Iterator[str]:
    room = next((room for room in ROOMS if _within(module, f"{room}.")), None)
    if target in PURE_ROOMS or (target == FAILPOINTS and module not in PURE_ROOMS and not deterministic):
        return
    if module in PURE_ROOMS:
        yield f"a pure room imports {target}"
    elif module == FAILPOINTS:
        yield f"the failpoints import {target}"
    elif room is None:
        if _within(target, "raftcluster.cli."):
            yield f"the facade imports {target}"
    elif _within(target, f"{room}."):
        if deterministic and target.rpartition(".")[2] == "api":
            yield f"a state machine imports {target}"
    elif deterministic or not any(_within(target, allowed) for allowed in ROOMS[room]):
        yield f"{room} imports {target}"


def _deterministic(used: Mapping[str, list[Import]]) -> set[str]:
    """Modules named `machine` or `rules` in their rooms, and what they use of their own room, at any depth."""
    found: set[str] = set()
    queue = [f"{room}.{name}" for room in DETERMINISTIC_ROOMS for name in DETERMINISTIC]
    while queue:
        module = queue.pop()
        if module in used and module not in found:
            found.add(module)
            room = module.rpartition(".")[0]
            queue += [each.module for each in used[module] if _within(each.module, f"{room}.")]
    return found


def _forbidden_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Name):
            name = node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        else:
            continue
        if ENGINE_PRIVATE in name or (name in ("__import__", "import_module") and not isinstance(node, ast.Constant)):
            yield node.lineno, name.strip()


def _within(module: str, allowed: str) -> bool:
    """`a.b` and `a.b.c` are within `a.b.`; only `a.b` is within `a.b`."""
    return module == allowed.removesuffix(".") or (allowed.endswith(".") and module.startswith(allowed))
