"""The quarantine's tables: what was captured, and for each recipient whether it was released.

Tables
    messages  id -> [envelope, digest, size, reference, reason, lifetime, node, seal]: never changes
    states    id -> [captured, expires, delivered recipients, bytes]
    releases  id + number (2, big endian) -> the fields of `Release` behind the number; absent while it is held
    expiries  expires (8) + id -> ""
    state     "token" -> the last claim's token; "count", "bytes" of all messages
    acts      see `acts`

Commands
    ["capture", id, envelope, digest, size, reference, reason, lifetime ms, node, seal] -> [captured, expires]
    ["claim", id, number, node id, node name, author, ms]                  -> [token, until]
    ["finish", id, number, token, whether it was delivered, detail, author, node name] -> whether this settled it
    ["discard", id, author, node name]                                     -> whether it was there

held -> claimed -> delivered | failed; failed -> claimed; claimed -> claimed anew from `until` on. A token is greater than all
before it. `delivered` is a fact and not a right: who has delivered may say so also when his claim is another's by now.
`failed` is said by the holder only.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, Literal, NamedTuple

from raftcluster import codec, limits, trail
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables
from raftcluster.quarantine import acts
from raftcluster.quarantine.acts import Act, inspect_act
from raftcluster.quarantine.envelope import Envelope
from raftcluster.quarantine.rules import (
    ID_BYTES,
    SEAL_BYTES,
    AlreadyDelivered,
    Claimed,
    ClaimLost,
    Content,
    NoSuchRecipient,
    QuarantineFull,
    UnknownMessage,
    check_bytes,
    check_claim,
    check_text,
)
from raftcluster.trail import ACTS

NAME: Final = "quarantine"
MESSAGES: Final = "messages"
STATES: Final = "states"
RELEASES: Final = "releases"
EXPIRIES: Final = "expiries"
STATE: Final = "state"
SWEEP_ROWS: Final = 1_000  # that one tick removes, or one message

_TOKEN: Final = b"token"
_COUNT: Final = b"count"
_BYTES: Final = b"bytes"
_NUMBER: Final = Struct(">Q")
_RECIPIENT: Final = Struct(">H")

ReleaseState = Literal["held", "claimed", "delivered", "failed"]


class Release(NamedTuple):
    """How far the release to one recipient is. Times are cluster time in milliseconds."""

    number: int
    state: ReleaseState = "held"
    token: int = 0
    """The last claim's; 0 when there was none."""
    node_id: str = ""
    node: str = ""
    """Which node claimed it."""
    author: str = ""
    """Who had it released."""
    since: int = 0
    """When it got into this state."""
    until: int = 0
    """Claimed: from when on somebody else may claim it."""
    claims: int = 0
    """How often it was claimed."""
    deliveries: int = 0
    """How often somebody said that he has delivered it. More than 1: see the room's DESIGN."""
    detail: str = ""
    """What the server said."""
    delivered_by: int = 0
    """The token of the claim under which it was delivered first; 0 while it was not."""


class Message(NamedTuple):
    """What is known of one message. Times are cluster time in milliseconds."""

    content: Content
    seal: bytes
    captured: int
    expires: int
    delivered: int
    """To how many recipients."""

    @property
    def envelope(self) -> Envelope:
        """As it was captured."""
        return Envelope.of(self.content.envelope)


class _Outcome(NamedTuple):
    """Of a release, as it is told."""

    number: Value
    token: Value
    delivered: bool
    detail: str
    author: str
    node: str


class QuarantineMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 2
    tables = (MESSAGES, STATES, RELEASES, EXPIRIES, STATE, ACTS)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        match command:
            case ["capture", *fields] if len(fields) == len(Content._fields) + 1:
                content, seal = Content(*fields[:-1]), fields[-1]
                content.check()
                check_bytes("seal", seal, SEAL_BYTES)
                return _capture(tables, time, content, seal)
            case ["claim", ident, number, node_id, node, author, milliseconds]:
                for what, text in (("node", node_id), ("node", node), ("author", author)):
                    check_text(what, text, limits.NAME_BYTES)
                check_claim(milliseconds)
                message = _message(tables, time, ident)
                return _claim(tables, message, time, number, [node_id, node, author], time + milliseconds)
            case ["finish", ident, number, token, bool(delivered), detail, author, node]:
                check_text("detail", detail, limits.QUARANTINE_REASON_BYTES)
                for what, text in (("author", author), ("node", node)):
                    check_text(what, text, limits.NAME_BYTES)
                outcome = _Outcome(number, token, delivered, detail, author, node)
                return _finish(tables, _message(tables, time, ident), time, outcome)
            case ["discard", ident, author, node]:
                for what, text in (("author", author), ("node", node)):
                    check_text(what, text, limits.NAME_BYTES)
                return _discard(tables, time, ident, author, node)
            case _:
                raise Rejected("malformed or unknown quarantine command", subject=NAME)

    def tick(self, tables: Tables, time: int) -> None:
        """Forget what has expired."""
        rows = 0
        for key, _ in tables.scan(EXPIRIES, stop=_NUMBER.pack(time + 1), limit=SWEEP_ROWS):
            rows += _remove(tables, key[_NUMBER.size :])
            if rows >= SWEEP_ROWS:
                return

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """See `raftcluster.machine.Inspectable`."""
        if table == MESSAGES:
            *fields, seal = codec.unpack(value)
            Content(key, *fields).check()
            check_bytes("seal", seal, SEAL_BYTES)
        elif table == STATES:
            check_bytes("id", key, ID_BYTES)
            if [type(each) for each in codec.unpack(value)] != [int] * 4:
                raise ValueError("the state's fields are of other kinds")
        elif table == RELEASES:
            check_bytes("id and number", key, ID_BYTES + _RECIPIENT.size)
            release = Release(0, *codec.unpack(value))
            kinds = [type(each) for each in release]
            if kinds != [int, str, int, str, str, str, int, int, int, int, str, int] or release.state == "held":
                raise ValueError("the release's fields are of other kinds")
        elif table == EXPIRIES:
            check_bytes("end and id", key, _NUMBER.size + ID_BYTES)
            if value:
                raise ValueError("the row has a value")
        elif table == ACTS:
            inspect_act(key, value)
        elif key not in (_TOKEN, _COUNT, _BYTES, trail.NEWEST) or len(value) != _NUMBER.size:
            raise ValueError("there is no such number")


def read_message(tables: ReadTables, time: int, ident: bytes) -> Message:
    """The message of this id. Raises `UnknownMessage`."""
    return _message(tables, time, ident)


def read_release(tables: ReadTables, message: Message, number: Value) -> Release:
    """How far it is with the recipient of this number. Raises `NoSuchRecipient`."""
    ident, most = message.content.id, len(message.content.envelope[-1])
    if type(number) is not int or not 1 <= number <= most:
        raise NoSuchRecipient(
            f"the message has recipients 1 to {most}, not {number!a:.40}",
            subject=ident.hex(),
            remedy="see `raftcluster quarantine show`",
        )
    row = tables.get(RELEASES, ident + _RECIPIENT.pack(number))
    return Release(number) if row is None else Release(number, *codec.unpack(row))


def read_releases(tables: ReadTables, message: Message) -> list[Release]:
    """How far it is with each recipient, in their order."""
    ident = message.content.id
    rows = tables.scan(RELEASES, ident, ident + b"\xff" * (_RECIPIENT.size + 1), limit=limits.QUARANTINE_RECIPIENTS)
    changed = {number: Release(number, *codec.unpack(row)) for key, row in rows for number in [_number(key)]}
    return [changed.get(number, Release(number)) for number in range(1, len(message.content.envelope[-1]) + 1)]


def read_page(tables: ReadTables, time: int, after: bytes, limit: int, most: int) -> tuple[list[Message], bytes]:
    """Up to `limit` messages, of at most `most` bytes unless it is one, with ids after `after`; and the last id that was
    looked at, empty at the end."""
    found: list[Message] = []
    size = 0
    for ident, row in tables.scan(STATES, after + b"\0" if after else b"", limit=limit):
        captured, expires, delivered, length = codec.unpack(row)
        if found and size + length > most:
            return found, after
        after, size = ident, size + length
        if time < expires:
            found.append(_made(tables, ident, [captured, expires, delivered]))
    return found, after if tables.scan(STATES, after + b"\0", limit=1) else b""


def check_claimable(message: Message, release: Release, time: int) -> None:
    """Raises `AlreadyDelivered`, and `Claimed` while another's claim lasts."""
    ident, number = message.content.id, release.number
    if release.state == "delivered":
        raise AlreadyDelivered(
            f"recipient {number} has it: released by {release.author or 'somebody'} at {release.node}",
            subject=ident.hex(),
            remedy="nothing is left to be done",
        )
    if release.state == "claimed" and time < release.until:
        raise Claimed(
            f"recipient {number} is claimed by {release.node} until {release.until} ms of cluster time, "
            f"for {(release.until - time + 999) // 1000} s yet",
            subject=ident.hex(),
            remedy="wait for its outcome",
        )


def read_usage(tables: ReadTables) -> tuple[int, int]:
    """Messages, and the bytes of what is kept of them."""
    return _get(tables, _COUNT), _get(tables, _BYTES)


def _capture(tables: Tables, time: int, content: Content, seal: bytes) -> list[Value]:
    ident, packed = content.id, codec.pack([*content[1:], seal])
    row = tables.get(STATES, ident)
    if row is not None:
        captured, expires, _, _ = codec.unpack(row)
        if tables.get(MESSAGES, ident) != packed or time >= expires:
            raise Rejected(f"{ident.hex()} is another message", subject=ident.hex(), remedy="ids are made by capture")
        return [captured, expires]
    count, size = read_usage(tables)
    if count >= limits.QUARANTINE_MESSAGES or size + len(packed) > limits.QUARANTINE_BYTES:
        raise QuarantineFull(
            f"the quarantine is full: {count} messages, {size} bytes of envelopes",
            subject=NAME,
            remedy="discard some, or keep them for a shorter time",
        )
    expires = time + content.lifetime
    tables.put(MESSAGES, ident, packed)
    tables.put(STATES, ident, codec.pack([time, expires, 0, len(packed)]))
    tables.put(EXPIRIES, _NUMBER.pack(expires) + ident, b"")
    _set(tables, _COUNT, count + 1)
    _set(tables, _BYTES, size + len(packed))
    return [time, expires]


def _claim(tables: Tables, message: Message, time: int, number: Value, holder: list[str], until: int) -> list[Value]:
    ident, release = message.content.id, read_release(tables, message, number)
    check_claimable(message, release, time)
    token = _get(tables, _TOKEN) + 1
    _set(tables, _TOKEN, token)
    node_id, node, author = holder
    claimed = Release(
        number, "claimed", token, node_id, node, author, time, until, release.claims + 1, release.deliveries
    )
    _put(tables, ident, claimed)
    _note(tables, message, claimed, "claimed", time, _Outcome(number, token, False, "", author, node))
    if until > message.expires:  # the record outlives every claim on it
        tables.delete(EXPIRIES, _NUMBER.pack(message.expires) + ident)
        tables.put(EXPIRIES, _NUMBER.pack(until) + ident, b"")
        _put_state(tables, message._replace(expires=until))
    return [token, until]


def _finish(tables: Tables, message: Message, time: int, outcome: _Outcome) -> bool:
    number, token, delivered, detail, *_ = outcome
    release = read_release(tables, message, number)
    if type(token) is not int or not 0 < token <= release.token:
        raise ClaimLost(f"{token!a:.40} is no claim on recipient {number}", subject=message.content.id.hex())
    mine = release.state == "claimed" and release.token == token
    if not delivered:
        if not mine:
            raise ClaimLost(
                f"recipient {number} is {release.state} under a later claim, of {release.node}",
                subject=message.content.id.hex(),
                remedy="its outcome is the one that counts",
            )
        failed = release._replace(state="failed", since=time, until=0, detail=detail)
        _put(tables, message.content.id, failed)
        _note(tables, message, failed, "failed", time, outcome)
        return True
    if release.state == "delivered":
        if release.delivered_by == token:  # said twice
            return True
        again = release._replace(deliveries=release.deliveries + 1)
        _put(tables, message.content.id, again)
        _note(tables, message, again, "delivered", time, outcome)
        return False
    done = release._replace(
        state="delivered", since=time, until=0, detail=detail, delivered_by=token, deliveries=release.deliveries + 1
    )
    _put(tables, message.content.id, done)
    _note(tables, message, done, "delivered", time, outcome)
    _put_state(tables, message._replace(delivered=message.delivered + 1))
    return True


def _discard(tables: Tables, time: int, ident: Value, author: str, node: str) -> bool:
    try:
        message = _message(tables, time, ident)
    except UnknownMessage:
        return False
    for release in read_releases(tables, message):
        if release.state == "claimed" and time < release.until:
            raise Claimed(
                f"recipient {release.number} is claimed by {release.node}", subject=ident.hex(), remedy="wait a while"
            )
    _remove(tables, ident)
    acts.record(tables, Act(0, "discarded", ident, 0, b"", author, node, time, message.delivered, ""))
    return True


def _note(tables: Tables, message: Message, release: Release, what: str, time: int, by: _Outcome) -> None:
    """`by` tells who did it: under an older claim it is not who is in the release."""
    about = (message.content.id, release.number, message.envelope.recipients[release.number - 1].address)
    acts.record(tables, Act(0, what, *about, by.author, by.node, time, release.deliveries, by.detail))


def _remove(tables: Tables, ident: bytes) -> int:
    """How many rows it had."""
    row = tables.get(STATES, ident)
    assert row is not None, "a message lives as long as its expiry"
    _, expires, _, size = codec.unpack(row)
    releases = tables.scan(RELEASES, ident, ident + b"\xff" * (_RECIPIENT.size + 1), limit=limits.QUARANTINE_RECIPIENTS)
    for key, _ in releases:
        tables.delete(RELEASES, key)
    tables.delete(MESSAGES, ident)
    tables.delete(STATES, ident)
    tables.delete(EXPIRIES, _NUMBER.pack(expires) + ident)
    count, total = read_usage(tables)
    _set(tables, _COUNT, count - 1)
    _set(tables, _BYTES, total - size)
    return len(releases) + 3


def _message(tables: ReadTables, time: int, ident: Value) -> Message:
    check_bytes("id", ident, ID_BYTES)
    row = tables.get(STATES, ident)
    if row is not None:
        *state, _ = codec.unpack(row)
        if time < state[1]:
            return _made(tables, ident, state)
    raise UnknownMessage(
        f"the quarantine holds no message {ident.hex()}",
        subject=ident.hex(),
        remedy="it may have expired: see `raftcluster quarantine list`",
    )


def _made(tables: ReadTables, ident: bytes, state: list[int]) -> Message:
    row = tables.get(MESSAGES, ident)
    assert row is not None, "what has a state has content"
    *fields, seal = codec.unpack(row)
    return Message(Content(ident, *fields), seal, *state)


def _put(tables: Tables, ident: bytes, release: Release) -> None:
    tables.put(RELEASES, ident + _RECIPIENT.pack(release.number), codec.pack(list(release[1:])))


def _put_state(tables: Tables, message: Message) -> None:
    row = tables.get(STATES, message.content.id)
    assert row is not None, "it was read a moment ago"
    size = codec.unpack(row)[3]
    tables.put(STATES, message.content.id, codec.pack([message.captured, message.expires, message.delivered, size]))


def _number(key: bytes) -> int:
    return int(_RECIPIENT.unpack(key[ID_BYTES:])[0])


def _get(tables: ReadTables, key: bytes) -> int:
    row = tables.get(STATE, key)
    return 0 if row is None else int(_NUMBER.unpack(row)[0])


def _set(tables: Tables, key: bytes, number: int) -> None:
    tables.put(STATE, key, _NUMBER.pack(number))
