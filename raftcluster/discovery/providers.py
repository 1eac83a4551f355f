"""The providers that are installed, found by entry point: ours and those of other packages."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final

from raftcluster.discovery.inquiry import Provider
from raftcluster.errors import Refusal

GROUP: Final = "raftcluster.discovery"


def names() -> list[str]:
    """Of all providers, sorted."""
    return sorted(_installed())


def load(name: str) -> Provider:
    """The provider of this name. Raises `Refusal` when there is none, or it cannot be imported."""
    installed = _installed()
    if name not in installed:
        raise Refusal(
            f"there is no provider {name!r:.80}", subject=name[:80], remedy=f"there are {', '.join(sorted(installed))}"
        )
    entry = installed[name]
    try:
        found: Provider = entry.load()()
    except (ImportError, AttributeError, TypeError) as error:  # another package's; it must not take ours with it
        raise Refusal(
            f"the provider {name} ({entry.value}) cannot be used: {error}",
            subject=name,
            remedy="reinstall the package that brings it, or name other providers with --provider",
        ) from error
    return found


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
