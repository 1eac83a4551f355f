"""The commands that keep the chain's voters those of the cluster: a learner that has become one shall count. Rules: `machine`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from raftcluster.cluster.manifests import MANIFEST, Link, Manifest, is_endorsed
from raftcluster.cluster.records import Amendment, Member, rejected
from raftcluster.cluster.rows import Commands, chain_voters, check_endorsement, live_members, put_link
from raftcluster.cluster.view import FACTS, active, amendment, head, last, pending
from raftcluster.codec import Value, pack
from raftcluster.machine import Tables


def wanted_voters(known: Mapping[str, bytes], live: Iterable[Member], candidate: str = "") -> dict[str, bytes]:
    """The voters that the chain should name (node id -> fingerprint of its key): those that it does, and who has become one;
    and a learner, `candidate`, that is about to.

    A cluster that can decide must always be able to endorse, whoever is down. From an even to an odd number that needs the
    chain to be first (the majority does not grow), from an odd to an even number the engine.
    """
    new = {
        each.node_id: each.pins[-1]
        for each in live
        if (each.role == "voter" or each.node_id == candidate) and each.pins and not each.asleep_since
    }
    return dict(sorted({**new, **known}.items()))


def _amend(tables: Tables, time: int, txid: str, candidate: str) -> Value:
    """Begin a change of the chain's voters, unless none is needed. The result is its number, or None."""
    known, current = chain_voters(tables), active(tables)
    if candidate and len(known) % 2:
        raise rejected("out-of-order", f"{candidate} must vote before the chain of {len(known)} voters names it")
    wanted = wanted_voters(known, live_members(tables), candidate)
    newest = head(tables)
    assert current is not None and newest is not None, "there was a genesis"
    if pending(tables) is not None:
        raise rejected("generation-under-way", "a generation is under way: it brings the voters up to date")
    if wanted == known:
        return None
    under_way = amendment(tables)
    if under_way is not None and sorted(under_way.voters) == sorted(wanted):
        return under_way.sequence
    sequence = last(tables, "sequence") + 1
    cluster_id = newest.content().cluster_id
    manifest = Manifest(MANIFEST, cluster_id, current.number, sequence, txid, newest.digest, wanted)
    tables.put(FACTS, b"sequence", pack(sequence))
    tables.put(FACTS, b"amendment", Amendment(sequence, manifest.pack(), sorted(wanted), {}).pack())
    return sequence


def _amended(tables: Tables, time: int, sequence: int, node_id: str, endorsement: list[Value]) -> Value:
    """A voter endorses the change; the last one that is needed makes it the chain's newest link."""
    current, voters = amendment(tables), chain_voters(tables)
    if current is None or current.sequence != sequence:
        raise rejected("not-under-way", f"amendment {sequence} is not under way", subject=str(sequence))
    if node_id in current.endorsements:
        return None
    if node_id not in voters:
        raise rejected("no-voter", f"{node_id} is no voter of the chain's newest manifest", subject=node_id)
    check_endorsement(voters, node_id, endorsement)
    given = {**current.endorsements, node_id: endorsement}
    current = replace(current, endorsements={each: given[each] for each in sorted(given)})
    if is_endorsed(voters, list(given)):
        put_link(tables, sequence, Link(current.manifest, b"", b"", dict(current.endorsements)))
        tables.delete(FACTS, b"amendment")
    else:
        tables.put(FACTS, b"amendment", current.pack())
    return None


COMMANDS: Commands = {
    "amend": (_amend, (str, str)),
    "amended": (_amended, (int, str, list)),
}
