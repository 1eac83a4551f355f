"""What of the program goes with a cluster's end: what a push has put here, when the node asks for it, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from raftcluster.cluster.destroy import MARKER
from raftcluster.push import software
from raftcluster.push.place import Place
from raftcluster.push.software import Software

RELEASE = "releases/0123456789abcdef"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A host of its own below a folder: there was nothing before the push but a file of somebody else's in PREFIX."""
    found = Place(str(tmp_path / "opt" / "raftcluster"), str(tmp_path / "lib" / "node"))
    prefix = Path(found.prefix)
    (prefix / RELEASE / "wheels").mkdir(parents=True)
    (prefix / "current").symlink_to(RELEASE)
    (prefix / "before").write_text(f"directory\nwas {os.getuid()}:{os.getgid()} 700\nfolder {tmp_path / 'lib'}\n")
    (prefix / "directory").write_text(f"{found.directory}\n")
    (prefix / "theirs").write_text("not ours")
    script = prefix / "uninstall"
    script.write_text(found.files()["uninstall"])
    script.chmod(0o755)
    Path(found.directory).mkdir(parents=True)
    return found


def end(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([f"{place.prefix}/uninstall", *words], capture_output=True, text=True, timeout=30)


def mark(place: Place, prefix: str) -> None:
    text = json.dumps({"event_id": "e1", "software": prefix}, indent=2, sort_keys=True)
    (Path(place.directory) / MARKER).write_text(text)


def test_it_goes_when_the_node_has_asked_for_it_and_is_gone(place: Place) -> None:
    prefix, directory = Path(place.prefix), Path(place.directory)
    for asked, left in ((None, None), ("/elsewhere", None), ("", None), (place.prefix, "tables")):
        if asked is not None:
            mark(place, asked)
        if left:
            (directory / left).write_text("still there")
        assert end(place, "destroyed").returncode == 0 and (prefix / RELEASE).is_dir(), (asked, left)
    (directory / "tables").unlink()
    assert end(place, "destroyed").returncode == 0
    assert [each.name for each in prefix.iterdir()] == ["theirs"]
    assert not directory.parent.exists(), "nor the folder that was made for it"


def test_a_host_with_a_node_keeps_it(place: Place) -> None:
    (Path(place.directory) / "node.json").write_text("{}")
    assert end(place).returncode == 4 and (Path(place.prefix) / RELEASE).is_dir()


def test_whose_program_it_is(place: Place, tmp_path: Path) -> None:
    release, packages = Path(place.prefix) / RELEASE, tmp_path / "raftcluster.list"
    pushed = software.found(release, packages)
    assert (str(pushed.prefix), pushed.directory) == (place.prefix, place.directory)
    (told, left) = software.steps(pushed, place.directory, keep=False)
    assert told == f"remove what a push has put here: {place.prefix}" and "the user raftcluster" in left
    assert software.steps(pushed, place.directory, keep=True) == [f"leave the program in {place.prefix}, as asked"]
    assert "no push" in software.steps(pushed, tmp_path / "another-node", keep=False)[0]
    packages.write_text(f"/.\n{release}\n")
    packed = software.found(release, packages)
    assert packed == Software(package=True) and "dpkg" in software.steps(packed, place.directory, keep=False)[0]
    (Path(place.prefix) / "before").unlink()
    packages.unlink()
    assert software.found(release, packages) == Software()
