"""The Debian package: `./run deb [FOLDER]` writes raftcluster_VERSION_ARCH.deb there (by default to dist/).

It holds the wheelhouse; `postinst` makes the virtual environment from it, without a network. The maintainer scripts beside this
file are filled in with where things are.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from raftcluster.push.artefact import SUMS, WHEELS, Artefact
from raftcluster.push.build import EPOCH
from raftcluster.push.unit import DIRECTORY, OPTIONS, USER, unit
from raftcluster.pushing import artefact

HERE = Path(__file__).parent
ROOT = HERE.parent
HOME = "/usr/lib/raftcluster"
PROGRAM = "/usr/bin/raftcluster"
SCRIPTS = ("postinst", "prerm", "postrm")
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/raftcluster",
    "zsh": "usr/share/zsh/vendor-completions/_raftcluster",
    "fish": "usr/share/fish/vendor_completions.d/raftcluster.fish",
}
PYTHONS = range(11, 40)


def build(target: Path) -> Path:
    """The package, in the folder `target`."""
    with tempfile.TemporaryDirectory(prefix="raftcluster-deb-") as place:
        pushed = artefact(Path(place) / "artefact")
        tree = Path(place) / "tree"
        _fill(tree, pushed)
        control = _control(pushed, tree)
        _write(tree / "DEBIAN" / "control", control)
        _write(tree / "DEBIAN" / "conffiles", f"{OPTIONS}\n")
        for name in SCRIPTS:
            _write(tree / "DEBIAN" / name, _filled((HERE / name).read_text(), pushed), 0o755)
        target.mkdir(parents=True, exist_ok=True)
        file = target / f"raftcluster_{_version(pushed)}_{_architecture()}.deb"
        words = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(file)]
        subprocess.run(words, check=True, stdout=sys.stderr, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH})
    return file


def _fill(tree: Path, pushed: Artefact) -> None:
    release = tree / HOME[1:] / "releases" / pushed.id
    (release / WHEELS).mkdir(parents=True)
    for each in pushed.wheels:
        shutil.copyfile(pushed.file(each), release / WHEELS / each.name)
    _write(release / SUMS, pushed.sums)
    command = tree / PROGRAM[1:]
    command.parent.mkdir(parents=True)
    command.symlink_to(f"{HOME.replace('/usr', '..')}/current/venv/bin/raftcluster")
    _write(tree / "lib/systemd/system/raftcluster.service", unit(PROGRAM, DIRECTORY, "# Of the package raftcluster."))
    _write(tree / OPTIONS[1:], "# Options of `raftcluster serve`, see raftcluster serve --help\nRAFTCLUSTER_OPTIONS=\n")
    for shell, path in COMPLETIONS.items():
        _write(tree / path, _completion(shell))
    docs = tree / "usr/share/doc/raftcluster"
    _write(docs / "copyright", (ROOT / "LICENSE").read_text())
    (docs / "changelog.gz").write_bytes(gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
    for folder in (tree, *(each for each in tree.rglob("*") if each.is_dir())):
        folder.chmod(0o755)


def _control(pushed: Artefact, tree: Path) -> str:
    fitting = [minor for minor in PYTHONS if not pushed.unfit((3, minor))]
    python = [f"python3 (>= 3.{fitting[0]})"]
    python += [f"python3 (<< 3.{fitting[-1] + 1})"] if fitting[-1] != PYTHONS[-1] else []
    size = sum(each.stat().st_size for each in tree.rglob("*") if each.is_file() and not each.is_symlink())
    return f"""Package: raftcluster
Version: {_version(pushed)}
Architecture: {_architecture()}
Maintainer: raftcluster <raftcluster@localhost>
Section: mail
Priority: optional
Depends: {", ".join(python)}, python3-venv, passwd, util-linux
Recommends: nftables
Suggests: postfix
Installed-Size: {size // 1024}
Description: the same configuration and the same greylist on every MX host
 Several mail servers, one cluster: replicated configuration and greylisting
 through Postfix's policy protocol, over mutual TLS.
 .
 The program lies in this package as wheels; a virtual environment is made of
 them when it is installed, without a network.
"""


def _filled(text: str, pushed: Artefact) -> str:
    for name, value in {"HOME": HOME, "ID": pushed.id, "USER": USER, "DIRECTORY": DIRECTORY}.items():
        text = text.replace(f"@{name}@", value)
    return text


def _completion(shell: str) -> str:
    words = [str(Path(sys.executable).parent / "raftcluster")]
    given = {**os.environ, "_RAFTCLUSTER_COMPLETE": f"{shell}_source"}
    return subprocess.run(words, check=True, capture_output=True, text=True, env=given).stdout


def _version(pushed: Artefact) -> str:
    return f"{pushed.version}-1"


def _architecture() -> str:
    words = ["dpkg", "--print-architecture"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def _write(file: Path, text: str, mode: int = 0o644) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


if __name__ == "__main__":
    print(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")))
