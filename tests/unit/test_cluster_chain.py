"""The chain of manifests: followed offline by who slept or holds an old token, and broken by everything that is not right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from raftcluster.cluster import chain
from raftcluster.cluster.manifests import MANIFEST, Link, Manifest, endorsed, is_endorsed, link_digest, majority
from raftcluster.codec import pack
from raftcluster.errors import FrameError, Rejected
from raftcluster.transport import certificates
from raftcluster.transport.certificates import public_key, sign
from tests.hierarchy import key

CLUSTER = "mail"


def made(
    generation: int,
    voters: Sequence[str],
    before: Link | None = None,
    endorsers: Sequence[str] = (),
    *,
    sequence: int | None = None,
    cluster: str = CLUSTER,
    rooted: bool = True,
    signers_generation: int | None = None,
) -> Link:
    """One link, endorsed with the keys that its predecessor's voters have in their generation."""
    pins = {node: certificates.key_fingerprint(public_key(key(CLUSTER, node, generation))) for node in sorted(voters)}
    number = sequence if sequence is not None else before.content().sequence + 1 if before else 1
    previous = before.digest if before else b""
    manifest = Manifest(MANIFEST, cluster, generation, number, "x", previous, pins).pack()
    root, signature = b"", b""
    if rooted:
        request = certificates.make_request(key(CLUSTER, "n1", generation), "n1")
        minted = certificates.issue(cluster, generation, {"n1": request}, manifest)
        root, signature = minted.root_pem, minted.manifest_signature
    message = endorsed(link_digest(manifest, root))
    keys = {
        node: key(CLUSTER, node, signers_generation or (before.content().generation if before else 1))
        for node in endorsers
    }
    return Link(manifest, root, signature, {node: [public_key(pem), sign(pem, message)] for node, pem in keys.items()})


@pytest.fixture(scope="module")
def good() -> list[Link]:
    """1 -> 2 -> 2 with n2 as a voter -> 3 of three -> 5 without n3."""
    first = made(1, ["n1"])
    second = made(2, ["n1"], first, ["n1"])
    amended = made(2, ["n1", "n2"], second, ["n1"], rooted=False)
    third = made(3, ["n1", "n2", "n3"], amended, ["n1", "n2"])
    return [first, second, amended, third, made(5, ["n1", "n2"], third, ["n1", "n3"])]


def refused(links: Sequence[Link]) -> str:
    with pytest.raises(Rejected) as caught:
        chain.verify(links, cluster_id=CLUSTER)
    assert caught.value.message
    return caught.value.code


def test_a_majority() -> None:
    assert [majority(count) for count in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
    assert is_endorsed(["a", "b", "c"], ["a", "c", "z"]) and not is_endorsed(["a", "b"], ["a", "z"])


def test_a_good_chain_is_followed_from_a_root_or_a_link_that_is_known(good: list[Link]) -> None:
    assert chain.verify(good, cluster_id=CLUSTER).generation == 5
    token = certificates.certificate_hash(good[1].root)
    assert chain.verify(chain.first_of(good, token)).voters.keys() == {"n1", "n2"}
    assert chain.after(good, good[2]) == good[2:]
    assert chain.endorsers(good[-1], good[-2].content()) == ["n1", "n3"]
    sent = [Link.read(link.pack()) for link in good]
    assert sent == good and [link.digest for link in sent] == [link.digest for link in good]


def test_what_is_known_must_be_in_it(good: list[Link]) -> None:
    for find in (
        lambda: chain.first_of(good[2:], certificates.certificate_hash(good[0].root)),
        lambda: chain.verify([]),
    ):
        with pytest.raises(Rejected) as caught:
            find()
        assert caught.value.code == "chain-unknown" and "token" in caught.value.remedy
    with pytest.raises(Rejected) as caught:
        chain.after(good[3:], good[1])
    assert caught.value.code == "chain-unknown"


@pytest.mark.parametrize(
    ("endorsers", "signers"), [([], 3), (["n1"], 3), (["n1", "n9"], 3), (["n1", "n2", "n3"], 2)],
)  # fmt: skip
def test_less_than_a_majority_of_the_voters_before_is_never_trusted(
    good: list[Link], endorsers: list[str], signers: int
) -> None:
    """One of three, one of three and a stranger, and all three with keys of another generation."""
    last = made(5, ["n1", "n2"], good[3], endorsers, signers_generation=signers)
    assert refused([*good[:4], last]) == "chain-unendorsed"


def test_endorsements_of_another_manifest_do_not_count(good: list[Link]) -> None:
    other = made(5, ["n1"], good[3], ["n1", "n2"])
    assert refused([*good[:4], replace(other, endorsements=good[4].endorsements)]) == "chain-unendorsed"
    mine = made(5, ["n1"], good[3], [])
    assert refused([*good[:4], replace(good[4], root=mine.root)]) == "chain-broken", "nor of another root"


CHANGES: dict[str, Callable[[list[Link]], Link]] = {
    "a link left out": lambda good: made(5, ["n1"], good[1], ["n1"]),
    "another cluster": lambda good: made(5, ["n1"], good[3], ["n1", "n2"], cluster="other"),
    "a number that goes back": lambda good: made(5, ["n1"], good[3], ["n1", "n2"], sequence=2),
    "a generation that goes back": lambda good: made(2, ["n1"], good[3], ["n1", "n2"], signers_generation=3),
    "an amendment of another generation": lambda good: made(5, ["n1"], good[3], ["n1", "n2"], rooted=False),
    "a root that has not signed it": lambda good: replace(good[4], signature=good[3].signature),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_link_that_does_not_belong_to_the_one_before(good: list[Link], change: str) -> None:
    assert refused([*good[:4], CHANGES[change](good)]) == "chain-broken"


def test_a_member_that_endorses_two_manifests_for_one_number_is_found_by_others(good: list[Link]) -> None:
    fork = made(5, ["n1", "n3"], good[3], ["n1", "n3"])
    assert fork.content().sequence == good[4].content().sequence and fork.digest != good[4].digest
    assert chain.verify([*good[:4], fork]).generation == 5, "each of the two is endorsed"
    with pytest.raises(Rejected) as caught:
        chain.after([*good[:4], fork], good[4])
    assert caught.value.code == "chain-forked" and "n1, n3" in caught.value.message


def test_garbage_is_no_link_and_no_manifest(good: list[Link]) -> None:
    values = good[1].values()
    for broken in (
        None,
        [],
        values[:3],
        [1, *values[1:]],
        [*values[:3], {"n1": [b"key"]}],
        [*values[:3], {1: [b"", b""]}],
    ):
        with pytest.raises(FrameError):
            Link.check(broken)
    content = good[1].content().values()
    for place, wrong in ((0, "another context"), (1, 7), (2, -1), (3, True), (5, "text"), (6, {"n1": 7}), (6, [])):
        changed = [*content[:place], wrong, *content[place + 1 :]]
        with pytest.raises(FrameError):
            Manifest.read(pack(changed))
