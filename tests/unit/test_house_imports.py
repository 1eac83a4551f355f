"""The rooms of docs/architecture.md, checked over the syntax trees; and that the check can fail."""

from __future__ import annotations

import pytest

from tests import checkout
from tests.import_rules import OWNERS, ROOMS, module_name, violations

FORBIDDEN = [
    ("raftcluster/limits.py", "import os", "os in a file that must be pure"),
    ("raftcluster/errors.py", "from raftcluster.host import Host", "a pure room imports raftcluster.host"),
    ("raftcluster/node.py", "from raftcluster.cli.main import main", "the facade imports raftcluster.cli.main"),
    ("raftcluster/node.py", "import requests", "requests has no owner"),
    ("raftcluster/node.py", "from .host import Host", "relative import"),
    ("raftcluster/node.py", "def load():\n    import pickle", "pickle is used nowhere"),
    ("raftcluster/node.py", "import importlib", "importlib: imports are to be seen"),
    ("raftcluster/node.py", "lmdb = __import__('lmdb')", "__import__ belongs to"),
    ("raftcluster/node.py", "import storage.log", "storage.log is installed as raftcluster.storage.log"),
    ("raftcluster/node.py", "term = engine._SyncObj__raftCurrentTerm", "_SyncObj__raftCurrentTerm belongs to"),
    (
        "raftcluster/node.py",
        "term = getattr(engine, '_SyncObj__raftCurrentTerm')",
        "_SyncObj__raftCurrentTerm belongs to",
    ),
    ("raftcluster/engine/guard.py", "import pysyncobj.node", "pysyncobj belongs to raftcluster.engine.seam"),
    ("raftcluster/engine/guard.py", "from raftcluster.transport import mesh", "engine imports raftcluster.transport"),
    (
        "raftcluster/engine/replica.py",
        "from raftcluster.storage.log import LogStore",
        "imports raftcluster.storage.log",
    ),
    ("raftcluster/engine/replica.py", "from raftcluster import Node", "raftcluster.engine imports raftcluster"),
    ("raftcluster/greylist/api.py", "from raftcluster.config.api import Config", "imports raftcluster.config.api"),
    ("raftcluster/greylist/machine.py", "from raftcluster.greylist.api import Greylist", "a state machine imports"),
    ("raftcluster/greylist/machine.py", "from raftcluster.host import Host", "greylist imports raftcluster.host"),
    ("raftcluster/codec.py", "from raftcluster import failpoints", "a pure room imports raftcluster.failpoints"),
    ("raftcluster/cluster/machine.py", "from raftcluster import failpoints", "imports raftcluster.failpoints"),
    ("raftcluster/failpoints.py", "from raftcluster.host import Host", "the failpoints import raftcluster.host"),
    ("raftcluster/greylist/rules.py", "import random", "random in a file that must be pure"),
    ("raftcluster/config/machine.py", "from time import time", "time in a file that must be pure"),
    ("raftcluster/cluster/machine.py", "import uuid", "uuid in a file that must be pure"),
    ("raftcluster/cluster/join.py", "from raftcluster.transport import tls", "imports raftcluster.transport"),
    ("storage/log.py", "from raftcluster.transport.frames import Frame", "imports raftcluster.transport.frames"),
    ("storage/tables.py", "import lmdb", "lmdb belongs to raftcluster.storage.environment"),
    ("transport/mesh.py", "import socket", "socket belongs to raftcluster.transport.sockets"),
    ("transport/mesh.py", "from raftcluster.storage.ports import Entry", "imports raftcluster.storage.ports"),
    ("cli/status.py", "from raftcluster.storage.directory import DataDirectory", "cli imports raftcluster.storage"),
    ("cli/status.py", "import cryptography", "cryptography belongs to"),
]

ALLOWED = [
    ("raftcluster/codec.py", "import msgpack\nfrom raftcluster import limits"),
    ("raftcluster/node.py", "import threading\nfrom raftcluster.engine.replica import Replica"),
    ("raftcluster/engine/seam.py", "import importlib.util\nimport pickle\nimport pysyncobj\nx = '_SyncObj__quorum'"),
    ("raftcluster/engine/replica.py", "from raftcluster.storage.overlay import Overlay\nimport time"),
    ("raftcluster/greylist/api.py", "import os\nfrom raftcluster.host import Host"),
    ("raftcluster/cluster/join.py", "from raftcluster.transport.certificates import Token"),
    ("storage/log.py", "from raftcluster import failpoints"),
    ("storage/environment.py", "import lmdb\nimport os"),
    ("transport/tls.py", "import ssl\nfrom raftcluster.transport.certificates import Token"),
    ("cli/main.py", "import click\nfrom raftcluster import Node\nfrom raftcluster.control.client import Client"),
]


def test_the_library_obeys_its_import_rules() -> None:
    library = checkout.sources(*checkout.LIBRARY)
    assert len(library) > 10
    assert violations(library) == []


@pytest.mark.parametrize(("path", "source", "offence"), FORBIDDEN)
def test_a_forbidden_import_is_found(path: str, source: str, offence: str) -> None:
    (found,) = violations(_modules() | {path: source})
    assert found.startswith(f"{path}:")
    assert offence in found


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_an_allowed_import_is_not(path: str, source: str) -> None:
    assert violations(_modules() | {path: source}) == []


def test_what_a_state_machine_uses_of_its_room_must_be_pure_too() -> None:
    tree = {
        "raftcluster/cluster/machine.py": "from raftcluster.cluster.rows import put",
        "raftcluster/cluster/rows.py": "from raftcluster.cluster import view",
        "raftcluster/cluster/view.py": "import secrets",
        "raftcluster/cluster/reconcile.py": "import secrets",
    }
    assert violations(tree) == ["raftcluster/cluster/view.py:1: secrets in a file that must be pure"]


def test_every_rule_names_something_that_exists() -> None:
    modules = {module_name(path) for path in checkout.sources(*checkout.LIBRARY)}
    owners = {owner for each in OWNERS.values() for owner in each.split()}
    named = {*ROOMS, *owners, *(allowed for rooms in ROOMS.values() for allowed in rooms)}
    assert {name.removesuffix(".") for name in named} - modules == set()


def _modules() -> dict[str, str]:
    """Empty files, so that `from package import module` can be told from `from module import name`."""
    return {
        "raftcluster/__init__.py": "",
        "raftcluster/failpoints.py": "",
        "raftcluster/limits.py": "",
        "transport/mesh.py": "",
        "transport/tls.py": "",
    }
