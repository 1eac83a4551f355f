"""A real rsyslogd that takes syslog over UDP, TCP and TLS with client certificates, and writes down what it has understood."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import trustme

from tests.children import Child
from tests.helpers import eventually, free_ports

SECONDS: Final = 60.0
CONFIGURATION: Final = """
global(workDirectory="{folder}" net.enableDNS="off" maxMessageSize="16k"
    defaultNetstreamDriverCAFile="{folder}/ca.pem" defaultNetstreamDriverCertFile="{folder}/server.pem"
    defaultNetstreamDriverKeyFile="{folder}/server.key")
module(load="imudp") module(load="imptcp")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.Authmode="x509/certvalid")
template(name="understood" type="list" option.jsonf="on") {{
    property(outname="host" name="hostname" format="jsonf") property(outname="app" name="app-name" format="jsonf")
    property(outname="procid" name="procid" format="jsonf") property(outname="msgid" name="msgid" format="jsonf")
    property(outname="sd" name="structured-data" format="jsonf") property(outname="pri" name="pri" format="jsonf")
    property(outname="version" name="protocol-version" format="jsonf")
    property(outname="time" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="msg" name="msg" format="jsonf") property(outname="input" name="inputname" format="jsonf")
}}
ruleset(name="all" queue.type="LinkedList" queue.size="500000" queue.timeoutShutdown="20000") {{
    action(type="omfile" file="{folder}/understood.json" template="understood" asyncWriting="off" flushInterval="1")
}}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="all" name="udp" rcvbufSize="64m")
input(type="imptcp" address="127.0.0.1" port="{tcp}" ruleset="all" name="tcp")
input(type="imtcp" address="127.0.0.1" port="{tls}" ruleset="all" name="tls")
"""
_NUMBER: Final = re.compile(r'sequence=\\?"(\d+)\\?"')


class Rsyslog:
    """Its files are in `folder`. `node_pem` is the certificate, with its key, that a node shows to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        udp, tcp, tls = free_ports(3)
        self.ports = {"udp": udp, "tcp": tcp, "tls": tls}
        self.ca, self.node_pem = folder / "ca.pem", folder / "node.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        authority.issue_cert("mx1.example.org").private_key_and_cert_chain_pem.write_to_path(self.node_pem)
        server = authority.issue_cert("localhost")
        server.cert_chain_pems[0].write_to_path(folder / "server.pem")
        server.private_key_pem.write_to_path(folder / "server.key")
        self._configuration = folder / "rsyslog.conf"
        self._configuration.write_text(CONFIGURATION.format(folder=folder, udp=udp, tcp=tcp, tls=tls))
        self._child: Child | None = None

    def target(self, kind: str) -> str:
        """What to set as `local/maillog/export`."""
        return f"{kind}://{'localhost' if kind == 'tls' else '127.0.0.1'}:{self.ports[kind]}"

    def start(self) -> None:
        words = ["rsyslogd", "-n", "-f", str(self._configuration), "-i", "NONE"]
        self._child = Child("rsyslogd", words, self.folder / "rsyslogd.log")
        eventually(self._listens, SECONDS, f"rsyslogd listens: {self._child.tail()}")

    def _listens(self) -> bool:
        assert self._child is not None and self._child.alive(), self.folder.joinpath("rsyslogd.log").read_text()
        for kind in ("tcp", "tls"):
            try:
                socket.create_connection(("127.0.0.1", self.ports[kind]), 1).close()
            except OSError:
                return False
        with suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", self.ports["udp"]))
            return False  # nobody had bound it
        return True

    def stop(self) -> None:
        """SIGTERM, as an upgrade does."""
        if self._child is not None:
            self._child.stop(SECONDS)
            self._child = None

    def kill(self) -> None:
        """As a crash does."""
        assert self._child is not None
        self._child.kill()
        self._child = None

    def records(self) -> list[dict[str, Any]]:
        """All that it has understood so far, in order."""
        found = self.folder / "understood.json"
        text = found.read_text() if found.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def sequences(self) -> list[int]:
        """Their numbers. Reads the file line by line: there may be a million."""
        found = self.folder / "understood.json"
        if not found.exists():
            return []
        with found.open() as lines:
            return [int(match[1]) for line in lines if (match := _NUMBER.search(line)) is not None]

    def forget(self) -> None:
        """Begin a new file, while it does not run."""
        (self.folder / "understood.json").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
