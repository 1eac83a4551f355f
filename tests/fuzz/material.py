"""Keys and certificates for the surfaces: the same in every process, or no finding could be repeated.

They are in `material.json`, valid for a hundred years and worth nothing: `python -m tests.fuzz.material` makes others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from raftcluster.cluster.manifests import MANIFEST, Link, Manifest, endorsed
from raftcluster.cluster.statement import Statement
from raftcluster.transport import certificates
from raftcluster.transport.certificates import Token

FILE: Final = Path(__file__).with_name("material.json")
FOUNDER, NODE = "id-1", "id-2"
_HELD: Final[dict[str, bytes]] = {
    name: bytes.fromhex(text) for name, text in (json.loads(FILE.read_text()) if FILE.exists() else {}).items()
}


def manifest_1(request: bytes) -> bytes:
    """Of a founder that has made this request."""
    pin = certificates.request_fingerprint(request)
    return Manifest(MANIFEST, "c1", 1, 1, "genesis", b"", {FOUNDER: pin}).pack()


def manifest_2(first: Link, request: bytes, other: bytes) -> bytes:
    """Of the founder and a second voter."""
    pins = {FOUNDER: certificates.request_fingerprint(request), NODE: certificates.request_fingerprint(other)}
    return Manifest(MANIFEST, "c1", 2, 2, "tx", first.digest, pins).pack()


def made() -> dict[str, bytes]:
    """New ones."""
    certificates.ROOT_DAYS, certificates.LEAF_DAYS = 36_500, 36_400  # type: ignore[misc]
    key, other = certificates.new_key(), certificates.new_key()
    request, request_2 = certificates.make_request(key, FOUNDER), certificates.make_request(other, NODE)
    first = certificates.issue("c1", 1, {FOUNDER: request}, manifest_1(request))
    link = Link(manifest_1(request), first.root_pem, first.manifest_signature, {})
    manifest = manifest_2(link, request, request_2)
    second = certificates.issue("c1", 2, {FOUNDER: request, NODE: request_2}, manifest)
    bare = Link(manifest, second.root_pem, second.manifest_signature, {})
    return {
        "key": key,
        "key_2": other,
        "request": request,
        "request_2": request_2,
        "root": first.root_pem,
        "root_2": second.root_pem,
        "certificate": first.certificates[FOUNDER],
        "certificate_2": second.certificates[NODE],
        "signature": first.manifest_signature,
        "signature_2": second.manifest_signature,
        "endorsement": certificates.sign(key, endorsed(bare.digest)),
        "said": Statement("c1", "c2", "new", FOUNDER, bytes(32), 7).signed(key, first.certificates[FOUNDER]),
    }


def write() -> None:
    """Replace the file."""
    FILE.write_text(json.dumps({name: data.hex() for name, data in made().items()}, indent=0) + "\n")


if __name__ == "__main__":
    write()
else:
    KEY, KEY_2, REQUEST, REQUEST_2 = (_HELD[name] for name in ("key", "key_2", "request", "request_2"))
    ROOT, ROOT_2, CERTIFICATE, CERTIFICATE_2 = (
        _HELD[name] for name in ("root", "root_2", "certificate", "certificate_2")
    )
    PIN = certificates.request_fingerprint(REQUEST)
    LINK_1 = Link(manifest_1(REQUEST), ROOT, _HELD["signature"], {})
    ENDORSEMENT = [certificates.public_key(KEY), _HELD["endorsement"]]
    LINK_2 = Link(manifest_2(LINK_1, REQUEST, REQUEST_2), ROOT_2, _HELD["signature_2"], {FOUNDER: ENDORSEMENT})
    SAID = _HELD["said"]
    TOKEN = Token("0" * 16, bytes(16), certificates.certificate_hash(ROOT))
