"""The README's program does what the README says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import raftcluster
from tests.checkout import ROOT

DIRECTORY = "/var/lib/raftcluster"


def test_the_program_in_the_readme_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert DIRECTORY in program
    directory = tmp_path / "node"
    raftcluster.init(
        directory,
        cluster="mail",
        node="mx1",
        listen=("127.0.0.1", 0),
        advertise=("127.0.0.1", 9777),
        product="mail-gateway/4.2",
    )
    names: dict[str, object] = {}
    exec(program.replace(DIRECTORY, str(directory)), names)  # noqa: S102 - it is ours
    verdict = names["verdict"]
    assert isinstance(verdict, raftcluster.Verdict)
    assert capsys.readouterr().out == f"450 4.2.0 greylisted, retry in {verdict.seconds_left} s\n"
    assert names["threshold"] == 5
