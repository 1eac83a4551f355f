"""For how long nobody could write after a leader was lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Loss(NamedTuple):
    """A leader that was taken away. `what` says how."""

    at: float
    what: str


class Gap(NamedTuple):
    """How long it took until a write that was called after the loss was acknowledged."""

    seconds: float
    loss: Loss


def worst(losses: Iterable[Loss], writes: Sequence[tuple[float, float]]) -> Gap | None:
    """The longest one. `writes` are (call, answer) of acknowledged writes. None when no leader was lost.

    A loss after which nobody wrote any more counts from then to infinity.
    """
    gaps = [
        Gap(min((ret for call, ret in writes if call > loss.at), default=float("inf")) - loss.at, loss)
        for loss in losses
    ]
    return max(gaps, default=None)
