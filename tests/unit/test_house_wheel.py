"""What an embedder gets: the wheel holds what is tracked, and importing it changes nothing in their process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests import checkout

# Prints what imports change in a process: {what: [before, after]} of all that differs.
PROBE = """
import json, logging, os, pickle, signal, sys, threading

def state():
    return {
        "unpickler": sorted(map(repr, pickle._Unpickler.dispatch.items())),
        "pickler": sorted(map(repr, pickle._Pickler.dispatch.items())),
        "threads": [thread.name for thread in threading.enumerate()],
        "signals": [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        "root logger": [repr(each) for each in logging.root.handlers] + [logging.root.level, logging.root.disabled],
        "hooks": [repr(sys.excepthook), repr(sys.unraisablehook), repr(threading.excepthook)],
        "environment": dict(os.environ),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "directory": os.getcwd(),
        "recursion": sys.getrecursionlimit(),
    }

before = state()
modules = %s
for module in modules:
    __import__(module)
after = state()
print(json.dumps({what: [before[what], after[what]] for what in before if before[what] != after[what]}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from nothing but the tracked files."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in checkout.files():
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout.ROOT / path, folder / "source" / path)
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(folder / "source"),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to put on an embedder's path."""
    target = tmp_path_factory.mktemp("embedder")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-qq",
        "--no-index",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    return target


def embedder(installed: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` as somebody else's program: isolated, elsewhere, with the installed wheel first on its path."""
    code = f"import sys\nsys.path.insert(0, {str(installed)!r})\n{code}"
    return subprocess.run([sys.executable, "-I", "-c", code], cwd=installed.parent, capture_output=True, text=True)


def changed(installed: Path, modules: list[str]) -> Any:
    done = embedder(installed, PROBE % json.dumps(modules))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_wheel_holds_exactly_what_is_tracked(wheel: Path) -> None:
    tracked = {
        str(path if path.parts[0] == "raftcluster" else Path("raftcluster") / path)
        for path in checkout.files()
        if path.parts[0] in checkout.LIBRARY and path.suffix in (".py", ".typed")
    }
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == tracked
    assert [name for name in names if name.endswith("licenses/LICENSE")]


@pytest.mark.parametrize("name", ["storage", "transport", "cli", "tests", "benchmarks", "examples"])
def test_the_embedders_namespace_is_theirs(installed: Path, name: str) -> None:
    done = embedder(installed, f"from raftcluster import errors\nprint(errors.__file__)\nimport {name}")
    assert Path(done.stdout.strip()) == installed / "raftcluster" / "errors.py"
    assert f"ModuleNotFoundError: No module named '{name}'" in done.stderr


def test_importing_changes_nothing(installed: Path) -> None:
    paths = sorted(installed.glob("raftcluster/**/*.py"))
    modules = [".".join(path.relative_to(installed).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    assert "raftcluster.engine.seam" in modules
    assert changed(installed, [name for name in modules if not name.endswith(".__main__")]) == {}


def test_the_probe_sees_what_the_bare_engine_changes(installed: Path) -> None:
    assert "unpickler" in changed(installed, ["pysyncobj"])


def test_the_command_works_without_its_extra(installed: Path, tmp_path: Path) -> None:
    """rich is optional: help and the answer that no node runs need none of it."""
    run = "sys.modules['rich'] = None\nfrom raftcluster.cli.main import main\nmain({}, prog_name='raftcluster')"
    done = embedder(installed, run.format(["--help"]))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: raftcluster" in done.stdout
    done = embedder(installed, run.format(["-C", str(tmp_path / "no-node"), "status"]))
    assert "Traceback" not in done.stderr
    assert done.returncode == 7
