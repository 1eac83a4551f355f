"""What the end-to-end tests share: hosts, and the machine's log socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.hosts import Hosts
from tests.e2e.postfix import SystemLog


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
