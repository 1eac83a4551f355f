"""A member joins and is removed under load: not one check is lost, doubled, answered without the cluster, or an error.

How fast that is, is printed, and decides nothing here; `./run rollover` measures it.
"""

from __future__ import annotations

from pathlib import Path

from tests.rollover.life import live
from tests.served import Patient

PER_SECOND = 200.0


def test_no_check_notices_that_all_certificates_are_replaced(tmp_path: Path) -> None:
    life = live(tmp_path, per_second=PER_SECOND, quiet_s=0.5, kind=Patient)
    for each in life.stretches:
        print(each)
    assert life.errors == [] and life.degraded == [] and not any(life.wrong.values())
    assert all(each.checks for each in life.stretches)
    assert life.generation == 6, "three to grow, one each to join, to remove and on demand"
