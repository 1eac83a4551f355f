"""Who joins with another product, protocol, schema or trust realm is told what differs and what is allowed; then it may come.

The member is a process of its own: what is changed in this one is the joiner's alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import raftcluster
from examples.counter import Counter
from raftcluster.builtin import all_machines, schemas
from raftcluster.cluster import carried, join
from raftcluster.cluster.records import SCHEMA
from raftcluster.errors import LinkRefused, Rejected
from raftcluster.transport import handshake
from raftcluster.transport.certificates import Token
from tests.helpers import eventually, free_ports
from tests.served import PRODUCT, SECONDS, Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("served"), 1) as one:
        eventually(one.settled, SECONDS)
        yield one


def standing(cluster: Cluster) -> Any:
    client = cluster.nodes[0].client
    return [row["name"] for row in client.members.list()], client.certs.show()["generation"]


def joiner(cluster: Cluster, path: Path, token: str, **other: Any) -> partial[Any]:
    """A call that joins, with something else than what the cluster has."""
    where = ("127.0.0.1", free_ports(1)[0])
    own: dict[str, Any] = {
        "name": "mx2", "listen": where, "advertise": where, "product": PRODUCT, "schema": schemas(all_machines(())),
    }  # fmt: skip
    return partial(join.join, path, cluster.nodes[0].place, Token.parse(token), **(own | other))


@pytest.mark.parametrize(
    ("other", "patched", "said"),
    [
        (
            {"product": "gateway/4.2"},
            {},
            [f"the peer runs {PRODUCT}", "this node gateway/4.2", "its version (after the slash) may differ"],
        ),
        (
            {},
            {"PROTOCOL": 3, "PROTOCOL_OLDEST": 2},
            ["the peer speaks protocols 1 to 1", "this node 2 to 3", "upgrade the older one"],
        ),
        (
            {"schema": schemas(all_machines([Counter()]))},
            {},
            ["counter 'absent' there, 1 here", "in the same schema versions on all nodes"],
        ),
        (
            {"schema": {**schemas(all_machines(())), "greylist": 99}},
            {},
            ["greylist", "there, 99 here", "in the same schema versions on all nodes"],
        ),
        (
            {},
            {"SCHEMA": 99},
            [f"the cluster's tables have version {SCHEMA}", "this node's 99", f"only version {SCHEMA} may join"],
        ),
        (
            {"realm": "dns:example.org"},
            {},
            ["the cluster belongs to 'standalone'", "this node to 'dns:example.org'", "one cluster, one realm"],
        ),
    ],
    ids=["product", "protocol", "machines", "machine's version", "schema", "realm"],
)
def test_what_differs_and_what_is_allowed_is_said_and_nothing_happens(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, Any],
    patched: Mapping[str, int],
    said: list[str],
) -> None:
    before, path = standing(cluster), tmp_path / "mx2"
    token = str(cluster.nodes[0].client.members.invite("mx2")["token"])
    for name, value in patched.items():
        monkeypatch.setattr(join if name == "SCHEMA" else handshake, name, value)
    with pytest.raises(Rejected) as caught:
        joiner(cluster, path, token, **other)()
    error = caught.value
    assert [each for each in said if each not in str(error)] == [], str(error)
    if isinstance(error, LinkRefused):
        assert error.exit_code == 11
    else:
        assert (error.exit_code, error.code) == (4, "incompatible")
    assert standing(cluster) == before and not (path / "node.json").exists()
    cluster.nodes[0].client.tokens.revoke(token.split(".")[1])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"product": "gateway/4.2"}, [f"the cluster runs '{PRODUCT}'", "'gateway/4.2'", "any version of 'raftcluster' may"]),
        ({"realm": "dns:example.org"}, ["'standalone'", "'dns:example.org'", "one cluster, one realm"]),
        (
            {"machines": schemas(all_machines([Counter()]))},
            ["counter: absent here, 1 there", "only the same in the same schema versions may join"],
        ),
    ],
    ids=["product", "realm", "machines"],
)  # fmt: skip
def test_through_files_as_well(cluster: Cluster, tmp_path: Path, other: dict[str, Any], said: list[str]) -> None:
    where, file = ("127.0.0.1", free_ports(1)[0]), tmp_path / "request"
    before, tokens = standing(cluster), cluster.nodes[0].client.tokens.list()
    options: dict[str, Any] = {"product": PRODUCT, "machines": schemas(all_machines(()))}
    carried.request(tmp_path / "mx2", file, name="mx2", listen=where, advertise=where, **(options | other))
    with pytest.raises(Rejected) as caught:
        cluster.nodes[0].client.certs.export(file.read_bytes())
    assert [each for each in said if each not in str(caught.value)] == [], str(caught.value)
    assert caught.value.code == "incompatible" and standing(cluster) == before
    assert cluster.nodes[0].client.tokens.list() == tokens, "no invitation is left either"


def test_what_is_allowed_may_join_with_the_token_that_was_refused(tmp_path: Path) -> None:
    """Another version of the same product, which was another product by mistake first."""
    with Cluster(tmp_path, 1) as cluster:
        eventually(cluster.settled, SECONDS)
        path, token = tmp_path / "other", str(cluster.nodes[0].client.members.invite("mx2")["token"])
        with pytest.raises(LinkRefused):
            joiner(cluster, path, token, product="gateway/4.2")()
        later = f"{PRODUCT.partition('/')[0]}/99.0"
        assert joiner(cluster, path, token, product=later)().members == ["mx1", "mx2"]
        with raftcluster.Node.open(path, product=later, ready_seconds=SECONDS) as node:
            eventually(lambda: len(node.status()["voters"]) == 2, SECONDS, "it votes")
            products = {row["product"] for row in cluster.nodes[0].client.members.list()}
            assert products == {PRODUCT, later}
