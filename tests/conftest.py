"""Hypothesis' profiles: `default` for every run, `fuzz` for `./run fuzz`, `deep` for a night."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

BUSY = (HealthCheck.too_slow,)  # a machine with other work is no finding, nor is a deadline that it made us miss
settings.register_profile("default", deadline=None, suppress_health_check=BUSY, print_blob=True)
settings.register_profile("fuzz", settings.get_profile("default"), max_examples=400)
settings.register_profile("deep", settings.get_profile("default"), max_examples=20_000)
settings.load_profile("default")
