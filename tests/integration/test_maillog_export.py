"""The exporter over real sockets: what arrives, what comes twice, what is lost, and that the numbers show all of it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from raftcluster.config.local import Local
from raftcluster.errors import Rejected
from raftcluster.greylist.request import Mail
from raftcluster.greylist.verdict import Verdict
from raftcluster.maillog import exporter, files, target, writer
from raftcluster.maillog.api import MailLog
from raftcluster.transport.outbound import Outbound
from tests.helpers import eventually, free_ports
from tests.local_host import MemoryRows
from tests.receivers import DatagramReceiver, StreamReceiver

FACTS = {"name": "mx1.example.org", "node_id": "n1", "cluster": "mail", "cluster_id": "c1"}
MAIL = Mail("192.0.2.7", None, "a@example.net", "b@example.org", "1", False, False, "mx")
VERDICT = Verdict("defer", "new", 300, 0, None, False, "wait")

Receiver = StreamReceiver | DatagramReceiver


class Sender:
    """A node's mail log and its settings."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, MemoryRows()
        self.open()

    def open(self) -> None:
        self.local = Local(self.rows)
        self.log = MailLog(self.folder / "maillog", self.local, FACTS)

    def set(self, **settings: Any) -> None:
        for name, value in settings.items():
            self.local.set(f"local/maillog/{name}", value)

    def decide(self, count: int) -> None:
        for _ in range(count):
            self.log.decided(MAIL, VERDICT, "policy")
        assert self.log.flush()

    def state(self) -> dict[str, Any]:
        found = self.log.status()["export"]
        assert isinstance(found, dict)
        return found

    def connected(self) -> None:
        eventually(lambda: self.state()["state"] == "connected", what="the export is connected")


@pytest.fixture
def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sender]:
    monkeypatch.setattr(exporter, "RETRY_SECONDS", (0.02, 0.1))
    monkeypatch.setattr(exporter, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(writer, "GATHER_SECONDS", 0.005)
    monkeypatch.setattr(target, "PROBE_SECONDS", 0.05)
    made = Sender(tmp_path)
    yield made
    made.log.close()
    assert [each.name for each in threading.enumerate() if each.name == "raftcluster-export"] == []


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Pem:
    """Files for TLS with the receiver `localhost`, and its context, which demands a certificate."""

    def __init__(self, authority: trustme.CA, folder: Path) -> None:
        self.ca, self.node = str(folder / "ca.pem"), str(folder / "node.pem")
        authority.cert_pem.write_to_path(self.ca)
        authority.issue_cert("mx1.example.org").private_key_and_cert_chain_pem.write_to_path(self.node)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self.context)
        authority.configure_trust(self.context)
        self.context.verify_mode = ssl.CERT_REQUIRED


@pytest.fixture
def pem(authority: trustme.CA, tmp_path: Path) -> Pem:
    return Pem(authority, tmp_path)


@pytest.fixture(params=["udp", "tcp", "tls"])
def transport(request: pytest.FixtureRequest, sender: Sender, pem: Pem) -> Iterator[Receiver]:
    """A receiver that does not run yet, to which the sender will export."""
    port, kind = free_ports(1)[0], str(request.param)
    receiver: Receiver = DatagramReceiver(port) if kind == "udp" else StreamReceiver(port)
    if kind == "tls":
        receiver = StreamReceiver(port, pem.context)
        sender.set(export_ca=pem.ca, export_certificate=pem.node)
    sender.set(export=f"{kind}://localhost:{port}" if kind == "tls" else f"{kind}://127.0.0.1:{port}")
    yield receiver
    receiver.stop()


def test_every_entry_arrives_once_and_in_order(sender: Sender, transport: Receiver) -> None:
    transport.start()
    sender.decide(2_000)
    eventually(lambda: len(transport.messages) >= 2_000)
    assert transport.sequences() == list(range(1, 2_001))
    assert b"mx1.example.org raftcluster " in transport.messages[0] and b"|greylist-rejected|" in transport.messages[0]
    state = sender.state()
    assert (state["state"], state["sent"], state["behind"], state["lost"]) == ("connected", 2_000, 0, 0)


def test_a_receiver_that_was_away_gets_what_it_has_missed(sender: Sender, transport: Receiver) -> None:
    sender.decide(500)
    eventually(lambda: sender.state()["state"] == "waiting")
    assert "efused" in sender.state()["error"] and sender.state()["behind"] == 500
    transport.start()
    eventually(lambda: set(transport.sequences()) == set(range(1, 501)))
    transport.stop()
    sender.decide(500)
    eventually(lambda: sender.state()["state"] == "waiting")
    transport.start()
    eventually(lambda: set(transport.sequences()) == set(range(1, 1_001)))
    assert sender.state()["lost"] == 0
    eventually(lambda: sender.state()["error"] == "")


def test_a_node_that_stops_and_starts_again_sends_nothing_twice(sender: Sender, transport: Receiver) -> None:
    transport.start()
    sender.decide(300)
    eventually(lambda: len(transport.messages) >= 300)
    sender.log.close()
    sender.open()
    sender.decide(300)
    eventually(lambda: len(transport.messages) >= 600)
    assert transport.sequences() == list(range(1, 601))


def test_beyond_the_bound_of_the_spool_the_gap_is_visible(sender: Sender, transport: Receiver) -> None:
    sender.set(file_bytes=64 * 1024, keep_bytes=256 * 1024)
    for _ in range(20):
        sender.decide(250)
    first = sender.log.status()["first"]
    assert isinstance(first, int) and first > 1_000, "the oldest are gone"
    transport.start()
    eventually(lambda: 5_000 in transport.sequences())
    assert transport.sequences() == list(range(first - 1, 5_001)), "what is kept, and who tells of the rest"
    told = transport.messages[0].decode()
    assert "|log-dropped|" in told and f"cn2={first - 1} cn2Label=Entries lost" in told
    assert f'sequence="{first - 1}"' in told and sender.state()["lost"] == first - 1


def test_a_crash_sends_again_what_may_not_have_arrived(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    with StreamReceiver(port) as receiver:
        sender.set(export=f"tcp://127.0.0.1:{port}")
        sender.decide(100)
        eventually(lambda: len(receiver.messages) == 100)
        monkeypatch.setattr(target.Receiver, "finish", lambda self: False)  # as when nobody was asked
        sender.log.close()
        monkeypatch.undo()
        sender.open()
        sender.decide(1)
        eventually(lambda: 101 in receiver.sequences())
        assert receiver.sequences() == [*range(1, 101), *range(1, 102)]


def test_a_receiver_that_takes_nothing_is_waited_for_and_shown(sender: Sender) -> None:
    (port,) = free_ports(1)
    with StreamReceiver(port) as receiver:
        receiver.reading.clear()
        sender.set(export=f"tcp://127.0.0.1:{port}")
        began = time.monotonic()
        while sender.state()["state"] != "blocked":
            for _ in range(200):
                sender.log.write("antispam", "Marked", subject="x" * 1_000, helo="y" * 1_000, reason="z" * 1_000)
            assert sender.log.flush()
            assert time.monotonic() < began + 60
        assert sender.state()["behind"] > 0 and sender.log.troubles() == {}
        receiver.reading.set()
        last = sender.log.status()["last"]
        eventually(lambda: receiver.sequences()[-1:] == [last])
        assert receiver.sequences() == list(range(1, int(str(last)) + 1))


def test_a_receiver_that_is_killed_with_all_of_it_unread_gets_it_again(sender: Sender) -> None:
    (port,) = free_ports(1)
    with StreamReceiver(port) as receiver:
        sender.set(export=f"tcp://127.0.0.1:{port}")
        sender.connected()
        receiver.reading.clear()
        sender.decide(2_000)
        eventually(lambda: sender.state()["sent"] == 2_000)
        receiver.stop()
        receiver.start()
        eventually(lambda: set(receiver.sequences()) == set(range(1, 2_001)))


def test_what_a_receivers_host_has_not_acknowledged_has_not_arrived(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is cut off, or has no power, acknowledges nothing, and TCP tries for a quarter of an hour: what was sent a minute
    ago has not arrived there."""
    begin = target.Receiver.__init__

    def impatient(self: target.Receiver, *given: Any) -> None:
        begin(self, *given)
        self.resend_seconds = 0.0

    monkeypatch.setattr(target.Receiver, "__init__", impatient)
    (port,) = free_ports(1)
    with StreamReceiver(port) as receiver:
        sender.set(export=f"tcp://127.0.0.1:{port}")
        sender.connected()
        receiver.reading.clear()
        sender.decide(2_000)  # many times its buffer
        eventually(lambda: sender.state()["sent"] == 2_000 and sender.state()["position"] > 0)
        receiver.stop()
        receiver.start()
        sender.decide(1)
        eventually(lambda: 2_001 in receiver.sequences())
        assert receiver.sequences()[-1_001:] == list(range(1_001, 2_002))


def test_a_receiver_that_never_answers_in_tls_does_not_hold_up_the_end(sender: Sender, pem: Pem) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        sender.set(export_ca=pem.ca, export=f"tls://localhost:{listener.getsockname()[1]}")
        with listener.accept()[0] as session:
            assert session.recv(1), "it has begun"
            began = time.monotonic()
            sender.log.close()
            assert time.monotonic() < began + target.DIAL_SECONDS / 2


class Talker:
    """A server that has always something to say."""

    said = 0

    def settimeout(self, seconds: float) -> None:
        pass

    def recv(self, count: int) -> bytes:
        self.said += 1
        assert self.said < 1_000, "nobody listens to it for ever"
        return b"x"


def test_a_receiver_that_never_stops_talking_holds_nobody_up() -> None:
    talker: Any = Talker()
    assert Outbound(talker).ended() is None


def test_numbers_go_on_when_somebody_has_removed_the_files(sender: Sender) -> None:
    """They began anew, and the export waited for the number that it had had."""
    (port,) = free_ports(1)
    with StreamReceiver(port) as receiver:
        sender.set(export=f"tcp://127.0.0.1:{port}")
        sender.decide(100)
        eventually(lambda: len(receiver.messages) == 100)
        sender.log.close()
        for each in files.files(sender.log.folder):
            each.path.unlink()
        sender.open()
        sender.decide(1)
        assert sender.log.status()["last"] == 101
        eventually(lambda: receiver.sequences() == list(range(1, 102)))


def test_a_position_that_cannot_be_read_is_no_reason_to_begin_anew(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waited was passed over."""
    (port,) = free_ports(1)
    sender.set(export=f"tcp://127.0.0.1:{port}")
    sender.decide(10)
    eventually(lambda: sender.state()["state"] == "waiting")
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.name == "position.json":
            raise OSError(24, "Too many open files")
        return read(path)

    with monkeypatch.context() as patch:
        sender.set(export="")
        patch.setattr(Path, "read_bytes", fail)
        sender.set(export=f"tcp://127.0.0.1:{port}")
        eventually(lambda: sender.state()["error"] != "")
    with StreamReceiver(port) as receiver:
        sender.decide(1)
        eventually(lambda: 11 in receiver.sequences())
        assert receiver.sequences() == list(range(1, 12))


def test_what_is_wrong_with_tls_is_said_and_nothing_is_lost(sender: Sender, pem: Pem, authority: trustme.CA) -> None:
    (port,) = free_ports(1)
    other = trustme.CA()
    strange = str(Path(pem.ca).with_name("strange.pem"))
    other.cert_pem.write_to_path(strange)

    def failed(*words: str) -> bool:
        return sender.state()["error"] != "" and any(each in sender.state()["error"] for each in words)

    with StreamReceiver(port, pem.context) as receiver:
        sender.set(export_ca=strange, export=f"tls://localhost:{port}")
        sender.decide(10)
        eventually(lambda: failed("the receiver's certificate: "))
        sender.set(export_ca=pem.ca)
        eventually(lambda: failed("certificate required", "closed", "reset", "Broken pipe"))
        sender.set(export_certificate="/no/such/file")
        eventually(lambda: failed("No such file"))
        sender.set(export_certificate=pem.node, export_name="another.example.org")
        eventually(lambda: failed("another.example.org"))
        assert receiver.messages == []
        sender.set(export_name="localhost")
        eventually(lambda: receiver.sequences() == list(range(1, 11)))


def test_the_first_export_begins_with_what_comes_then_and_is_switched_off(sender: Sender) -> None:
    (port,) = free_ports(1)
    sender.decide(50)
    with StreamReceiver(port) as receiver:
        sender.set(export=f"tcp://127.0.0.1:{port}")
        sender.connected()
        sender.decide(1)
        eventually(lambda: receiver.sequences() == [51])
        sender.set(export="")
        assert sender.log.status()["export"] is None
        sender.decide(1)
        sender.set(export=f"tcp://127.0.0.1:{port}")
        eventually(lambda: receiver.sequences() == [51, 52])
    with pytest.raises(Rejected, match="udp://HOST"):
        sender.set(export="http://127.0.0.1")


def test_an_export_that_has_failed_for_a_minute_is_an_alarm(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    sender.set(export=f"tcp://127.0.0.1:{port}")
    eventually(lambda: sender.state()["state"] == "waiting")
    assert sender.log.troubles() == {}
    monkeypatch.setattr(exporter, "ALARM_SECONDS", 0.0)
    assert sender.log.troubles() == {
        "maillog-export": f"nothing is exported to tcp://127.0.0.1:{port}: Connection refused"
    }


@contextmanager
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[Callable[[], bytes]]:
    """A log daemon's socket instead of the system's; what it gets."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        sock.bind(str(tmp_path / name))
        where = (str(tmp_path / "journal"), str(tmp_path / "log"))
        monkeypatch.setattr(target.System.__init__, "__defaults__", where)
        yield lambda: sock.recv(65_536)


def test_to_the_journal(sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with system(tmp_path, monkeypatch, "journal") as heard:
        sender.set(export="system")
        sender.decide(500)  # more than its queue holds
        for number in range(1, 501):
            data = heard()
            assert f"RAFTCLUSTER_SEQUENCE={number}\n".encode() in data and b"RAFTCLUSTER_EVENT=mail-rejected\n" in data
        eventually(lambda: sender.state()["position"] == 500)


def test_to_syslog_where_there_is_no_journal(sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with system(tmp_path, monkeypatch, "log") as heard:
        sender.set(export="system")
        sender.decide(3)
        for number in range(1, 4):
            data = heard().decode()
            assert data.startswith("<29>") and f'sequence="{number}"' in data and 'event="mail-rejected"' in data
