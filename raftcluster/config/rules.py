"""Which keys and values a configuration may hold: pure functions that raise `Rejected`."""

from __future__ import annotations

import math
import re
from typing import Final

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected

LOCAL: Final = "local"
"""The class of keys that are a node's own business: windows, schedules."""
NODES: Final = "nodes"
"""The class of overrides: `nodes/NAME/KEY` is `KEY` as the node NAME has it."""

_KEY: Final = re.compile(r"[a-z0-9_.-]+(?:/[a-z0-9_.-]+)*", re.ASCII)
_PREFIX: Final = re.compile(r"[a-z0-9_./-]*", re.ASCII)
_SEGMENT: Final = re.compile(r"[a-z0-9_.-]+", re.ASCII)
_GREYLIST: Final = "these are checked together: they are set with the greylist's own configure"


class NodeLocal(Rejected):
    """A key below `local/` was to be set for the cluster."""

    code = "node-local"


class InvalidValue(Rejected):
    """A value that its schema does not take, or a schema that is none."""

    code = "invalid-value"


class ValueTooLarge(Rejected):
    """A value of more bytes than one may have."""

    code = "value-too-large"


class CyclicValue(Rejected):
    """A value that contains itself."""

    code = "cyclic-value"


class RevisionMismatch(Rejected):
    """A condition of a change does not hold: somebody else has changed the key."""

    code = "revision-mismatch"


class Forgotten(Rejected):
    """What is asked for was dropped from the history."""

    code = "forgotten"


class BlobMissing(Rejected):
    """A large value was to be set that is not uploaded, or no more: `node.config` uploads it again by itself."""

    code = "blob-missing"


_KINDS: Final[dict[str, type[Rejected]]] = {
    each.code: each
    for each in (NodeLocal, InvalidValue, ValueTooLarge, CyclicValue, RevisionMismatch, Forgotten, BlobMissing)
}


def named(error: Rejected) -> Rejected:
    """`error` as the kind that its code names: what a state machine raises comes back without its class."""
    kind = _KINDS.get(error.code)
    return error if kind is None else kind(error.message, subject=error.subject, remedy=error.remedy)


def check_key(key: Value) -> None:
    """Segments of `a-z 0-9 _ . -` joined by `/`, at most `CONFIG_KEY_BYTES` long, in no reserved class.

    `nodes/NAME/KEY`, an override, is one when KEY is. Raises `NodeLocal` for what never leaves its node.
    """
    _check_spelling(key)
    first, _, rest = key.partition("/")
    shared = key
    if first == NODES:
        shared = rest.partition("/")[2]
        first = shared.partition("/")[0]
        if not shared or first == NODES:
            raise Rejected(f"{key} overrides no key", subject=key, remedy=f"{NODES}/NAME/KEY does")
    if first == LOCAL:
        raise NodeLocal(
            f"{shared} is not set for the cluster: it belongs to one node, on purpose: a scheduled task set for all nodes "
            "would start on all of them at once",
            subject=key,
            remedy="set it on the node itself",
        )
    if first == "greylist":
        raise Rejected(f"{shared} is not set for the cluster: {_GREYLIST}", subject=key)


def check_local_key(key: Value) -> None:
    """The same spelling, below `local/`."""
    _check_spelling(key)
    if not is_local(key):
        raise Rejected(
            f"{key} is the cluster's, not this node's", subject=key, remedy=f"a node's keys begin with {LOCAL}/"
        )


def check_prefix(prefix: Value) -> None:
    """What keys may begin with: any part of one, or nothing."""
    if type(prefix) is not str or len(prefix) > limits.KEY_BYTES // 2 or not _PREFIX.fullmatch(prefix):
        raise Rejected(f"no key begins with {prefix!a:.300}", subject="prefix", remedy="a-z 0-9 _ . - and /")


def check_revision(revision: Value) -> None:
    """A whole number, not below 0."""
    if type(revision) is not int or not 0 <= revision < 2**63:
        raise Rejected(f"{revision!a:.40} is no revision", subject="revision", remedy="a whole number from 0 on")


def is_local(key: str) -> bool:
    """Whether `key` belongs to one node."""
    return key.startswith(f"{LOCAL}/")


def shared_key(key: str) -> str:
    """What `key` overrides, or itself."""
    return key.split("/", 2)[2] if key.startswith(f"{NODES}/") and key.count("/") > 1 else key


def override(node: str, key: str) -> str:
    """The key that holds what `key` is on `node`. Check it: the key is anything yet.

    Raises `Rejected` for a name that is no segment of a key: it would be the override of another key.
    """
    if type(node) is not str or len(node) > limits.NAME_BYTES or not _SEGMENT.fullmatch(node):
        raise Rejected(
            f"{node!a:.300} is no name of a node that can have values of its own",
            subject="node",
            remedy=f"a-z 0-9 _ . -, at most {limits.NAME_BYTES} characters",
        )
    return f"{NODES}/{node}/{key}"


def _check_spelling(key: Value) -> None:
    """A key that can be set can be overridden on every node, however long both names are."""
    rest, most = key, limits.CONFIG_KEY_BYTES
    if type(key) is str and key.startswith(f"{NODES}/"):
        node, _, rest = key.removeprefix(f"{NODES}/").partition("/")
        most = most if len(node) <= limits.NAME_BYTES else 0
    if type(key) is not str or len(rest) > most or not _KEY.fullmatch(key):
        raise Rejected(
            f"{key!a:.300} is no configuration key",
            subject="key",
            remedy=f"segments of a-z 0-9 _ . - joined by /, at most {limits.CONFIG_KEY_BYTES} characters",
        )


def pack_value(value: Value, most: int = limits.CONFIG_VALUE_BYTES) -> bytes:
    """`value` as bytes, at most `most` of them.

    It must be None, bool, int (64 bits), float (a number), str, bytes, or a list or dict (keys: str) of these, nested
    less than `NESTING` deep, of at most `CONFIG_VALUE_ITEMS` items.
    """
    return weigh(value, most)[0]


def weigh(value: Value, most: int = limits.CONFIG_VALUE_BYTES) -> tuple[bytes, int]:
    """The same, and how many items it has."""
    walk = _Walk()
    walk.into(value, limits.NESTING - 4)  # it travels inside lists of ours
    try:
        packed = codec.pack(value)
    except (OverflowError, ValueError) as error:
        raise Rejected("the value holds an integer of more than 64 bits or no valid text", subject="value") from error
    if len(packed) > most:
        raise ValueTooLarge(f"the value has {len(packed)} bytes, more than {most}", subject="value")
    return packed, walk.items


def canonical(value: Value) -> bytes:
    """Equal for equal values: as they are written (`True` is not 1, 1 is not 1.0), whatever the order of a dict's keys."""
    return codec.pack(_sorted(value))


def _sorted(value: Value) -> Value:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def check_note(author: Value, reason: Value) -> None:
    """Who changed it and why: text of at most 1 KiB together."""
    if type(author) is not str or type(reason) is not str or len(author) + len(reason) > limits.KIB:
        raise Rejected("author and reason take text, at most 1 KiB together", subject="reason")
    try:
        codec.pack([author, reason])
    except ValueError as error:
        raise Rejected("author or reason is no valid text", subject="reason") from error


class _Walk:
    """Through a value that may be anything a program can make."""

    def __init__(self) -> None:
        self.items = 0
        self._above: set[int] = set()
        """The containers that are being walked through."""

    def into(self, value: Value, depth: int) -> None:
        self.items += 1
        if self.items > limits.CONFIG_VALUE_ITEMS:  # one that is shared counts each time
            raise ValueTooLarge(f"the value has more than {limits.CONFIG_VALUE_ITEMS} items", subject="value")
        if isinstance(value, list | dict):
            if id(value) in self._above:
                raise CyclicValue("the value contains itself", subject="value")
            if depth == 1:
                raise Rejected("the value is nested too deeply", subject="value")
            self._above.add(id(value))
            if isinstance(value, dict):
                for name in value:
                    if type(name) is not str:
                        raise Rejected(f"a dict's keys are text, not {name!a:.40}", subject="value")
            for item in value.values() if isinstance(value, dict) else value:
                self.into(item, depth - 1)
            self._above.remove(id(value))
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise Rejected("the value holds a float that is no number", subject="value")
        elif value is not None and type(value) not in (bool, int, str, bytes):
            raise Rejected(f"a value cannot be a {type(value).__name__}", subject="value")
