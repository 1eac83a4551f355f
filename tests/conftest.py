"""Hypothesis' profiles: `default` for every run, `fuzz` for `./run fuzz`."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("default", deadline=None, print_blob=True)  # a busy machine is no finding
settings.register_profile("fuzz", deadline=None, print_blob=True, max_examples=20_000)
settings.load_profile("default")
