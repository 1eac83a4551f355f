"""What the end-to-end tests share: hosts, and the machine's log socket."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hosts import Hosts
from tests.e2e.node import COMMAND
from tests.e2e.postfix import SystemLog

collect_ignore = ["test_rollout.py", "test_removal.py", "test_kerberos.py"]  # they take minutes: ./run setups


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Three hosts, taken down whatever happens."""
    with Hosts(3) as three:
        yield three


@pytest.fixture(scope="session")
def system_log() -> Iterator[SystemLog]:
    log = SystemLog()
    yield log
    log.close()


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheelhouse of this checkout."""
    folder = tmp_path_factory.mktemp("artefact") / "wheels"
    subprocess.run([COMMAND, "artefact", str(folder)], check=True, timeout=280, stdout=subprocess.DEVNULL)
    return folder
