"""TLS 1.3, mutual: the only file that imports `ssl`.

Theory of operation. Every connection runs TLS through memory (`MemoryBIO`), never over the socket itself: ciphertext is
read from the socket in large pieces and fed in, plaintext comes out record by record, and the other way round. So

* a write never has to be repeated with the same buffer (`SSL_write`'s rule after WANT_WRITE): memory takes all of it;
* nothing is left pending inside TLS when the socket is quiet, since every read drains it;
* a tick costs one system call per 256 KiB instead of two per 16-KiB record, and
* the same :class:`Channel` serves blocking streams and the polled links.

Rules of the contexts (:class:`Credentials`): one pair per trust set, since a context cannot forget a root; chosen before
the connection is wrapped, since changing it later keeps the old `verify_mode`; no session tickets, so each connection is
judged anew; no host names, identity is the SAN URI and the pin. The listener asks for a certificate and does without
(`CERT_OPTIONAL`): a peer that shows none can only join; one that shows a bad one is refused inside the handshake.

A client's TLS 1.3 handshake is over before the server has judged the client's certificate: only the server's hello, read
through the channel, tells that it was accepted.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, cast

from raftcluster.errors import RaftclusterError, Rejected
from raftcluster.transport import certificates
from raftcluster.transport.certificates import SubjectId
from raftcluster.transport.handshake import Refused
from raftcluster.transport.ports import Identity
from raftcluster.transport.sockets import Socket

_VERIFY: Final = {9: "not-yet-valid", 10: "expired", 18: "untrusted", 19: "untrusted", 20: "untrusted", 21: "untrusted"}
"""OpenSSL's X509_V_ERR_*: anything else is "certificate"."""

_ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA": "untrusted",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "certificate-required",
    "TLSV1_ALERT_PROTOCOL_VERSION": "tls-version",
    "UNSUPPORTED_PROTOCOL": "tls-version",
    "WRONG_VERSION_NUMBER": "not-tls",
    "HTTP_REQUEST": "not-tls",
    "PACKET_LENGTH_TOO_LONG": "not-tls",
}
"""`SSLError.reason` -> our reason; anything else is "tls"."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A peer's certificate, verified: by TLS while it shook hands, and by `Credentials.judge` afterwards."""

    pem: bytes
    subject: SubjectId
    pin: bytes


class Credentials:
    """An identity and the roots to trust, as one pair of contexts. Any thread may use it; nothing of it changes.

    A context takes a millisecond, most of it for the key, and a generation changes the roots thrice at all nodes at once,
    often without a connection in between: so each is made when it is first wanted, but for the first one that shows an
    identity, which shows that OpenSSL takes it.
    """

    def __init__(self, identity: Identity, roots: Sequence[bytes], before: Credentials | None = None) -> None:
        """`before`: what was in use until now. Raises `Rejected` when key, certificate, names and roots do not belong together
        (dates are judged by peers)."""
        subject = certificates.subject_of(identity.certificate)
        if subject != SubjectId(identity.cluster_id, identity.generation, identity.node_id):
            raise Rejected(f"the certificate is of {subject}, not of {identity}", subject=str(subject))
        if not certificates.key_matches(identity.key, identity.certificate):
            raise Rejected("the private key is not the certificate's", subject=str(subject))
        self.identity = identity
        self.roots: dict[int, bytes] = {}
        for root in roots:
            cluster_id, generation = certificates.root_subject(root)
            if cluster_id != identity.cluster_id:
                raise Rejected(f"a root of cluster {cluster_id} for {identity.cluster_id}", subject=cluster_id)
            self.roots[generation] = root
        if identity.generation not in self.roots:
            raise Rejected(f"no root of generation {identity.generation}", subject=str(subject))
        if before is None or before.identity != identity:
            _ = self._client

    @cached_property
    def _server(self) -> ssl.SSLContext:
        return _context(ssl.PROTOCOL_TLS_SERVER, ssl.CERT_OPTIONAL, [*self.roots.values()], self.identity)

    @cached_property
    def _client(self) -> ssl.SSLContext:
        return _context(ssl.PROTOCOL_TLS_CLIENT, ssl.CERT_REQUIRED, [*self.roots.values()], self.identity)

    @property
    def root(self) -> bytes:
        """The root (PEM) that has issued the identity's certificate."""
        return self.roots[self.identity.generation]

    def accept(self) -> Channel:
        """The listener's end of a new connection."""
        return Channel(self._server, server_side=True)

    def dial(self) -> Channel:
        """The dialler's end of a new connection."""
        return Channel(self._client, server_side=False)

    def judge(self, channel: Channel) -> Shown | None:
        """Who the peer is, by its certificate; None when it has shown none. Raises `Refused`.

        TLS has found a chain to *some* root of the trust set; this finds the one of the generation that the name claims,
        and that the certificate is a node's.
        """
        der = channel.peer_certificate()
        if der is None:
            return None
        try:
            pem = certificates.pem_of(der)
            subject = certificates.subject_of(pem)
            root = self.roots.get(subject.generation)
            if subject.cluster_id != self.identity.cluster_id:
                raise Refused("cluster", f"certificate of cluster {subject.cluster_id}", subject=subject.node_id)
            if root is None:
                raise Refused("untrusted", f"generation {subject.generation} is not trusted", subject=subject.node_id)
            certificates.verify_leaf(pem, root)
            return Shown(pem, subject, certificates.fingerprint(pem))
        except Refused:
            raise
        except RaftclusterError as error:
            raise Refused("certificate", error.message, subject=error.subject, remedy=error.remedy) from error


def untrusted() -> Channel:
    """A dialler that shows nothing and believes nothing: the first step of joining."""
    return Channel(_context(ssl.PROTOCOL_TLS_CLIENT, ssl.CERT_NONE), server_side=False)


def rooted(root: bytes) -> Channel:
    """A dialler that shows no certificate and accepts what this root (PEM) has issued: the second step of joining."""
    return Channel(_context(ssl.PROTOCOL_TLS_CLIENT, ssl.CERT_REQUIRED, [root]), server_side=False)


WAITS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket raises that has nothing to say just now."""


def outside(sock: Socket, name: str, files: tuple[str, str, str], opened: Callable[[Socket], None]) -> ssl.SSLSocket:
    """TLS with a server that is no member and calls itself `name`, over its connected socket; `files` are `outbound.Files`, `opened`
    gets what is to be aborted from now on. Raises `OSError`, also for files that cannot be read or used."""
    ca, certificate, key = files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca:
        context.load_verify_locations(cafile=ca)
    else:
        context.load_default_certs()
    if certificate:
        context.load_cert_chain(certificate, key or None, password="")  # never asks: nobody is there
    secured = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
    try:
        opened(secured)
        secured.do_handshake()
    except BaseException:
        secured.close()
        raise
    return secured


def finish(sock: Socket) -> None:
    """On a TLS connection, say that nothing more comes. Raises `OSError`."""
    if isinstance(sock, ssl.SSLSocket):
        with contextlib.suppress(ssl.SSLEOFError):  # it ends the connection without saying so in TLS
            sock.unwrap()


def reason(error: OSError) -> str:
    """What went wrong, when it was TLS; else ""."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the receiver's certificate: {error.verify_message}"
    return (error.reason or "").lower().replace("_", " ") if isinstance(error, ssl.SSLError) else ""


class Channel:
    """One connection's TLS, without a socket. Not thread-safe: one thread at a time."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)

    def handshake(self) -> bool:
        """Go on as far as the fed bytes allow; True when done. Raises `Refused`. In any case there may be bytes to send."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise _refused(error) from error
        return True

    def feed(self, ciphertext: bytes | memoryview) -> None:
        """Bytes that came from the socket; none at all tells that it has ended."""
        if ciphertext:
            self._incoming.write(ciphertext)
        else:
            self._incoming.write_eof()

    def read_into(self, room: memoryview) -> int:
        """Plaintext: how many bytes were written to `room`, 0 when more must be fed first.

        Raises `ConnectionError` when the peer has ended the connection, `Refused` when it sent an alert or no TLS.
        """
        incoming = self._incoming
        if not incoming.pending and not self._tls.pending() and not incoming.eof:
            return 0  # as the read would say, with an exception that costs as much as all the rest
        try:
            count = cast(int, self._tls.read(len(room), room))  # a count, since a buffer is given
        except ssl.SSLWantReadError:
            return 0
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError) as error:
            raise ConnectionResetError("the peer has closed the connection") from error
        except ssl.SSLError as error:
            raise _refused(error) from error
        if count == 0:  # a proper end is no error to `ssl`, and would be read again and again
            raise ConnectionResetError("the peer has closed the connection")
        return count

    def write(self, plaintext: bytes | memoryview) -> None:
        """Encrypt all of `plaintext`; `drain` hands out the result. Raises `ConnectionError` after the connection's end."""
        try:
            self._tls.write(plaintext)
        except ssl.SSLError as error:
            raise ConnectionResetError("the connection has ended") from error

    def end(self) -> None:
        """Tell the peer (through `drain`) that nothing more will come: an end that nobody on the way could have forged."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:  # WANT_READ, since the peer's own end is not waited for; or there is no session to end
            return

    def drain(self) -> bytes:
        """Ciphertext to send."""
        return self._outgoing.read()

    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), None when it has shown none."""
        return self._tls.getpeercert(binary_form=True)


def _context(
    protocol: int, verify: ssl.VerifyMode, roots: Sequence[bytes] = (), identity: Identity | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = verify
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    if roots:
        context.load_verify_locations(cadata="\n".join(root.decode("ascii") for root in roots))
    if identity is not None:
        _load(context, identity)
    return context


def _load(context: ssl.SSLContext, identity: Identity) -> None:
    """`ssl` loads a key from a file name only, and the key shall not be written once more: so the file is anonymous memory
    of this process, readable through /proc by its own user alone and gone when it is closed."""
    descriptor = os.memfd_create("raftcluster-identity", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, identity.certificate + b"\n" + identity.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise Rejected(
            f"certificate or key of {identity} cannot be used: {error.reason}", subject=identity.node_id
        ) from error
    finally:
        os.close(descriptor)


def _refused(error: ssl.SSLError) -> Refused:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(
            _VERIFY.get(error.verify_code, "certificate"),
            f"the peer's certificate: {error.verify_message}",
            remedy="is it of this cluster and of an active generation, and are both clocks right?",
        )
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Refused("tls", "the peer has hung up during the handshake", by_peer=True)
    name = error.reason or "unknown error"
    by_peer = "_ALERT_" in name
    return Refused(
        _ALERTS.get(name, "tls"),
        f"{'the peer refuses' if by_peer else 'TLS'}: {name.lower().replace('_', ' ')}",
        remedy="its log says why" if by_peer else "only TLS 1.3 is spoken here",
        by_peer=by_peer,
    )
