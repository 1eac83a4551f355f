"""What a sniffer sees: every frame on one interface of a host, by a raw socket of the kernel (packet(7)), as streams of TCP."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
from collections import defaultdict
from types import TracebackType
from typing import Final

FRAME_BYTES: Final = 70_000
"""Loopback's MTU is 65,536, and a header."""
BUFFER_BYTES: Final = 256 * 1024 * 1024
LOOK_SECONDS: Final = 0.2
ALL: Final = 0x0003  # ETH_P_ALL
OUTGOING: Final = 4  # PACKET_OUTGOING: loopback shows each frame twice, going out and coming in
SOL_PACKET: Final = 263
STATISTICS: Final = 6  # PACKET_STATISTICS: received, dropped; reading resets them
FORCE_BUFFER: Final = 33  # SO_RCVBUFFORCE: beyond the system's limit, for root
CLONE_NEWNET: Final = 0x40000000
IPV4: Final = 0x0800
TCP: Final = 6

Flow = tuple[bytes, int, bytes, int]
"""Source address and port, destination address and port."""


class Capture:
    """Records from entering to leaving. Root only. Thread: any."""

    def __init__(self, namespace: str, interface: str = "lo") -> None:
        """`namespace` is the network namespace's name, as `ip netns` has it."""
        self._interface = interface
        self._socket = _inside(namespace)
        self._segments: dict[Flow, list[tuple[int, bytes]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)
        self.lost = 0
        """Frames that the kernel had no room for, known when it has ended: 0, or nothing was proven."""

    def __enter__(self) -> Capture:
        self._socket.setsockopt(socket.SOL_SOCKET, FORCE_BUFFER, BUFFER_BYTES)
        self._socket.bind((self._interface, ALL))
        self._socket.setblocking(False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        _, self.lost = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, STATISTICS, 8))
        self._socket.close()

    def flows(self) -> dict[Flow, bytes]:
        """Each direction of each connection so far, put together in the order of its sequence numbers."""
        with self._lock:
            return {flow: _joined(segments) for flow, segments in self._segments.items()}

    def _read(self) -> None:
        while True:
            ending = self._closing.is_set()  # asked first: all that had come by then is read
            try:
                frame, about = self._socket.recvfrom(FRAME_BYTES)
            except BlockingIOError:
                if ending:
                    return
                select.select([self._socket], [], [], LOOK_SECONDS)
                continue
            if about[2] != OUTGOING:
                continue
            found = _segment(frame)
            if found is not None:
                with self._lock:
                    self._segments[found[0]].append(found[1:])


def _inside(namespace: str) -> socket.socket:
    """A raw socket of that namespace: where a socket is made is where it stays, whatever its process does."""
    made: list[socket.socket] = []
    troubles: list[OSError] = []

    def make() -> None:
        try:
            with open(f"/run/netns/{namespace}", "rb") as there:
                if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.append(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)))
        except OSError as error:
            troubles.append(error)

    thread = threading.Thread(target=make)  # only the thread that asks for it changes its namespace
    thread.start()
    thread.join()
    if troubles:
        raise troubles[0]
    return made[0]


def _segment(frame: bytes) -> tuple[Flow, int, bytes] | None:
    """(flow, sequence number, payload) of a frame with TCP over IPv4; None for anything else, and for empty ones."""
    if len(frame) < 34 or int.from_bytes(frame[12:14], "big") != IPV4:
        return None
    packet = frame[14:]
    head, size, kind = (packet[0] & 15) * 4, int.from_bytes(packet[2:4], "big"), packet[9]
    if kind != TCP:
        return None
    segment = packet[head : size or None]  # a segment that the sender has not cut yet says 0
    source, target, number = struct.unpack_from("!HHI", segment)
    payload = segment[(segment[12] >> 4) * 4 :]
    return ((packet[12:16], source, packet[16:20], target), number, payload) if payload else None


def _joined(segments: list[tuple[int, bytes]]) -> bytes:
    """The bytes of a stream: what was sent again counts once. Sequence numbers wrap; a stream here is shorter than 2 GiB."""
    first = segments[0][0]
    ordered = sorted(((number - first + 2**31) % 2**32 - 2**31, payload) for number, payload in segments)
    stream, reached = bytearray(), ordered[0][0]
    for offset, payload in ordered:
        stream += payload[max(0, reached - offset) :]
        reached = max(reached, offset + len(payload))
    return bytes(stream)
