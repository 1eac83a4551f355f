"""Keys, requests, certificates and tokens: the only file that imports `cryptography`.

A cluster has one root per generation, made by :func:`issue` inside a child process that exits afterwards
(`minting.mint` starts it); the root's private key exists nowhere else. What a certificate says
is decided here alone: of a request only its public key is used, once its signature is checked.

* root: cluster id and generation in the subject, `pathlen` 0, may sign certificates and nothing else, 100 days;
* leaf: empty subject, one subject alternative name -- the URI of :class:`SubjectId` --, client and server, 90 days.

Leaves outlive no root: 90 < 100 days, so a chain never fails for its root's sake first.

Thread: everything here is a function of its arguments (and the clock, where `at` is not given); any thread may call it.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raftcluster import failpoints
from raftcluster.errors import Rejected
from raftcluster.transport.subject import SubjectId as SubjectId

ROOT_DAYS: Final = 100
LEAF_DAYS: Final = 90
BACKDATED: Final = datetime.timedelta(hours=1)
"""notBefore lies this far in the past: a peer whose clock is a little behind can use the certificate at once."""

ORGANISATION: Final = "raftcluster"
MANIFEST_CONTEXT: Final = b"raftcluster-manifest-v1\0"
"""Before what a root key signs besides certificates: no manifest can be taken for a certificate (it begins 0x30)."""

_ROOT_NAME: Final = (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER)
_PEM: Final = serialization.Encoding.PEM
_DER: Final = serialization.Encoding.DER
_MALFORMED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for bytes that are none of what they should be."""
_TOKEN_ID: Final = re.compile(r"[0-9a-f]{16}\Z")
_TOKEN_INFO: Final = b"raftcluster-token-v1"


@dataclass(frozen=True, slots=True)
class Minted:
    """What the minting child hands out: public data only."""

    root_pem: bytes
    certificates: dict[str, bytes]
    """node id -> PEM."""
    manifest_signature: bytes
    """The root's signature of the manifest that was passed in; check it with :func:`verify_manifest`."""


# --- keys


def new_key() -> bytes:
    """A new EC P-256 private key as PEM (PKCS 8, not encrypted: the file's mode protects it)."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def sign(key_pem: bytes, message: bytes) -> bytes:
    """`message` signed with a node's private key (ECDSA, SHA-256). Begin each kind of message with its own context.

    Raises `Rejected` when `key_pem` is no such key.
    """
    return _key(key_pem).sign(message, ec.ECDSA(hashes.SHA256()))


def verify(certificate_pem: bytes, message: bytes, signature: bytes) -> None:
    """Raise `Rejected` unless the key of `certificate_pem` has signed `message`."""
    _verify(_p256(_certificate(certificate_pem).public_key()), message, signature)


def public_key(key_pem: bytes) -> bytes:
    """The public half (SubjectPublicKeyInfo, DER) of a node's private key; its SHA-256 is the pin."""
    return _spki(_key(key_pem).public_key())


def key_fingerprint(public: bytes) -> bytes:
    """The pin of a public key (DER), whatever these bytes are: compare it with one that is known."""
    return hashlib.sha256(public).digest()


def verify_key(public: bytes, message: bytes, signature: bytes) -> None:
    """Raise `Rejected` unless the key whose public half (DER) this is has signed `message`."""
    try:
        key = serialization.load_der_public_key(public)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Rejected("not a public key", subject="key") from error
    _verify(_p256(key), message, signature)


def key_matches(key_pem: bytes, certificate_pem: bytes) -> bool:
    """Whether the certificate was issued for this private key."""
    return _spki(_key(key_pem).public_key()) == _spki(_p256(_certificate(certificate_pem).public_key()))


# --- requests


def make_request(key_pem: bytes, node_id: str) -> bytes:
    """A certificate request (PEM) for the key. `node_id` is for human readers only: the minting child ignores it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_key(key_pem), hashes.SHA256())
    return request.public_bytes(_PEM)


def request_hash(request_pem: bytes) -> bytes:
    """SHA-256 of the request, however its PEM is wrapped. Raises `Rejected` unless its signature is right."""
    return hashlib.sha256(_request(request_pem).public_bytes(_DER)).digest()


def request_fingerprint(request_pem: bytes) -> bytes:
    """The pin (see :func:`fingerprint`) of the certificate that will be issued for this request."""
    return hashlib.sha256(_spki(_p256(_request(request_pem).public_key()))).digest()


# --- certificates


def fingerprint(certificate_pem: bytes) -> bytes:
    """The pin: SHA-256 of the certificate's SubjectPublicKeyInfo. A certificate renewed for its key keeps it."""
    return hashlib.sha256(_spki(_p256(_certificate(certificate_pem).public_key()))).digest()


def certificate_hash(certificate_pem: bytes) -> bytes:
    """SHA-256 of the whole certificate."""
    return _certificate(certificate_pem).fingerprint(hashes.SHA256())


def subject_of(certificate_pem: bytes) -> SubjectId:
    """Whom a leaf speaks for. Raises `Rejected` when it has not exactly one SAN that is a URI of ours.

    It says what the certificate *claims*: call it on a verified one.
    """
    return _subject(_certificate(certificate_pem))


def root_subject(root_pem: bytes) -> tuple[str, int]:
    """(cluster id, generation) of a root. Raises `Rejected` when it is none of ours."""
    return _root_subject(_certificate(root_pem))


def validity(certificate_pem: bytes) -> tuple[datetime.datetime, datetime.datetime]:
    """(not before, not after), in UTC."""
    certificate = _certificate(certificate_pem)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def pem_of(der: bytes) -> bytes:
    """The PEM form of a DER certificate, as TLS hands it over. Raises `Rejected` when it is none."""
    try:
        return x509.load_der_x509_certificate(der).public_bytes(_PEM)
    except _MALFORMED as error:
        raise Rejected("not a certificate", subject="certificate") from error


def verify_root(root_pem: bytes, *, at: datetime.datetime | None = None) -> tuple[str, int]:
    """(cluster id, generation) of a root that signed itself, is one of ours and is valid `at` (now).

    Raises `Rejected`. That it is the *right* root only a token or an endorsed manifest can tell.
    """
    root = _certificate(root_pem)
    subject = _root_subject(root)
    _check_dates(root, f"root of generation {subject[1]}", at)
    _check_issued(root, root)
    return subject


def verify_leaf(certificate_pem: bytes, root_pem: bytes, *, at: datetime.datetime | None = None) -> SubjectId:
    """The subject of a leaf whose chain to `root_pem` holds `at` that time (now), offline.

    Raises `Rejected`: wrong issuer or signature, another cluster or generation, expired, or not a node certificate.
    """
    cluster_id, generation = verify_root(root_pem, at=at)
    leaf, root = _certificate(certificate_pem), _certificate(root_pem)
    _check_issued(leaf, root)
    subject = _subject(leaf)
    if (subject.cluster_id, subject.generation) != (cluster_id, generation):
        other = f"{cluster_id}, generation {generation}"
        raise Rejected(f"certificate of {subject} was issued by the root of {other}", subject=str(subject))
    _check_dates(leaf, f"certificate of {subject}", at)
    return subject


def verify_manifest(root_pem: bytes, manifest: bytes, signature: bytes) -> None:
    """Raise `Rejected` unless the root's key has signed this manifest."""
    _verify(_p256(_certificate(root_pem).public_key()), MANIFEST_CONTEXT + manifest, signature)


def issue(
    cluster_id: str,
    generation: int,
    requests: Mapping[str, bytes],
    manifest: bytes = b"",
    *,
    at: datetime.datetime | None = None,
) -> Minted:
    """Make a root, sign one certificate per request (node id -> PEM) and the manifest, and forget the root's key.

    Called in the minting child only, where "forget" means that the process exits; `at` is for tests and is not part of
    the child's protocol. Raises `Rejected` for a bad id or a request that is malformed or not signed by its own key.
    """
    subjects = {node_id: SubjectId(cluster_id, generation, node_id) for node_id in requests}
    keys = {node_id: _p256(_request(pem).public_key()) for node_id, pem in requests.items()}
    if len({_spki(key) for key in keys.values()}) != len(keys):
        raise Rejected("two nodes show the same key", subject=cluster_id, remedy="make one key per node")
    now = (at or datetime.datetime.now(datetime.UTC)).replace(microsecond=0)
    root_key = ec.generate_private_key(ec.SECP256R1())
    failpoints.reach("mint.key")
    root = issue_root(root_key, cluster_id, generation, now)
    certificates = {
        node_id: issue_leaf(root_key, root, keys[node_id], str(subject), now).public_bytes(_PEM)
        for node_id, subject in subjects.items()
    }
    signature = root_key.sign(MANIFEST_CONTEXT + manifest, ec.ECDSA(hashes.SHA256()))
    return Minted(root.public_bytes(_PEM), certificates, signature)


def issue_root(
    key: ec.EllipticCurvePrivateKey, cluster_id: str, generation: int, now: datetime.datetime
) -> x509.Certificate:
    """The root certificate of one generation."""
    SubjectId(cluster_id, generation, "root")
    values = (ORGANISATION, cluster_id, str(generation))
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in zip(_ROOT_NAME, values, strict=True)])
    return (
        _certificate_builder(name, name, key.public_key(), now, ROOT_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def issue_leaf(
    root_key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    key: ec.EllipticCurvePublicKey,
    uri: str,
    now: datetime.datetime,
) -> x509.Certificate:
    """A node's certificate. The subject is empty, hence RFC 5280 (4.2.1.6) wants its alternative name critical."""
    return (
        _certificate_builder(x509.Name([]), root.subject, key, now, LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )


# --- tokens


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """An invitation: who holds it may ask once to join. `str` gives all of it, for the inviter; `repr` hides it.

    The members know :meth:`public_key` only, so nobody can join from what the log holds.
    """

    id: str
    secret: bytes
    root_hash: bytes
    """:func:`certificate_hash` of the root that the joiner must meet."""

    @classmethod
    def new(cls, root_pem: bytes) -> Self:
        """A fresh token for the cluster of this root."""
        return cls(secrets.token_hex(8), secrets.token_bytes(16), certificate_hash(root_pem))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token that `text` spells (white space around it is ignored). Raises `Rejected`, without quoting it."""
        parts = text.strip().split(".")
        if len(parts) != 4 or parts[0] != "rc1":
            raise _bad_token("it is not of the form rc1.<id>.<secret>.<fingerprint>")
        if not _TOKEN_ID.match(parts[1]):
            raise _bad_token("its id is damaged")
        return cls(parts[1], _decode(parts[2], 16, "secret"), _decode(parts[3], 32, "fingerprint"))

    def __str__(self) -> str:
        return f"rc1.{self.id}.{_encode(self.secret)}.{_encode(self.root_hash)}"

    def __repr__(self) -> str:
        return f"Token(id={self.id!r}, secret=<hidden>, root_hash={self.root_hash.hex()!r})"

    def public_key(self) -> bytes:
        """The 32 raw bytes of the Ed25519 key that checks :meth:`sign`."""
        return self._private_key().public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Proof of holding the token, over `message`."""
        return self._private_key().sign(message)

    def _private_key(self) -> ed25519.Ed25519PrivateKey:
        """Derived from the secret (RFC 5869), the id as salt: equal secrets under two ids share no key."""
        derived = HKDF(hashes.SHA256(), length=32, salt=self.id.encode(), info=_TOKEN_INFO).derive(self.secret)
        return ed25519.Ed25519PrivateKey.from_private_bytes(derived)


def verify_token_signature(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raise `Rejected` unless the holder of the token with this public key has signed `message`."""
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise Rejected("the token's signature is wrong", subject="token", remedy="ask for a new token") from error


# --- inside


def _bad_token(why: str) -> Rejected:
    return Rejected(f"this is no token: {why}", subject="token", remedy="copy all of the line that `invite` printed")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str, length: int, what: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_token(f"its {what} is damaged") from error
    if len(raw) != length or _encode(raw) != text:
        raise _bad_token(f"its {what} is damaged")
    return raw


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Rejected("not a private key", subject="key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise Rejected("not an EC P-256 private key", subject="key")
    return key


def _p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise Rejected("not an EC P-256 public key", subject="key", remedy="only keys made by raftcluster are used")
    return key


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _verify(key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> None:
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise Rejected("the signature is wrong", subject="signature") from error


def _request(pem: bytes) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
    except _MALFORMED as error:
        raise Rejected("not a certificate request", subject="request") from error
    if not valid:
        raise Rejected("the request is not signed by its own key", subject="request")
    return request


def _certificate(pem: bytes) -> x509.Certificate:
    """All of it that is used is looked at here: `cryptography` parses a part when it is asked for."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.public_key()
        _ = certificate.subject, certificate.extensions
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except _MALFORMED as error:
        raise Rejected("not a certificate", subject="certificate") from error
    return certificate


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
    usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not sign_certificates, key_cert_sign=sign_certificates, **usage)


def _subject(certificate: x509.Certificate) -> SubjectId:
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise Rejected("the certificate names no node", subject="certificate") from error
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise Rejected("the certificate has other names than one URI", subject="certificate")
    return SubjectId.parse(names[0].value)


def _root_subject(root: x509.Certificate) -> tuple[str, int]:
    oids, values = [attribute.oid for attribute in root.subject], [str(attribute.value) for attribute in root.subject]
    try:
        limits = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError) as error:
        raise Rejected("not a root of a cluster", subject="root certificate") from error
    if oids != list(_ROOT_NAME) or values[0] != ORGANISATION or not values[2].isdecimal() or not limits.ca:
        raise Rejected("not a root of a cluster", subject="root certificate")
    subject = SubjectId(values[1], int(values[2]), "root")
    return subject.cluster_id, subject.generation


def _check_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Rejected("the certificate was not issued by this root", subject="certificate") from error


def _check_dates(certificate: x509.Certificate, what: str, at: datetime.datetime | None) -> None:
    now = at or datetime.datetime.now(datetime.UTC)
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    remedy = "check the clock, else join again"
    if now < first:
        raise Rejected(f"{what} is valid from {first:%Y-%m-%d %H:%M} UTC on", subject=what, remedy=remedy)
    if now > last:
        raise Rejected(f"{what} expired at {last:%Y-%m-%d %H:%M} UTC", subject=what, remedy=remedy)
