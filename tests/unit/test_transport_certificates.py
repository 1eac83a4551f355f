"""What certificates, requests and tokens are and are not, and what the minting child gives away."""

from __future__ import annotations

import base64
import datetime
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from raftcluster import codec
from raftcluster.errors import Refusal, Rejected
from raftcluster.transport import certificates, minting
from raftcluster.transport.certificates import SubjectId, Token
from tests.hierarchy import Hierarchy

DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


# --- lint


def test_lint_of_a_root() -> None:
    made = Hierarchy(["a"], cluster_id="c-1", generation=7)
    root = x509.load_pem_x509_certificate(made.root)
    assert root.subject.rfc4514_string() == "2.5.4.5=7,CN=c-1,O=raftcluster"
    assert root.issuer == root.subject
    limits = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert (limits.value.ca, limits.value.path_length) == (True, 0)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert used(usage.value) == {"key_cert_sign"}
    assert dates(root) == (100, 3600)
    assert isinstance(root.signature_hash_algorithm, hashes.SHA256)
    assert {extension.oid for extension in root.extensions} == {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.SubjectKeyIdentifier.oid,
    }


def test_lint_of_a_leaf() -> None:
    made = Hierarchy(["a"], cluster_id="c-1", generation=7)
    leaf = x509.load_pem_x509_certificate(made.minted.certificates["a"])
    root = x509.load_pem_x509_certificate(made.root)
    assert list(leaf.subject) == []
    assert leaf.issuer == root.subject
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical, "RFC 5280, 4.2.1.6: the subject is empty"
    assert list(names.value) == [x509.UniformResourceIdentifier("raftcluster://c-1/7/a")]
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert used(leaf.extensions.get_extension_for_class(x509.KeyUsage).value) == {"digital_signature"}
    authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert authority.key_identifier == subject.digest
    assert dates(leaf) == (90, 3600)
    assert leaf.serial_number.bit_length() > 64
    assert leaf.serial_number != root.serial_number


def used(usage: x509.KeyUsage) -> set[str]:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign"
    )
    return {name for name in names.split() if getattr(usage, name)}


def dates(certificate: x509.Certificate) -> tuple[int, int]:
    """(days of life from now, seconds backdated), checked against the clock."""
    backdated = (now() - certificate.not_valid_before_utc).total_seconds()
    days = (certificate.not_valid_after_utc - now()) / DAY
    assert abs(backdated - 3600) < 120
    assert 0 <= round(days) - days < 0.01
    return round(days), 3600


def test_a_leaf_never_outlives_its_root() -> None:
    made = Hierarchy(["a"])
    assert certificates.validity(made.minted.certificates["a"])[1] < certificates.validity(made.root)[1]


# --- verification


def test_a_chain_that_holds() -> None:
    made = Hierarchy(["a", "b"], cluster_id="c-1", generation=3)
    assert certificates.verify_leaf(made.minted.certificates["b"], made.root) == SubjectId("c-1", 3, "b")
    assert certificates.key_matches(made.keys["b"], made.minted.certificates["b"])
    assert not certificates.key_matches(made.keys["a"], made.minted.certificates["b"])


@pytest.mark.parametrize(("offset", "why"), [(-2 * DAY, "valid from"), (91 * DAY, "expired"), (101 * DAY, "expired")])
def test_a_chain_out_of_its_time(offset: datetime.timedelta, why: str) -> None:
    made = Hierarchy(["a"])
    with pytest.raises(Rejected, match=why):
        certificates.verify_leaf(made.minted.certificates["a"], made.root, at=now() + offset)


def test_chains_of_another_root_cluster_or_generation() -> None:
    made = Hierarchy(["a"])
    for other in (Hierarchy(["a"]), Hierarchy(["a"], generation=2), Hierarchy(["a"], cluster_id="other")):
        with pytest.raises(Rejected, match="not issued by this root"):
            certificates.verify_leaf(other.minted.certificates["a"], made.root)


@pytest.mark.parametrize(
    "uri", ["raftcluster://mail/2/a", "raftcluster://other/1/a", "https://mail/1/a", "raftcluster://mail/1/"]
)
def test_a_leaf_that_claims_what_its_root_does_not_have(uri: str) -> None:
    root_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = certificates.issue_root(root_key, "mail", 1, now())
    leaf = certificates.issue_leaf(root_key, root, leaf_key.public_key(), uri, now())
    with pytest.raises(Rejected):
        certificates.verify_leaf(pem(leaf), pem(root))


def test_a_leaf_signs_nobody() -> None:
    made = Hierarchy(["a"])
    key = serialization.load_pem_private_key(made.keys["a"], None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(made.minted.certificates["a"])
    forged = certificates.issue_leaf(key, issuer, key.public_key(), "raftcluster://mail/1/b", now())
    with pytest.raises(Rejected):
        certificates.verify_leaf(pem(forged), made.root)
    with pytest.raises(Rejected, match="not a root"):
        certificates.verify_leaf(pem(forged), made.minted.certificates["a"])


def test_a_self_signed_stranger_is_no_root() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "c-1")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now() - DAY, now() + DAY)
    with pytest.raises(Rejected, match="not a root"):
        certificates.verify_root(pem(builder.sign(key, hashes.SHA256())))


def test_signatures_of_nodes_and_roots() -> None:
    made = Hierarchy(["a", "b"])
    signature = certificates.sign(made.keys["a"], b"endorse-v1 x")
    certificates.verify(made.minted.certificates["a"], b"endorse-v1 x", signature)
    for certificate, message in (
        (made.minted.certificates["b"], b"endorse-v1 x"),
        (made.minted.certificates["a"], b"y"),
    ):
        with pytest.raises(Rejected):
            certificates.verify(certificate, message, signature)
    with pytest.raises(Rejected):
        certificates.verify(made.minted.certificates["a"], b"endorse-v1 x", b"")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_pem_are_rejected(data: bytes) -> None:
    for function in (
        certificates.subject_of,
        certificates.root_subject,
        certificates.request_hash,
        certificates.pem_of,
    ):
        with pytest.raises(Rejected):
            function(data)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


# --- subjects


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", fullmatch=True), st.integers(1, 10**18 - 1))
def test_a_subject_survives_its_uri(name: str, generation: int) -> None:
    subject = SubjectId(name, generation, name)
    assert SubjectId.parse(str(subject)) == subject


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", "ä", "a" * 65, "a\n", "..", "a?x", "a#"])
def test_names_that_could_mean_something_else(name: str) -> None:
    with pytest.raises(Rejected):
        SubjectId("c", 1, name)
    with pytest.raises(Rejected):
        SubjectId(name, 1, "a")
    with pytest.raises(Rejected):
        SubjectId.parse(f"raftcluster://c/1/{name}")


@pytest.mark.parametrize("number", ["0", "01", "-1", "1.0", "", "x", "9" * 19, "\u0661"])
def test_generations_have_one_spelling(number: str) -> None:
    with pytest.raises(Rejected):
        SubjectId.parse(f"raftcluster://c/{number}/a")


# --- requests and minting


def test_the_child_mints_and_gives_away_public_data_only() -> None:
    keys = {node: certificates.new_key() for node in ("a", "b")}
    requests = {node: certificates.make_request(pem, "somebody-else") for node, pem in keys.items()}
    minted = minting.mint("mail", 4, requests, b"the manifest")
    assert certificates.verify_root(minted.root_pem) == ("mail", 4)
    for node, key in keys.items():
        assert certificates.verify_leaf(minted.certificates[node], minted.root_pem) == SubjectId("mail", 4, node)
        assert certificates.key_matches(key, minted.certificates[node])
        assert certificates.fingerprint(minted.certificates[node]) == certificates.request_fingerprint(requests[node])
    certificates.verify_manifest(minted.root_pem, b"the manifest", minted.manifest_signature)
    with pytest.raises(Rejected):
        certificates.verify_manifest(minted.root_pem, b"another", minted.manifest_signature)
    assert b"PRIVATE" not in codec.pack([minted.root_pem, minted.certificates, minted.manifest_signature])
    assert minting.mint("mail", 4, requests).root_pem != minted.root_pem, "each run makes a root of its own"


def test_what_the_child_writes_is_known_field_by_field(tmp_path: Path) -> None:
    job = codec.pack(["mail", 1, {"a": certificates.make_request(certificates.new_key(), "a")}, b""])
    child = subprocess.run(
        [sys.executable, "-I", "-c", minting.CHILD],
        input=job,
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    answer = codec.unpack(child.stdout)
    assert set(answer) == {"root", "certificates", "signature"}
    assert child.stderr == b""
    assert list(tmp_path.iterdir()) == []
    for text in (answer["root"], *answer["certificates"].values()):
        assert text.count(b"-----BEGIN CERTIFICATE-----") == text.count(b"-----BEGIN ") == 1


def test_the_child_guards_its_memory() -> None:
    probe = (
        "import resource, sys; from raftcluster.transport import mint; sys.stdin.close(); sys.stdin = open('/dev/null')\n"
        "try: mint.main()\n"
        "except Exception: pass\n"
        "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    answer = subprocess.run([sys.executable, "-I", "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[0] == "0 (0, 0)", "not dumpable, no core files"


def test_extensions_and_names_of_a_request_are_ignored() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("evil.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    minted = certificates.issue("mail", 1, {"a": request.public_bytes(serialization.Encoding.PEM)})
    leaf = x509.load_pem_x509_certificate(minted.certificates["a"])
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificates.verify_leaf(minted.certificates["a"], minted.root_pem) == SubjectId("mail", 1, "a")


def test_a_request_that_its_own_key_has_not_signed_is_rejected() -> None:
    der = bytearray(
        x509.load_pem_x509_csr(certificates.make_request(certificates.new_key(), "a")).public_bytes(
            serialization.Encoding.DER
        )
    )
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(Rejected, match="not signed by its own key"):
        minting.mint("mail", 1, {"a": forged})
    with pytest.raises(Rejected):
        certificates.request_hash(forged)


def test_a_request_for_another_kind_of_key_is_rejected() -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(Rejected, match="P-256"):
        minting.mint("mail", 1, {"a": request.public_bytes(serialization.Encoding.PEM)})


def test_two_nodes_with_one_key_are_rejected() -> None:
    request = certificates.make_request(certificates.new_key(), "a")
    with pytest.raises(Rejected, match="same key"):
        minting.mint("mail", 1, {"a": request, "b": request})


def test_a_child_that_cannot_run_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    request = certificates.make_request(certificates.new_key(), "a")
    for executable in ("", "/nonexistent/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(Refusal, match="minting process"):
            minting.mint("mail", 1, {"a": request})


def test_a_child_that_gets_no_processor_time_is_followed_by_one_that_does_not_step_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(minting, "CHILD", "import signal; signal.pause()")
    monkeypatch.setattr(minting, "GENTLE_SECONDS", 0.1)
    minted = minting.mint("mail", 1, {"a": certificates.make_request(certificates.new_key(), "a")})
    assert certificates.verify_root(minted.root_pem) == ("mail", 1)


@pytest.mark.parametrize(("program", "steps"), [(minting.CHILD, 5), (minting.PROMPT, 0)])
def test_only_the_first_child_steps_back(program: str, steps: int) -> None:
    asked = program.replace("mint.run()", "import os; print(os.nice(0))")
    told = subprocess.run([sys.executable, "-I", "-c", asked], check=True, capture_output=True, text=True).stdout
    assert asked != program and int(told) == min(19, os.nice(0) + steps)


def test_a_request_hash_is_of_the_request_not_of_its_wrapping() -> None:
    request = certificates.make_request(certificates.new_key(), "a")
    assert certificates.request_hash(b"text before\n" + request) == certificates.request_hash(request)
    assert len(certificates.request_hash(request)) == 32


# --- tokens


def test_a_token_survives_paper_and_proves_itself() -> None:
    made = Hierarchy(["a"])
    token = Token.new(made.root)
    again = Token.parse(f"  {token}\n")
    assert again == token
    assert again.root_hash == certificates.certificate_hash(made.root)
    signature = again.sign(b"raftcluster-join-v1 x")
    certificates.verify_token_signature(token.public_key(), b"raftcluster-join-v1 x", signature)
    for public, message, proof in (
        (token.public_key(), b"y", signature),
        (Token.new(made.root).public_key(), b"raftcluster-join-v1 x", signature),
        (b"short", b"raftcluster-join-v1 x", signature),
        (token.public_key(), b"raftcluster-join-v1 x", b""),
    ):
        with pytest.raises(Rejected):
            certificates.verify_token_signature(public, message, proof)


def test_the_secret_shows_in_no_representation() -> None:
    token = Token("0123456789abcdef", bytes(range(16)), bytes(32))
    spelled = str(token).split(".")[2]
    for text in (repr(token), f"{token!r}", repr([token]), repr({"t": token})):
        assert spelled not in text
        assert repr(token.secret) not in text
        assert token.secret.hex() not in text
    assert len(token.public_key()) == 32


def test_one_secret_under_two_ids_makes_two_keys() -> None:
    one, other = (Token(id_, bytes(16), bytes(32)) for id_ in ("0" * 16, "1" * 16))
    assert one.public_key() != other.public_key()


def test_every_damaged_token_is_rejected_without_quoting_it() -> None:
    good = str(Token("0123456789abcdef", os.urandom(16), os.urandom(32)))
    damaged = [good[:i] + good[i + 1 :] for i in range(len(good))] + [
        good + "x",
        good + ".x",
        "",
        "rc1...",
        good.upper(),
    ]
    for text in damaged:
        with pytest.raises(Rejected) as caught:
            Token.parse(text)
        assert good.split(".")[2] not in str(caught.value)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    with pytest.raises(Rejected):
        Token.parse(text)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
def test_each_token_has_one_spelling(secret: bytes, root_hash: bytes) -> None:
    token = Token("0123456789abcdef", secret, root_hash)
    assert Token.parse(str(token)) == token
    flipped = str(token)[:-1] + chr(ord(str(token)[-1]) ^ 1)
    if flipped != str(token):
        try:
            assert str(Token.parse(flipped)) == flipped
        except Rejected:
            pass


def test_a_certificate_whose_key_is_no_point_of_the_curve_is_none() -> None:
    """`cryptography` looks at the key only when it is asked for; that raised an error of its own."""
    pem = Hierarchy(["n1"]).identity("n1").certificate
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    place = der.index(b"\x03\x42\x00\x04") + 60
    spoilt = der[:place] + bytes([der[place] ^ 1]) + der[place + 1 :]
    again = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(spoilt) + b"\n-----END CERTIFICATE-----\n"
    for read in (certificates.fingerprint, certificates.certificate_hash, certificates.subject_of):
        assert read(pem)
        with pytest.raises(Rejected, match="not a certificate"):
            read(again)


def test_a_version_that_does_not_exist_is_rejected() -> None:
    """A stranger's certificate is read where nobody is believed, and TLS takes this one: what `cryptography` raised for it ended
    the threads on which a node looks for its way back."""
    root = Hierarchy(["n1"]).root
    der = ssl.PEM_cert_to_DER_cert(root.decode()).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x04", 1)
    with pytest.raises(Rejected, match="not a certificate"):
        certificates.pem_of(der)
    with pytest.raises(Rejected, match="not a certificate"):
        certificates.certificate_hash(ssl.DER_cert_to_PEM_cert(der).encode())
    request = x509.load_pem_x509_csr(certificates.make_request(certificates.new_key(), "a"))
    der = request.public_bytes(serialization.Encoding.DER).replace(b"\x02\x01\x00", b"\x02\x01\x04", 1)
    pem = ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", "CERTIFICATE REQUEST").encode()
    with pytest.raises(Rejected, match="not a certificate request"):
        certificates.request_hash(pem)
