"""The cluster's notifications: one stream, in the order of the log, of bounded length.

Tables
    items     position (8, big endian) -> [severity, text, key, payload, node, time, expires, repeats, acknowledged]
              acknowledged is None or [author, node, time]
    keys      dedupe key -> position of the item that is open under it
    expiries  expires (8) + position (8) -> ""
    cursors   consumer -> position up to which it has handled all
    state     "last", "dropped", "count", "consumers" -> a number (8)

Commands
    ["publish", severity, text, key, payload, ttl ms, node]  -> [position, whether it is new]
    ["acknowledge", position, author, node]                  -> [whether this was the first, author, node, time]
    ["advance", consumer, position]                          -> position; a cursor never goes back
    ["seek", consumer, position]                             -> position; wherever it was
    ["forget", consumer]                                     -> whether there was one

A key that is not empty is open from its publication until it is acknowledged or has expired; whoever publishes under an open
key adds to its `repeats` and gets its position. Beyond `limits.NOTIFICATIONS` the oldest item is dropped; "dropped" is the
greatest position that went in this way, so that who had not read so far is told.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from raftcluster import codec, limits
from raftcluster.codec import Value
from raftcluster.errors import Rejected
from raftcluster.machine import ReadTables, Tables
from raftcluster.notifications.rules import check_consumer, check_payload, check_severity, check_text, check_ttl

NAME: Final = "notifications"
ITEMS: Final = "items"
KEYS: Final = "keys"
EXPIRIES: Final = "expiries"
CURSORS: Final = "cursors"
STATE: Final = "state"
SWEEP: Final = 100  # items that one tick removes

_LAST: Final = b"last"
_DROPPED: Final = b"dropped"
_COUNT: Final = b"count"
_CONSUMERS: Final = b"consumers"
_NUMBER: Final = Struct(">Q")
_EXPIRY: Final = Struct(">QQ")


class Notification(NamedTuple):
    """One of them. Times are cluster time in milliseconds."""

    position: int
    """Its place in the stream; later ones have greater ones."""
    severity: str
    text: str
    key: str
    """The dedupe key; may be empty."""
    payload: Value
    node: str
    """Where it was published: the node's name."""
    time: int
    expires: int
    repeats: int
    """How often it was published again while it was open."""
    acknowledged: list[Value] | None
    """By whom, on which node, when."""


class Page(NamedTuple):
    """A part of the stream."""

    items: list[Notification]
    reached: int
    """Nothing up to this position is missing."""


class NotificationsMachine:
    """A `raftcluster.machine.StateMachine`."""

    name = NAME
    schema = 1
    tables = (ITEMS, KEYS, EXPIRIES, CURSORS, STATE)

    def apply(self, command: Value, tables: Tables, time: int) -> Value:
        """See the file's head."""
        match command:
            case ["publish", severity, text, key, payload, ttl, node]:
                check_severity(severity)
                check_text("text", text, limits.NOTIFICATION_TEXT_BYTES, empty=False)
                check_text("key", key, limits.NOTIFICATION_KEY_BYTES)
                check_text("node", node, limits.NAME_BYTES)
                check_payload(payload)
                check_ttl(ttl)
                return _publish(tables, Notification(0, severity, text, key, payload, node, time, time + ttl, 0, None))
            case ["acknowledge", position, author, node]:
                check_text("author", author, limits.NAME_BYTES)
                check_text("node", node, limits.NAME_BYTES)
                return _acknowledge(tables, time, _position(tables, position), author, node)
            case ["advance" | "seek" as how, consumer, position]:
                check_consumer(consumer)
                return _move(tables, consumer.encode(), _position(tables, position), back=how == "seek")
            case ["forget", consumer]:
                check_consumer(consumer)
                return _forget(tables, consumer.encode())
            case _:
                raise Rejected("malformed or unknown notification command", subject=NAME)

    def tick(self, tables: Tables, time: int) -> None:
        """Remove what has expired."""
        for key, _ in tables.scan(EXPIRIES, stop=_NUMBER.pack(time + 1), limit=SWEEP):
            _remove(tables, _EXPIRY.unpack(key)[1])

    def inspect(self, table: str, key: bytes, value: bytes) -> None:
        """See `raftcluster.machine.Inspectable`."""
        if table == ITEMS:
            item = Notification(_NUMBER.unpack(key)[0], *codec.unpack(value))
            check_severity(item.severity)
            check_text("key", item.key, limits.NOTIFICATION_KEY_BYTES)
            check_payload(item.payload)
            if not all(type(each) is int for each in (item.time, item.expires, item.repeats)):
                raise ValueError("the notification's fields are of other kinds")
        elif table == EXPIRIES:
            _EXPIRY.unpack(key)
            if value:
                raise ValueError("the row has a value")
        else:
            _NUMBER.unpack(value)
            check_text("key", key.decode(), limits.NOTIFICATION_KEY_BYTES, empty=False)
            if table == STATE and key not in (_LAST, _DROPPED, _COUNT, _CONSUMERS):
                raise ValueError("there is no such number")


def read_last(tables: ReadTables) -> int:
    """The newest position; 0 when there was none."""
    return _get(tables, _LAST)


def read_cursor(tables: ReadTables, consumer: str) -> int | None:
    """Up to where `consumer` has handled all; None when it is not known."""
    row = tables.get(CURSORS, consumer.encode())
    return None if row is None else int(_NUMBER.unpack(row)[0])


def read_page(tables: ReadTables, time: int, after: int, limit: int) -> Page | None:
    """Up to `limit` that live at `time` and come after position `after`; None when some after it were dropped."""
    if after < _get(tables, _DROPPED):
        return None
    rows = tables.scan(ITEMS, _NUMBER.pack(after + 1), limit=limit)
    items = [Notification(_NUMBER.unpack(key)[0], *codec.unpack(row)) for key, row in rows]
    reached = items[-1].position if len(items) == limit else max(after, read_last(tables))
    return Page([each for each in items if time < each.expires], reached)


def read_dropped(tables: ReadTables) -> int:
    """The greatest position that was dropped before its time."""
    return _get(tables, _DROPPED)


def _publish(tables: Tables, item: Notification) -> list[Value]:
    key = item.key.encode()
    if key and (row := tables.get(KEYS, key)) is not None:
        (position,) = _NUMBER.unpack(row)
        known = _item(tables, position)
        if known is not None and item.time < known.expires:
            _put(tables, known._replace(repeats=known.repeats + 1))
            return [position, False]
    item = item._replace(position=read_last(tables) + 1)
    _set(tables, _LAST, item.position)
    _put(tables, item)
    tables.put(EXPIRIES, _EXPIRY.pack(item.expires, item.position), b"")
    if key:
        tables.put(KEYS, key, _NUMBER.pack(item.position))
    count = _get(tables, _COUNT) + 1
    _set(tables, _COUNT, count)
    if count > limits.NOTIFICATIONS:
        ((oldest, _),) = tables.scan(ITEMS, limit=1)
        (position,) = _NUMBER.unpack(oldest)
        _remove(tables, position)
        _set(tables, _DROPPED, position)
    return [item.position, True]


def _acknowledge(tables: Tables, time: int, position: int, author: str, node: str) -> list[Value]:
    item = _item(tables, position)
    if item is None or time >= item.expires:
        raise Rejected(f"there is no notification {position}", subject=str(position), remedy="it may have expired")
    if item.acknowledged is not None:
        return [False, *item.acknowledged]
    _put(tables, item._replace(acknowledged=[author, node, time]))
    _close_key(tables, item)
    return [True, author, node, time]


def _move(tables: Tables, consumer: bytes, position: int, *, back: bool) -> int:
    row = tables.get(CURSORS, consumer)
    if row is None:
        count = _get(tables, _CONSUMERS)
        if count >= limits.NOTIFICATION_CONSUMERS:
            raise Rejected(f"there are {count} consumers already", subject="consumer", remedy="forget some")
        _set(tables, _CONSUMERS, count + 1)
    elif not back:
        position = max(position, int(_NUMBER.unpack(row)[0]))
    tables.put(CURSORS, consumer, _NUMBER.pack(position))
    return position


def _forget(tables: Tables, consumer: bytes) -> bool:
    if tables.get(CURSORS, consumer) is None:
        return False
    tables.delete(CURSORS, consumer)
    _set(tables, _CONSUMERS, _get(tables, _CONSUMERS) - 1)
    return True


def _position(tables: ReadTables, position: Value) -> int:
    if type(position) is not int or not 0 <= position <= read_last(tables):
        raise Rejected(f"{position!a:.40} is no position in the stream", subject="position")
    return position


def _item(tables: ReadTables, position: int) -> Notification | None:
    row = tables.get(ITEMS, _NUMBER.pack(position))
    return None if row is None else Notification(position, *codec.unpack(row))


def _put(tables: Tables, item: Notification) -> None:
    tables.put(ITEMS, _NUMBER.pack(item.position), codec.pack(list(item[1:])))


def _remove(tables: Tables, position: int) -> None:
    item = _item(tables, position)
    assert item is not None, "an item lives as long as its expiry"
    tables.delete(ITEMS, _NUMBER.pack(position))
    tables.delete(EXPIRIES, _EXPIRY.pack(item.expires, position))
    _close_key(tables, item)
    _set(tables, _COUNT, _get(tables, _COUNT) - 1)


def _close_key(tables: Tables, item: Notification) -> None:
    key = item.key.encode()
    if key and tables.get(KEYS, key) == _NUMBER.pack(item.position):
        tables.delete(KEYS, key)


def _get(tables: ReadTables, key: bytes) -> int:
    row = tables.get(STATE, key)
    return 0 if row is None else int(_NUMBER.unpack(row)[0])


def _set(tables: Tables, key: bytes, number: int) -> None:
    tables.put(STATE, key, _NUMBER.pack(number))
