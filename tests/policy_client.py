"""A client of the policy protocol over a real socket, as blunt as a test needs it."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType
from typing import Self

PATIENCE_SECONDS = 60.0


def request(**attributes: str) -> bytes:
    """A request as Postfix sends it at RCPT, with `attributes` instead of the usual ones."""
    usual = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "client_address": "192.0.2.7",
        "client_name": "mail.example.net",
        "sender": "a@example.net",
        "recipient": "b@example.org",
        "instance": "1",
        "sasl_username": "",
    }
    lines = "".join(f"{name}={value}\n" for name, value in {**usual, **attributes}.items())
    return lines.encode("utf-8", "surrogateescape") + b"\n"


class PolicyClient:
    """One connection to `inet:HOST:PORT` or `unix:PATH`."""

    def __init__(self, address: str) -> None:
        kind, _, rest = address.partition(":")
        if kind == "unix":
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(PATIENCE_SECONDS)
            self._socket.connect(rest)
        else:
            host, _, port = rest.rpartition(":")
            self._socket = socket.create_connection((host.strip("[]"), int(port)), PATIENCE_SECONDS)
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, **attributes: str) -> str:
        """The action for one request."""
        self.send(request(**attributes))
        return self.answer()

    def send(self, data: bytes) -> None:
        """Send bytes, all of them."""
        self._socket.sendall(data)

    def trickle(self, data: bytes) -> None:
        """Send what fits at once, if anything, to whoever is still there."""
        with contextlib.suppress(OSError):
            self._socket.send(data, socket.MSG_DONTWAIT)

    def answer(self) -> str:
        """The next action. Raises `EOFError` when the server hung up instead."""
        while b"\n\n" not in self._heard:
            if not (data := self._socket.recv(65_536)):
                raise EOFError("hung up")
            self._heard += data
        answer, _, self._heard = self._heard.partition(b"\n\n")
        assert answer.startswith(b"action="), answer
        return answer.removeprefix(b"action=").decode()

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def hung_up(self, within_s: float = PATIENCE_SECONDS) -> bool:
        """Whether the server hangs up within that time, having sent nothing more."""
        self._socket.settimeout(within_s)
        try:
            return self._socket.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        finally:
            self._socket.settimeout(PATIENCE_SECONDS)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
