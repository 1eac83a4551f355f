"""What a replica needs of the world, how long it waits, how much it holds, and who looks on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random

from raftcluster import limits
from raftcluster.engine.guards import Message
from raftcluster.storage.ports import Entry


@dataclass(frozen=True, slots=True)
class Ports:
    """What a replica needs of the world. None of these may block."""

    send: Callable[[str, Message], bool]
    """Queue a message on the peer's link; False when there is no link or its queue is full."""
    post: Callable[[Callable[[], None]], None]
    """Run this on the driving thread soon. Callable from any thread."""
    fetch: Callable[[str], None]
    """Bring `peer`'s snapshot here; `snapshot_done` follows, whatever happens."""
    now: Callable[[], float]
    """Monotonic seconds, as the engine reads them."""
    boot: Callable[[], float]
    """CLOCK_BOOTTIME in milliseconds."""
    wall: Callable[[], float]
    """This host's wall clock in milliseconds."""
    random: Random
    flush: Callable[[], None] = lambda: None
    """Let what was sent leave now: work follows that takes a while."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a replica waits, in seconds. Defaults and reasons: `limits`."""

    heartbeat: float = limits.HEARTBEAT_SECONDS
    election_min: float = limits.ELECTION_MIN_SECONDS
    election_max: float = limits.ELECTION_MAX_SECONDS
    check_quorum: float = limits.CHECK_QUORUM_SECONDS
    checkpoint: float = limits.CHECKPOINT_SECONDS
    resend: float = limits.RESEND_SECONDS


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a replica holds. Defaults and reasons: `limits`."""

    entry_bytes: int = limits.ENTRY_BYTES
    entry_operations: int = limits.ENTRY_OPERATIONS
    append_bytes: int = limits.APPEND_BYTES
    in_flight: int = limits.ENTRIES_IN_FLIGHT
    pending: int = limits.PENDING_COMMANDS
    pending_bytes: int = limits.PENDING_BYTES
    queue: int = limits.LEADER_QUEUE_OPERATIONS
    queue_bytes: int = limits.LEADER_QUEUE_BYTES
    checkpoint_keys: int = limits.CHECKPOINT_KEYS
    overlay_keys: int = limits.OVERLAY_KEYS
    ring: int = limits.RING_RESULTS
    keep_entries: int = limits.LOG_KEEP_ENTRIES
    keep_bytes: int = limits.LOG_KEEP_BYTES


@dataclass(slots=True)
class Observer:
    """Hooks for reconcilers and checkers; called on the driving thread, must only note or signal."""

    applied: Callable[[Entry, Collection[str]], None] = lambda entry, machines: None
    """After an entry was applied: the entry, and the names of the machines that had a command in it. After a snapshot was
    installed: the entry at its index, and the names of all machines."""
    role: Callable[[], None] = lambda: None
    """This node became or ceased to be leader, or heard of another one."""
    health: Callable[[str, str], None] = lambda health, detail: None
    """Storage health changed."""
