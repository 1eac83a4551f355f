"""The seam: which engine it accepts, and that it leaves the published one alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pysyncobj.syncobj
import pytest

from raftcluster.engine import membership, seam
from raftcluster.engine.membership import Change
from raftcluster.errors import Refusal
from tests.checkout import ROOT


def test_the_installed_engine_is_the_one_that_the_guard_was_written_against() -> None:
    assert seam.check_package() is True


def test_another_engine_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seam, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(Refusal, match=r"pysyncobj==0\.3\.17"):
        seam.check_package()
    assert seam.check_package(allow_other=True) is False


def test_the_published_module_is_untouched() -> None:
    published: Any = pysyncobj.syncobj
    assert published.pickle.loads(published.pickle.dumps([1])) == [1]
    assert not isinstance(seam.Engine, published.SyncObj)
    assert published.Serializer.__name__ == "Serializer"


def test_our_copy_pickles_nothing() -> None:
    with pytest.raises(AssertionError, match="pickle"):
        seam._engine.pickle.loads(b"")
    with pytest.raises(AssertionError, match="pickle"):
        seam._engine.pickle.dumps(1)


def test_the_engine_reads_the_clock_that_its_deadlines_are_compared_with() -> None:
    """It read CLOCK_MONOTONIC_RAW, and we `time.monotonic`: at a drift of 100 ppm they are a second apart after three hours.
    Behind, nobody stood for election for as long; ahead, followers took a leader for gone at every tick."""
    check = "import time; from raftcluster.engine import seam; assert seam._engine.monotonicTime is time.monotonic"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_the_configuration_is_the_fold_of_the_changes() -> None:
    changes = [Change("add", "b"), Change("add", "c"), Change("rem", "a")]
    assert membership.fold({"a"}, changes) == {"b", "c"}
    for change in changes:
        assert membership.decode(membership.MEMBERSHIP + membership.encode(change)) == change


@pytest.mark.parametrize("command", [b"", b"\x00x", b"\x02", b"\x02\xc1", b"\x02\x92\x01\x02", b"\x02\x91\xa3add"])
def test_what_is_no_change_is_none(command: bytes) -> None:
    assert membership.decode(command) is None
