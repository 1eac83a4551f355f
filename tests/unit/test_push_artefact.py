"""The artefact: one hash, read through, and what it may not be."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from raftcluster.errors import Refusal
from raftcluster.push.artefact import Wheel, read, seal

OURS = "raftcluster-0.1.0-py3-none-any.whl"
NATIVE = "cffi-2.1.1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
STABLE = "cryptography-50.0.2-cp311-abi3-manylinux_2_34_x86_64.whl"
SPELT = "markdown_it_py-4.3.0-py2.py3-none-any.whl"


def wheelhouse(folder: Path, *names: str) -> Path:
    (folder / "wheels").mkdir(parents=True)
    for name in names:
        (folder / "wheels" / name).write_text(f"content of {name}")
    return folder


def test_one_hash_stands_for_all_of_it(tmp_path: Path) -> None:
    one = seal(wheelhouse(tmp_path / "one", OURS, NATIVE, SPELT))
    other = seal(wheelhouse(tmp_path / "other", SPELT, OURS, NATIVE))
    assert one.hash == other.hash and one.id == one.hash[:16] and len(one.hash) == 64
    assert (one.version, [each.project for each in one.wheels]) == ("0.1.0", ["cffi", "markdown-it-py", "raftcluster"])
    assert one.size == sum(len(f"content of {each.name}") for each in one.wheels)
    (tmp_path / "other" / "wheels" / NATIVE).write_text("another build")
    assert seal(tmp_path / "other").hash != one.hash


def test_a_host_compares_it_with_the_systems_tools(tmp_path: Path) -> None:
    sealed = seal(wheelhouse(tmp_path / "one", OURS, NATIVE))
    subprocess.run(["sha256sum", "--quiet", "-c", "../SHA256SUMS"], cwd=sealed.folder / "wheels", check=True)
    assert hashlib.sha256((sealed.folder / "SHA256SUMS").read_bytes()).hexdigest() == sealed.hash


def test_what_is_not_as_it_was_sealed_is_refused(tmp_path: Path) -> None:
    folder = seal(wheelhouse(tmp_path / "one", OURS, NATIVE)).folder
    assert read(folder).wheels[0].name == NATIVE
    (folder / "wheels" / NATIVE).write_text("another")
    with pytest.raises(Refusal, match=f"not what was sealed: {NATIVE}"):
        read(folder)
    (folder / "wheels" / NATIVE).unlink()
    with pytest.raises(Refusal, match=f"not what was sealed: {NATIVE}"):
        read(folder)
    wheelhouse(tmp_path / "two", OURS)
    with pytest.raises(Refusal, match="is no wheelhouse"):
        read(tmp_path / "two")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([NATIVE], "not one wheel of raftcluster"),
        ([OURS, "raftcluster-0.2.0-py3-none-any.whl"], "not one wheel of raftcluster"),
        ([OURS, NATIVE, NATIVE.replace("2.1.1", "2.1.2")], "two of another project"),
        ([OURS, "cffi.whl"], "cffi.whl is no wheel"),
    ],
)
def test_what_is_no_artefact(tmp_path: Path, names: list[str], text: str) -> None:
    with pytest.raises(Refusal, match=text):
        seal(wheelhouse(tmp_path / "one", *names))


@pytest.mark.parametrize(
    ("name", "fitting"),
    [
        (OURS, [(3, 11), (3, 12), (3, 13)]),
        (SPELT, [(3, 11), (3, 12), (3, 13)]),
        (NATIVE, [(3, 11)]),
        (STABLE, [(3, 11), (3, 12), (3, 13)]),
        (STABLE.replace("cp311", "cp312"), [(3, 12), (3, 13)]),
    ],
)
def test_which_interpreters_a_wheel_fits(name: str, fitting: list[tuple[int, int]]) -> None:
    wheel = Wheel(name, "", 0)
    assert [each for each in ((3, 11), (3, 12), (3, 13)) if wheel.fits(each)] == fitting
