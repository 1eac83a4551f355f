"""Every bound of the system, each with its reason; their relations are asserted at the end.

Times are in seconds, sizes in bytes, unless the name says otherwise (units last).
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# --- batches: one log entry holds all that arrived since the last one (the engine's cost is per entry)
ENTRY_BYTES: Final = 512 * KIB  # an entry is closed here; bounds the time of one apply and of one append
ENTRY_OPERATIONS: Final = 4096  # the same bound for small operations
OPERATION_BYTES: Final = 256 * KIB  # larger documents are chunked above the engine
OPERATION_COMMANDS: Final = (
    256  # commands that travel under one id: the cost of an id is shared, the loss of one is small
)
APPEND_BYTES: Final = 1 * MIB  # entries per append_entries message (`appendEntriesBatchSizeBytes`)
ENTRIES_IN_FLIGHT: Final = 2  # unapplied batches; the second leaves once it is no smaller than the first

# --- frames
FRAME_BYTES: Final = 4 * MIB  # the largest frame on an authenticated link; holds any append message
HELLO_BYTES: Final = 16 * KIB  # before authorisation a peer can make us hold no more than this
NESTING: Final = 32  # depth of a decoded value; deeper is nonsense or an attack

# --- queues
PENDING_COMMANDS: Final = 65_536  # commands of this node's callers; beyond it `Unavailable` at once
LEADER_QUEUE_OPERATIONS: Final = 262_144  # operations waiting for a batch at the leader
PENDING_BYTES: Final = 256 * MIB  # of a node's callers: the same bound for large operations
LEADER_QUEUE_BYTES: Final = 256 * MIB  # at the leader; what does not fit is sent again
LINK_QUEUE_BYTES: Final = 16 * MIB  # unsent bytes per peer; beyond it messages are dropped, as a slow network would
HANDSHAKES: Final = 32  # handshakes under way at once
HANDSHAKES_PER_HOST: Final = 16  # of them from one address: a flood from there keeps others waiting for nobody
HANDSHAKE_SECONDS: Final = 5.0  # a handshake that takes longer is closed
FRAME_SECONDS: Final = 30.0  # a frame once begun must end within this

# --- links
PRESSED_SECONDS: Final = (
    1.0  # when all handshakes are taken, one older than this gives way: stalled ones cannot lock us out
)
HELLO_ITEMS: Final = 1_024  # length of a container in a frame before authorisation: decoders allocate what is claimed
LINK_BURST_BYTES: Final = 4 * MIB  # read from one link before the others get their turn
LINK_BURST_MESSAGES: Final = 1_024  # the same bound for small ones: each costs some 20 us before others get their turn
LINK_IDLE_SECONDS: Final = 5.0  # heartbeats flow every 50 ms; a link without any byte for this long is dead
PING_SECONDS: Final = 1.0  # round-trip measurement, and the byte that keeps an idle link alive
DIAL_MIN_SECONDS: Final = 0.050  # first pause between two dials of a peer
DIAL_MAX_SECONDS: Final = (
    0.5  # the longest: a peer that is back is linked again within it, and nobody there costs a packet
)
REFUSED_SECONDS: Final = 2.0  # the longest when the peer turned us down or the link fell at once: a handshake each
STREAMS: Final = 8  # snapshot streams served at once
JOIN_STREAMS: Final = 4  # of peers without a certificate; and as many of members
JOIN_SECONDS: Final = 120.0  # the whole conversation with one of them
JOIN_BURST: Final = 20.0  # connections without a certificate per address before ...
JOIN_PER_SECOND: Final = 2.0  # ... they are slowed down to this
REFUSAL_LOG_SECONDS: Final = 30.0  # one log line per reason and peer in this time, with the count of those left out

# --- time
HEARTBEAT_SECONDS: Final = 0.050
ELECTION_MIN_SECONDS: Final = 0.300
ELECTION_MAX_SECONDS: Final = 0.600
CHECK_QUORUM_SECONDS: Final = 0.600
TICK_SECONDS: Final = 0.050  # the longest sleep of the tick thread; a leader wakes for its heartbeats
CALL_SECONDS: Final = 2.0  # default deadline of a call
RESEND_SECONDS: Final = 0.5  # a forwarded operation without a result is sent again (it is deduplicated)
CLOCK_SLEW: Final = 0.05  # cluster time runs at most 5 % fast or slow
TIME_MS: Final = 2**47  # cluster time stops in the year 6429: with any life added its minutes fit 4 bytes
CLOCK_ALARM_SECONDS: Final = 5.0  # a node this far off the median of wall clocks alarms and hands leadership over

# --- tables
CHECKPOINT_SECONDS: Final = 0.5  # a change is in the tables environment within a second
CHECKPOINT_KEYS: Final = 8_000
"""Or earlier, when the overlay holds this many keys. Smaller units cost more bytes, and delay the log on a shared disk for a
shorter time: docs/performance.md."""
OVERLAY_KEYS: Final = 400_000  # beyond it nothing is applied until a checkpoint is done: memory is bounded
RING_RESULTS: Final = 65_536  # results kept for deduplication, evicted in log order
LOG_KEEP_ENTRIES: Final = 256  # entries kept behind the last checkpoint, so that a short absence needs no snapshot
LOG_KEEP_BYTES: Final = 32 * MIB
LOG_HOLD_BYTES: Final = 128 * MIB  # what follows a snapshot that is on its way is kept up to this, in memory, too ...
LOG_HOLD_SECONDS: Final = 120.0  # ... and for this long without any progress of whoever gets it
KEY_BYTES: Final = 511  # LMDB's own limit
SCAN_ROWS: Final = 1_000  # a page of a scan
VALUE_BYTES: Final = 80 * MIB  # of one row; the largest of ours is a full entry's results
RESULT_BYTES: Final = 16 * KIB  # what one command may answer: it is kept on every node, see RING_RESULTS
ENTRY_RESULT_BYTES: Final = 32 * MIB  # what all commands of an entry may answer together
RING_BYTES: Final = 64 * MIB  # of results kept; operations that answer at length are forgotten earlier
SNAPSHOT_CHUNK_BYTES: Final = 512 * KIB
SNAPSHOT_BLOCK_BYTES: Final = 96 * MIB  # a chunk, as it travels: it may end with a row of the greatest size
SNAPSHOT_BYTES_PER_SECOND: Final = 256 * KIB  # a transfer that is slower is ended: nothing is applied meanwhile
TABLES: Final = 512  # LMDB databases per environment; each costs every transaction 48 bytes
DISK_RESERVE_BYTES: Final = (
    16 * MIB
)  # full is declared this early: LMDB cannot tell a write cut short from a broken disk
LOG_BYTES: Final = 4 * GIB  # of segments: the log is cut behind each checkpoint
FIRST_SEGMENT_BYTES: Final = 256 * KIB  # of the log; what is cut is freed by the segment
SEGMENT_SECONDS: Final = 10.0  # one that is full earlier is followed by one twice as long, and the other way round
SEGMENT_BYTES: Final = 8 * MIB  # at most: two seconds of the highest rate
TABLES_MAP_BYTES: Final = 64 * GIB  # address space for 10 M triplets and more
LOCAL_MAP_BYTES: Final = 1 * GIB  # of a node's own settings, and of a million triplets that it keeps alone
SNAPSHOT_BYTES: Final = TABLES_MAP_BYTES  # what could never be stored is not received

# --- events: a node writes some dozens a day
EVENT_LOG_BYTES: Final = 1 * MIB  # the file is put aside when it would be longer
EVENT_LOGS: Final = 4  # of those, kept beside it

# --- mail log: a line for each decision, on this node only
MAILLOG_QUEUE: Final = (
    32_768  # decisions that wait for the writer: seconds of the greatest load; more are dropped and counted
)
MAILLOG_GROUP: Final = 64  # lines in one write, 0.2 ms: for so long the writer holds up the interpreter's other threads
MAILLOG_EXPORT_GROUP: Final = 32  # entries that are exported together, 0.6 ms: the same
MAILLOG_TEXT: Final = 1_000  # characters kept of a value
MAILLOG_LINE_BYTES: Final = 128 * KIB  # of eight such values, each character escaped
MAILLOG_PAGE_BYTES: Final = 256 * KIB  # that a reader gets at once
MAILLOG_SCAN_BYTES: Final = 4 * MIB  # that are read for it, when most are older than what is asked for
MAILLOG_STREAMS: Final = 8  # members that read this node's log at once, each for an administrator of theirs
MAILLOG_IDLE_SECONDS: Final = 900.0  # between two of their questions: somebody may be paging through it
MAILLOG_RESERVE_BYTES: Final = 64 * MIB  # free space below which nothing is logged: the cluster's data need it more

# --- verify
VERIFY_STREAMS: Final = 2  # examinations of a node for others at once: each reads all of its tables
VERIFY_ARM_SECONDS: Final = 10.0  # within which a member says that it waits for the mark; later it is left out
IMAGE_CHUNK_BYTES: Final = (
    8 * KIB
)  # read between two rests: some 60 rows, 0.3 ms, for so long the tick thread is held up
VERIFY_SHARE: Final = 0.5  # of one core's time, at most
VERIFY_BYTES: Final = 64 * MIB  # of digests that one member may send; 10 M rows are 3 MB
VERIFY_RANGES: Final = 32  # ranges that differ and are looked into, row by row
VERIFY_ROWS: Final = 4_096  # rows of each: 256 are to be expected
VERIFY_TROUBLES: Final = 100  # damaged rows that a node names; the others it counts
VERIFY_SECONDS: Final = 600.0  # default time of it all

# --- cluster
VOTERS: Final = 9
NAME_BYTES: Final = 253  # a DNS name
ADDRESS_BYTES: Final = 6_144  # sender or recipient as a policy client may send it; longer is rejected
POLICY_LINE_BYTES: Final = 8_192  # one attribute of a policy request
POLICY_ATTRIBUTES: Final = 100
POLICY_CONNECTIONS: Final = 1_000
POLICY_IDLE_SECONDS: Final = 600.0  # Postfix keeps its connections; a client that never ends its request does not
CONFIG_KEY_BYTES: Final = 240  # and an override's prefix before it
CONFIG_VALUE_BYTES: Final = 1 * MIB  # two of them, before and after, fit a frame
CONFIG_VALUE_ITEMS: Final = 32_768  # each is looked at by every node between two log entries: 50 ms
SCHEMA_STEPS: Final = 100_000  # to judge one transaction's values by their schemas: 0.2 s
CONFIG_INLINE_BYTES: Final = (
    64 * KIB
)  # of a value that travels in its command; a larger one is uploaded in parts before
CONFIG_PART_BYTES: Final = 128 * KIB  # of those
CONFIG_UPLOAD_BYTES: Final = 64 * MIB  # that are uploaded and belong to no key yet
CONFIG_UPLOAD_SECONDS: Final = 600.0  # and are removed then, in cluster time
CONFIG_PAGE_BYTES: Final = 1 * MIB  # of values read in one step, beyond the last revision of it
CONFIG_CHANGES: Final = 100_000  # listed, in the order of their revisions, each with the digest of what it was
CONFIG_REPORTS: Final = 128  # of how far nodes are: some times as many as there are members, the oldest gives way
TRANSACTION_KEYS: Final = 1_000  # that are changed at once; without what is uploaded they fit an operation
TRANSACTION_BYTES: Final = 4 * MIB  # of uploaded values that one transaction sets
TRANSACTION_ITEMS: Final = 2 * CONFIG_VALUE_ITEMS  # of all values
HISTORY_REVISIONS: Final = 1_000  # kept per configuration key
HISTORY_BYTES: Final = 16 * MIB  # of them: what is read between two log entries is bounded

# --- leases
LEASES: Final = 10_000  # names that are held, or kept, at once
LEASE_NAME_BYTES: Final = 200
LEASE_SECONDS: Final = 15.0  # default term: some missed renewals, and a change of leader, end no job
LEASE_MIN_SECONDS: Final = 1.0  # a renewal at a third of it survives an election
LEASE_MAX_SECONDS: Final = 7 * 86_400.0
LEASE_BELIEF: Final = 0.9  # of its term, after which a holder that was not renewed knows that it has lost it

# --- notifications
NOTIFICATIONS: Final = 5_000  # kept; with the largest payloads 40 MB
NOTIFICATION_BYTES: Final = 8 * KIB  # a payload: facts, no documents
NOTIFICATION_TEXT_BYTES: Final = 1 * KIB
NOTIFICATION_KEY_BYTES: Final = 253
NOTIFICATION_SECONDS: Final = 7 * 86_400.0  # default life
NOTIFICATION_MAX_SECONDS: Final = 365 * 86_400.0
NOTIFICATION_CONSUMERS: Final = 1_000

# --- quarantine: envelopes only, the messages are kept by the product
QUARANTINE_MESSAGES: Final = 100_000  # kept; beyond it captures are refused, nothing is evicted
QUARANTINE_BYTES: Final = 256 * MIB  # of their envelopes, together
QUARANTINE_ENVELOPE_BYTES: Final = 128 * KIB  # of one
QUARANTINE_RECIPIENTS: Final = 1_000  # of one message: as many as Postfix takes; RFC 5321 asks for 100
QUARANTINE_ADDRESS_BYTES: Final = 1_024  # a path has 256 (RFC 5321, 4.5.3.1.3); longer ones fit no command line
QUARANTINE_ORCPT: Final = 500  # characters (RFC 3461, 4.2)
QUARANTINE_ENVID: Final = 100  # characters (RFC 3461, 4.4)
QUARANTINE_MESSAGE_BYTES: Final = 128 * MIB  # one is in memory while it is delivered
QUARANTINE_REFERENCE_BYTES: Final = 1 * KIB
QUARANTINE_REASON_BYTES: Final = 1 * KIB
QUARANTINE_SECONDS: Final = 30 * 86_400.0  # default life
QUARANTINE_MAX_SECONDS: Final = 365 * 86_400.0
QUARANTINE_KEY_BYTES: Final = 32  # as long as the digest (RFC 2104, 3)
QUARANTINE_CLAIM_SECONDS: Final = 120.0  # for one delivery: for so long nobody else may try when a node has crashed
QUARANTINE_CLAIM_MAX_SECONDS: Final = 3_600.0
QUARANTINE_PAGE: Final = 100  # messages of a list; together they fit a frame
QUARANTINE_PAGE_BYTES: Final = 1 * MIB

assert OPERATION_BYTES < ENTRY_BYTES < APPEND_BYTES, "an operation fits an entry, an entry an append"
assert 2 * APPEND_BYTES < FRAME_BYTES < LINK_QUEUE_BYTES, "a frame holds an append whose last entry was the largest"
assert 2 * PING_SECONDS < LINK_IDLE_SECONDS, "an idle link that lives is never taken for dead"
assert FRAME_BYTES <= LINK_BURST_BYTES, "one turn can bring a whole frame"
assert 2 * HEARTBEAT_SECONDS < ELECTION_MIN_SECONDS < ELECTION_MAX_SECONDS <= CHECK_QUORUM_SECONDS
assert CHECKPOINT_KEYS * 2 < OVERLAY_KEYS
assert CONFIG_INLINE_BYTES < OPERATION_BYTES and CONFIG_PART_BYTES + KIB < OPERATION_BYTES, "a part fits an operation"
assert CONFIG_VALUE_BYTES < TRANSACTION_BYTES < CONFIG_UPLOAD_BYTES and CONFIG_VALUE_BYTES < HISTORY_BYTES
assert CONFIG_VALUE_ITEMS < SCHEMA_STEPS and TRANSACTION_KEYS < CONFIG_CHANGES
assert 2 * CONFIG_VALUE_BYTES + 64 * KIB < FRAME_BYTES, "before and after fit a frame of the control socket"
assert NAME_BYTES + CONFIG_KEY_BYTES + 16 <= KEY_BYTES, "the key of an override's version fits a row"
assert ENTRY_RESULT_BYTES + 4 * APPEND_BYTES < VALUE_BYTES, "the results of one entry fit a row"
assert VALUE_BYTES + 8 * SNAPSHOT_CHUNK_BYTES < SNAPSHOT_BLOCK_BYTES, "a chunk fits a block, whatever its rows"
# --- worker sockets: a mail product has some dozens of worker processes
WORKER_CONNECTIONS: Final = 128
WORKER_FRAME_BYTES: Final = 2 * MIB  # of all connections together 256 MiB, in the worst case
WORKER_MESSAGES: Final = 1_024  # in one frame
WORKER_PENDING: Final = 4_096  # unanswered messages of one connection; then it is not read any more
WORKER_CALLS: Final = 64  # of them calls that take a thread; more are refused
WORKER_THREADS: Final = 16  # that carry out calls
WORKER_STREAMS: Final = 64  # watches of all workers: a thread each
WORKER_WINDOW: Final = 64  # items of a stream that a worker has not taken yet
WORKER_CHECK_SECONDS: Final = 60.0  # the longest deadline of a check
WORKER_ANSWER_SECONDS: Final = 30.0  # within which a worker reads what it is told, once its buffer is full

assert CONFIG_VALUE_BYTES + QUARANTINE_ENVELOPE_BYTES < WORKER_FRAME_BYTES, "a call of the greatest size fits a frame"
assert QUARANTINE_ENVELOPE_BYTES + 8 * KIB < OPERATION_BYTES, "a captured envelope is one command"
assert QUARANTINE_PAGE_BYTES + QUARANTINE_ENVELOPE_BYTES < FRAME_BYTES, "a page fits a frame"
assert 8 * 12 * MAILLOG_TEXT < MAILLOG_LINE_BYTES and MAILLOG_PAGE_BYTES + MAILLOG_LINE_BYTES < FRAME_BYTES
assert DISK_RESERVE_BYTES < MAILLOG_RESERVE_BYTES, "the mail log never fills the disk for the cluster"
assert LEASE_BELIEF + 0.05 < 1 / (1 + CLOCK_SLEW) + 1e-3, (
    "who holds a lease is told before cluster time can have ended it"
)
