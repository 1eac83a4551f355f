"""TCP, the only file that imports `socket`. Errors of the operating system become typed ones at this edge."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import sys
import termios
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from struct import Struct
from typing import Any, Final

from raftcluster import limits
from raftcluster.errors import AddressInUse, MissingPrivilege
from raftcluster.transport.ports import Address

Socket = socket.socket

BACKLOG: Final = 128
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.LINK_IDLE_SECONDS * 1000)),  # of unacknowledged bytes
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # what is sent is complete: nothing to wait for
)


_OUTBOUND: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


def listen(address: Address) -> Socket:
    """A non-blocking listener at `address`; port 0 takes a free one, host "" all addresses.

    Raises `AddressInUse` or `MissingPrivilege`, naming the address and the remedy.
    """
    where = text(address)
    try:
        family, kind, protocol, resolved = _resolve(address, socket.AI_PASSIVE)[0]
    except OSError as error:
        raise AddressInUse(
            f"cannot listen at {where}: {error}", subject=where, remedy="give an address of this host, or 0.0.0.0"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(resolved)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(error, where) from error
    return listener


def peer(transport: asyncio.BaseTransport) -> tuple[int, int, int]:
    """(pid, uid, gid) of who has connected to a unix socket, as the kernel saw them then (SO_PEERCRED, unix(7))."""
    credentials = Struct("3i")
    sock = transport.get_extra_info("socket")
    pid, uid, gid = credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return int(pid), int(uid), int(gid)


def accept(listener: Socket) -> tuple[Socket, Address] | None:
    """A connection that has arrived, None when there is none (any more). Raises `OSError` when descriptors run out."""
    try:
        sock, address = listener.accept()
    except (BlockingIOError, InterruptedError, ConnectionAbortedError):
        return None
    try:
        _prepare(sock)
    except OSError:  # gone already
        sock.close()
        return None
    return sock, (str(address[0]), int(address[1]))


def dial(address: Address, deadline: float, opened: Callable[[Socket], None]) -> Socket:
    """A connection to `address`, whose name is resolved now; each of its addresses gets a share of the time that is left.

    `deadline` is a time of the monotonic clock. `opened` gets each socket before it connects, so that another thread can
    :func:`abort` it. Raises `OSError`.
    """
    return _connected(address, _resolve(address), deadline, opened, _prepare)


def outbound(address: Address, datagrams: bool, deadline: float, opened: Callable[[Socket], None]) -> Socket:
    """A socket that sends to a server which is no member, by TCP or UDP; as `dial` otherwise. A server that takes nothing for a
    while is waited for: only one that is gone ends the connection. Raises `OSError`."""
    kind = socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM
    found = [each for each in _resolve(address, type=kind) if each[1] == kind]

    def prepare(sock: Socket) -> None:
        for level, option, value in () if datagrams else _OUTBOUND:
            sock.setsockopt(level, option, value)

    return _connected(address, found, deadline, opened, prepare)


def _connected(
    address: Address,
    found: Sequence[Any],
    deadline: float,
    opened: Callable[[Socket], None],
    prepare: Callable[[Socket], None],
) -> Socket:
    """To the first of `found` that can be had."""
    for left, (family, kind, protocol, resolved) in zip(range(len(found), 0, -1), found, strict=True):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)  # a kernel without IPv6 has none for such an address
            opened(sock)
            sock.settimeout(max(0.001, (deadline - time.monotonic()) / left))
            sock.connect(resolved)
            prepare(sock)
        except OSError:
            if sock is not None:
                sock.close()
            if left == 1:
                raise
        else:
            return sock
    raise OSError(errno.EADDRNOTAVAIL, f"{text(address)} has no address")


def abort(sock: Socket) -> None:
    """Let whoever waits in `sock`, in another thread, fail now; that one closes it."""
    with contextlib.suppress(OSError):  # not connected, or closed already: nobody waits
        Socket.shutdown(
            sock, socket.SHUT_RDWR
        )  # of a TLS socket as well: its own method takes TLS away under that thread


def finish_sending(sock: Socket) -> None:
    """Tell the peer that nothing more will come."""
    with contextlib.suppress(OSError):  # gone already: nobody to tell
        sock.shutdown(socket.SHUT_WR)


def unacknowledged(sock: Socket) -> int:
    """Bytes that were sent over TCP and that the peer's host has not acknowledged (SIOCOUTQ, tcp(7))."""
    return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def bound(listener: Socket) -> Address:
    """The address that a listener has got."""
    address = listener.getsockname()
    return str(address[0]), int(address[1])


def far_end(sock: Socket) -> str:
    """The peer's address as text; "?" when it is gone."""
    try:
        address = sock.getpeername()
    except OSError:
        return "?"
    return text((str(address[0]), int(address[1])))


def text(address: Address) -> str:
    """host:port, with brackets around an IPv6 address."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def addresses(host: str) -> list[str]:
    """The addresses that a name leads to now; empty when it is not known, or nobody answers. May wait for name servers."""
    try:
        found = _resolve((host, 1))
    except OSError:
        return []
    return sorted({str(resolved[0]) for _, _, _, resolved in found})


def name_of(address: str) -> str:
    """The name of an address, where the name leads back to it; else empty. May wait for name servers."""
    try:
        name = socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0].lower().removesuffix(".")
    except (OSError, ValueError):  # nobody knows it, or it is no address
        return ""
    return name if address in addresses(name) else ""


def is_local(address: str) -> bool:
    """Whether it is an address of this host: of its loopback, or where packets to it would come from. Nothing is sent."""
    try:
        return ip_address(address).is_loopback or source(address) == address
    except ValueError:
        return False


def source(address: str) -> str:
    """This host's address on the way to `address`; empty when there is no way. Nothing is sent."""
    try:
        family, _, _, where = _resolve((address, 9))[0]
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(where)
            return str(sock.getsockname()[0])
    except OSError:  # no address, or no way there
        return ""


def _resolve(address: Address, flags: int = 0, type: int = socket.SOCK_STREAM) -> list[tuple[int, int, int, Any]]:
    if not 0 <= address[1] <= 0xFFFF:  # the system would take it modulo 65536
        raise OSError(errno.EINVAL, f"{text(address)} is no address")
    try:
        found = socket.getaddrinfo(address[0] or None, address[1], type=type, flags=flags)
    except ValueError as error:  # a name that no codec takes
        raise OSError(errno.EINVAL, f"{text(address)} is no address") from error
    return [(family, kind, protocol, resolved) for family, kind, protocol, _, resolved in found]


def _prepare(sock: Socket) -> None:
    for level, option, value in _KEEPALIVE:
        sock.setsockopt(level, option, value)


def _cannot_listen(error: OSError, where: str) -> AddressInUse | MissingPrivilege:
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingPrivilege(
            f"not permitted to listen at {where}",
            subject=where,
            remedy="use a port above 1023, or grant CAP_NET_BIND_SERVICE",
        )
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(
            f"{where} is in use by another process",
            subject=where,
            remedy="stop it (`ss -ltnp` shows it), or use another port",
        )
    return AddressInUse(
        f"cannot listen at {where}: {error.strerror}", subject=where, remedy="give an address of this host, or 0.0.0.0"
    )
