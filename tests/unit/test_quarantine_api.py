"""Capturing and releasing as the product does it: sealed, once, to a recipient of the envelope."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import io
import logging
import threading
from collections.abc import Callable
from typing import Any, BinaryIO

import pytest

from raftcluster import codec, limits
from raftcluster.errors import OutcomeUnknown, Rejected, Unavailable
from raftcluster.quarantine.api import Quarantine
from raftcluster.quarantine.envelope import Envelope, Recipient
from raftcluster.quarantine.machine import MESSAGES, QuarantineMachine
from raftcluster.quarantine.rules import (
    AlreadyDelivered,
    Claimed,
    DeliveryFailed,
    NoSuchRecipient,
    QuarantineFull,
    Tampered,
    UnknownMessage,
)
from tests.local_host import LocalHost

KEY = b"a key that is nowhere but here.."
MESSAGE = b"To: other@example.com\r\nResent-To: x@example.com\r\n\r\nhello\r\n"


class Product:
    """A mail product on one host: it keeps messages, and hands released ones to `deliver`."""

    def __init__(self, host: LocalHost, key: bytes | list[bytes] = KEY) -> None:
        self.store = {"ref/1": MESSAGE}
        self.delivered: list[tuple[bytes, bytes]] = []
        self.on_delivery: Callable[[], str] = lambda: "250 taken"
        self.quarantine = Quarantine(host)
        self.quarantine.attach(key, self.open, self.deliver)

    def open(self, reference: str) -> BinaryIO:
        if reference not in self.store:
            raise FileNotFoundError(reference)
        return io.BytesIO(self.store[reference])

    def deliver(self, envelope: Envelope, to: Recipient, message: bytes, left: Callable[[], float]) -> str:
        assert 0 < left() <= limits.QUARANTINE_CLAIM_SECONDS * limits.LEASE_BELIEF
        said = self.on_delivery()
        self.delivered.append((to.address, message))
        return said

    def capture(self, **more: Any) -> str:
        return self.quarantine.capture(envelope(), **{**about(), **more})


def envelope() -> Envelope:
    made = Envelope("spoofed@example.net")
    made.rcpt("box@example.test", orcpt="rfc822;alias@example.test")
    made.rcpt("second@example.test")
    return made


def about() -> dict[str, Any]:
    return {"digest": hashlib.sha256(MESSAGE).digest(), "size": len(MESSAGE), "reference": "ref/1", "reason": "virus"}


@pytest.fixture
def host() -> LocalHost:
    return LocalHost([QuarantineMachine()])


@pytest.fixture
def product(host: LocalHost) -> Product:
    return Product(host)


def test_captured_on_one_node_released_from_another(host: LocalHost, product: Product) -> None:
    other = Product(host)
    ident = product.capture()
    (row,) = other.quarantine.list().messages
    assert (row.id, row.sender, row.first, row.recipients, row.delivered) == (
        ident,
        b"spoofed@example.net",
        b"box@example.test",
        2,
        0,
    )
    done = other.quarantine.release(ident, 1, author="root")
    assert (done.state, done.address, done.author, done.detail) == (
        "delivered",
        b"box@example.test",
        "root",
        "250 taken",
    )
    assert other.delivered == [(b"box@example.test", MESSAGE)] and product.delivered == []
    with pytest.raises(AlreadyDelivered, match="released by root"):
        product.quarantine.release(ident, 1)
    details = product.quarantine.show(ident)
    assert [each.state for each in details.recipients] == ["delivered", "held"] and details.intact
    assert details.recipients[0].orcpt == "rfc822;alias@example.test"
    assert product.delivered == []


def test_two_admins_at_once_deliver_once(host: LocalHost, product: Product) -> None:
    other = Product(host)
    ident = product.capture()
    at_it, go_on = threading.Event(), threading.Event()

    def slowly() -> str:
        at_it.set()
        assert go_on.wait(60)
        return "250 taken"

    product.on_delivery = slowly
    first = threading.Thread(target=product.quarantine.release, args=(ident, 1))
    first.start()
    assert at_it.wait(60)
    with pytest.raises(Claimed, match=r"until \d+ ms of cluster time, for 120 s yet"):
        other.quarantine.release(ident, 1)
    assert other.quarantine.release(ident, 2).state == "delivered", "the other recipient is nobody's yet"
    go_on.set()
    first.join(60)
    assert [to for to, _ in product.delivered + other.delivered] == [b"box@example.test", b"second@example.test"]


def test_nothing_but_a_number_says_who_gets_it() -> None:
    """R15: by type. No parameter that could carry an address or a header."""
    for name in ("release", "arelease"):
        parameters = inspect.signature(getattr(Quarantine, name)).parameters
        assert list(parameters) == ["self", "id", "number", "author", "claim", "deadline"]


def test_what_failed_may_be_released_again(product: Product) -> None:
    ident = product.capture()

    def fail() -> str:
        raise DeliveryFailed("the server has not taken it: 450 later", subject="smtp")

    product.on_delivery = fail
    with pytest.raises(DeliveryFailed, match="450 later"):
        product.quarantine.release(ident, 1)
    failed = product.quarantine.show(ident).recipients[0]
    assert (failed.state, failed.detail) == ("failed", "the server has not taken it: 450 later")
    product.on_delivery = lambda: "250 now"
    assert product.quarantine.release(ident, 1).claims == 2


@pytest.mark.parametrize("field", range(8))
def test_an_altered_record_is_refused(host: LocalHost, product: Product, field: int) -> None:
    ident = product.capture()
    rows = host.tables["quarantine"].rows[MESSAGES]
    ((key, row),) = rows.items()
    kept = codec.unpack(row)
    if isinstance(kept[field], bytes):
        kept[field] = kept[field][:-1] + bytes([kept[field][-1] ^ 1])
    elif isinstance(kept[field], list):
        kept[field][4][0][0] = b"evil@example.test"
    else:
        kept[field] = kept[field] + 1 if isinstance(kept[field], int) else kept[field] + "x"
    rows[key] = codec.pack(kept)
    with pytest.raises(Tampered, match="seal does not fit"):
        product.quarantine.release(ident, 1)
    assert product.quarantine.show(ident).intact is False
    assert product.delivered == []
    assert product.quarantine.show(ident).recipients[0].state == "held", "nothing was claimed"


def test_a_record_under_anothers_id_is_refused(host: LocalHost, product: Product) -> None:
    ids = [product.capture(reason=reason) for reason in ("one", "two")]
    rows = host.tables["quarantine"].rows[MESSAGES]
    first, second = (bytes.fromhex(ident) for ident in ids)
    rows[first], rows[second] = rows[second], rows[first]
    for ident in ids:
        with pytest.raises(Tampered):
            product.quarantine.release(ident, 1)


@pytest.mark.parametrize("message", [MESSAGE + b"x", MESSAGE[:-1], MESSAGE.replace(b"hello", b"hullo"), b""])
def test_an_altered_message_is_refused(product: Product, message: bytes) -> None:
    ident = product.capture()
    product.store["ref/1"] = message
    with pytest.raises(Tampered, match="message is not what was captured"):
        product.quarantine.release(ident, 1)
    assert product.delivered == []


def test_keys_are_replaced_one_after_the_other(host: LocalHost, product: Product) -> None:
    ident = product.capture()
    new = b"another key, of the same length."
    assert Product(host, [new, KEY]).quarantine.show(ident).intact is True
    stranger = Product(host, new)
    with pytest.raises(Tampered):
        stranger.quarantine.release(ident, 1)
    assert Product(host, [new, KEY]).quarantine.release(ident, 1).state == "delivered"
    for keys in (b"short", [], [new, b"short"], "text" * 10):
        with pytest.raises(Rejected, match="at least 32 bytes") as caught:
            Product(host, keys)  # type: ignore[arg-type]
        assert "short" not in str(caught.value)


def test_the_key_is_neither_in_the_log_nor_in_the_tables_nor_in_logs(
    host: LocalHost, product: Product, caplog: pytest.LogCaptureFixture
) -> None:
    commands: list[Any] = []
    propose = host.propose

    def listening(machine: str, command: Any, **more: Any) -> Any:
        commands.append(command)
        return propose(machine, command, **more)

    host.propose = listening  # type: ignore[method-assign]
    with caplog.at_level(logging.DEBUG):
        product.quarantine.release(product.capture(), 1)
    assert len(commands) == 3
    assert KEY not in codec.pack(commands) and KEY not in host.tables["quarantine"].image()
    assert KEY.decode() not in caplog.text


def test_what_names_nothing_is_said_by_name(product: Product) -> None:
    ident = product.capture()
    with pytest.raises(UnknownMessage, match="it may have expired"):
        product.quarantine.release("00" * 16, 1)
    for number in (0, 3, -1):
        with pytest.raises(NoSuchRecipient, match="recipients 1 to 2"):
            product.quarantine.release(ident, number)
    for wrong in ("", "xyz", ident + "00", None):
        with pytest.raises(Rejected, match="no message's id"):
            product.quarantine.show(wrong)  # type: ignore[arg-type]
    with pytest.raises(Rejected, match="a claim lasts"):
        product.quarantine.release(ident, 1, claim=0.0)
    product.store.clear()
    with pytest.raises(DeliveryFailed, match="cannot read the message"):
        product.quarantine.release(ident, 1)
    assert product.quarantine.show(ident).recipients[0].claims == 0


def test_too_large_is_refused_before_anything_is_sent(host: LocalHost, product: Product) -> None:
    for wrong in ({"size": limits.QUARANTINE_MESSAGE_BYTES + 1}, {"reference": "x" * 2_000}, {"lifetime": 1e300}):
        with pytest.raises(Rejected):
            product.capture(**wrong)
    crowd = Envelope("a@example.net")
    for number in range(limits.QUARANTINE_RECIPIENTS):
        crowd.rcpt(f"{number:0800}@example.org")
    with pytest.raises(Rejected, match=r"an envelope of \d+ bytes, at most"):
        product.quarantine.capture(crowd, **about())
    assert host.proposals == 0


def test_without_a_key_or_a_deliverer(host: LocalHost) -> None:
    bare = Quarantine(host)
    with pytest.raises(Rejected, match="no key"):
        bare.capture(envelope(), **about())
    bare.attach(KEY)
    ident = bare.capture(envelope(), **about())
    assert Quarantine(host).show(ident).intact is None
    with pytest.raises(Rejected, match="reads or delivers"):
        bare.release(ident, 1)


def test_capture_repeated_under_its_id_is_one_and_full_refuses(
    host: LocalHost, product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    ident = product.quarantine.new_id()
    assert product.capture(id=ident) == product.capture(id=ident) == ident
    with pytest.raises(Rejected, match="another message"):
        product.capture(id=ident, reason="other")
    assert product.quarantine.usage()["messages"] == 1
    monkeypatch.setattr(limits, "QUARANTINE_MESSAGES", 1)
    with pytest.raises(QuarantineFull):
        product.capture()
    assert product.quarantine.discard(ident) and not product.quarantine.discard(ident)
    assert product.capture()


def test_a_claim_that_nobody_heard_of_delivers_nothing(host: LocalHost, product: Product) -> None:
    ident = product.capture()
    propose = host.propose

    def lost(machine: str, command: Any, **more: Any) -> Any:
        propose(machine, command, **more)
        raise OutcomeUnknown("no result came in time", subject="cluster")

    host.propose = lost  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown, match="nothing was delivered, but it may be claimed"):
        product.quarantine.release(ident, 1, claim=1.0)
    host.propose = propose  # type: ignore[method-assign]
    assert product.delivered == []
    with pytest.raises(Claimed):
        product.quarantine.release(ident, 1)
    host.now += 1_000
    assert product.quarantine.release(ident, 1).state == "delivered"


def test_an_outcome_is_told_until_the_cluster_hears_it(host: LocalHost, product: Product) -> None:
    ident = product.capture()

    def no_quorum() -> str:
        host.failure = Unavailable("no leader")
        threading.Timer(0.5, lambda: setattr(host, "failure", None)).start()
        return "250 taken"

    product.on_delivery = no_quorum
    assert product.quarantine.release(ident, 1).state == "delivered"


def test_an_outcome_that_never_gets_through_is_said(host: LocalHost, product: Product) -> None:
    ident = product.capture()

    def no_quorum() -> str:
        host.failure = Unavailable("no leader")
        product.quarantine.close()
        return "250 taken"

    product.on_delivery = no_quorum
    with pytest.raises(OutcomeUnknown, match="it was delivered, but the cluster does not know it"):
        product.quarantine.release(ident, 1)
    host.failure = None
    assert product.quarantine.show(ident).recipients[0].state == "claimed"


def test_from_asyncio(product: Product) -> None:
    async def work() -> None:
        ident = await product.quarantine.acapture(envelope(), **about())
        assert [each.id for each in (await product.quarantine.alist()).messages] == [ident]
        assert (await product.quarantine.arelease(ident, 2)).state == "delivered"
        assert (await product.quarantine.ashow(ident)).recipients[1].state == "delivered"
        with pytest.raises(Rejected, match="another message"):
            await product.quarantine.acapture(envelope(), **{**about(), "reason": "x"}, id=ident)

    asyncio.run(work())


def test_lists_go_on_where_they_were(product: Product) -> None:
    ids = [product.capture(reason=str(number)) for number in range(7)]
    found, after = list[str](), ""
    while True:
        page = product.quarantine.list(after=after, limit=3)
        found += [each.id for each in page.messages]
        if not (after := page.next):
            break
    assert sorted(found) == sorted(ids) and len(found) == 7
