"""The commands about invitations. Rules: see `machine`."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from raftcluster.cluster.records import Invitation, rejected
from raftcluster.cluster.rows import Commands, check_name, live_members, of_kind, put_invitation
from raftcluster.cluster.view import INVITATIONS, TOKENS, invitation, invitations
from raftcluster.codec import Value
from raftcluster.machine import Tables

INVITATION_SECONDS: Final = 30 * 86_400
"""The longest life of a token."""
ADDRESSES: Final = 16
"""That one invitation may name."""
KEPT_MS: Final = 86_400_000
"""An expired invitation is forgotten after a day: until then a joiner that lost the answer may ask again."""


def _invite(
    tables: Tables, time: int, token_id: str, public_key: bytes, name: str, life_s: int, addresses: list[Value]
) -> Value:
    """Remember a token's public half; the result is its expiry in cluster time."""
    check_name(name)
    if not 1 <= life_s <= INVITATION_SECONDS:
        raise rejected(
            "malformed", f"an invitation lives 1 to {INVITATION_SECONDS} seconds, not {life_s}", subject="ttl"
        )
    if len(public_key) != 32 or not 1 <= len(token_id) <= 64:
        raise rejected("malformed", "malformed invitation", subject=token_id)
    if len(addresses) > ADDRESSES or not all(of_kind(each, str) and len(each) <= 64 for each in addresses):
        raise rejected("malformed", f"an invitation names at most {ADDRESSES} addresses", subject=name)
    wanted = Invitation(token_id, public_key, name, time + life_s * 1000, None, False, addresses)
    known = invitation(tables, token_id)
    if known is not None:
        if replace(known, expires=wanted.expires) == wanted:
            return known.expires
        raise rejected("token-exists", f"there is a token {token_id} already", subject=token_id)
    if any(member.name == name for member in live_members(tables)):
        raise rejected(
            "name-taken", f"{name} is a member already", subject=name, remedy="remove it first, or choose another name"
        )
    kept = 0
    for each in invitations(tables):
        if each.expires + KEPT_MS < time:
            tables.delete(TOKENS, each.token_id.encode())
        else:
            kept += 1
    if kept >= INVITATIONS:
        raise rejected(
            "too-many-tokens",
            f"{kept} invitations are remembered, the limit is {INVITATIONS}",
            remedy="wait a day, or use fewer",
        )
    put_invitation(tables, wanted)
    return wanted.expires


def _revoke(tables: Tables, time: int, token_id: str) -> Value:
    known = invitation(tables, token_id)
    if known is None:
        raise rejected("token-unknown", f"there is no token {token_id}", subject=token_id)
    if known.used_by is not None:
        raise rejected(
            "token-used", f"token {token_id} let {known.name} in already", subject=token_id, remedy="remove the member"
        )
    put_invitation(tables, replace(known, revoked=True))
    return None


COMMANDS: Commands = {
    "invite": (_invite, (str, bytes, str, int, list)),
    "revoke": (_revoke, (str,)),
}
