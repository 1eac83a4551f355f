"""Backup, restore and recovery as an administrator types them, with a node that serves."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import raftcluster
from raftcluster import Service
from raftcluster.cli.main import main
from raftcluster.control.client import Client
from raftcluster.errors import Refusal
from tests.helpers import free_ports


def run(directory: Path, *arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(main, ["-C", str(directory), *arguments], input=given)


def value(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("served") / "node"
    raftcluster.init(path, cluster="mail", node="mx1", listen=("127.0.0.1", free_ports(1)[0]))
    with Service(path, policy=None) as service:
        service.node.wait_ready(30)
        service.node.config.set("antispam/threshold", 5)
        yield path


def test_a_backup_over_the_control_socket_is_the_callers_file(served: Path, tmp_path: Path) -> None:
    file = tmp_path / "monday"
    written = run(served, "backup", str(file))
    assert written.exit_code == 0 and "written at" in written.stdout and "mail" in written.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.stat().st_uid == os.getuid()
    found = value(run(tmp_path, "backup", "verify", str(file), "--json"))
    assert found["members"] == ["mx1"] and found["rows"]["config.values"] == 1 and len(found["sha256"]) == 64
    local = value(run(served, "backup", "--local", "--json", str(tmp_path / "tuesday")))
    assert local["index"] >= found["index"]
    again = run(served, "backup", str(file))
    assert again.exit_code == 4 and "exists already" in again.stderr
    assert run(tmp_path, "backup", str(tmp_path / "x")).exit_code == 7, "no node serves there"
    assert not (tmp_path / "x").exists()


def test_the_client_has_the_same_errors(served: Path, tmp_path: Path) -> None:
    client = Client(served / "control.sock")
    assert client.backup(tmp_path / "file")["cluster"] == "mail"
    with pytest.raises(Refusal, match="exists already"):
        client.backup(tmp_path / "file")


def test_a_new_cluster_from_a_backup(served: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert run(served, "backup", str(file)).exit_code == 0
    listen = f"127.0.0.1:{free_ports(1)[0]}"
    done = value(
        run(tmp_path / "new", "restore", str(file), "--node", "mx7", "--listen", listen, "--name", "phoenix", "--json")
    )
    assert done["cluster"] == "phoenix" and done["backup"]["cluster"] == "mail"
    twice = run(tmp_path / "new", "restore", str(file), "--node", "mx7", "--listen", listen)
    assert twice.exit_code == 8 and "is a data directory already" in twice.stderr
    with Service(tmp_path / "new", policy=None) as service:
        service.node.wait_ready(30)
        assert run(tmp_path / "new", "config", "get", "antispam/threshold").stdout == "5\n"
    file.write_bytes(file.read_bytes()[:-1])
    for arguments in (["backup", "verify", str(file)], ["restore", str(file), "--node", "mx7", "--listen", listen]):
        damaged = run(tmp_path / "other", *arguments)
        assert damaged.exit_code == 12 and "cut short" in damaged.stderr and "use another backup" in damaged.stderr
    assert run(tmp_path / "other", "backup", "verify").exit_code == 2


def test_recovering_shows_asks_and_refuses(served: Path, tmp_path: Path) -> None:
    held = run(served, "recover", "--preview")
    assert held.exit_code == 8 and "is already used by process" in held.stderr
    file, listen = tmp_path / "file", f"127.0.0.1:{free_ports(1)[0]}"
    run(served, "backup", str(file))
    run(tmp_path / "new", "restore", str(file), "--node", "mx7", "--listen", listen)
    shown = value(run(tmp_path / "new", "recover", "--preview", "--json"))
    assert shown["voters"] == ["mx7"] and shown["quorum"] == 1 and shown["members"][0]["here"]
    assert "uncertain" in run(tmp_path / "new", "recover", "--preview").stdout
    wrong = run(tmp_path / "new", "recover", given="other\n")
    assert wrong.exit_code == 4 and "cannot be undone" in wrong.stderr and "last index" in wrong.stdout
    needless = run(tmp_path / "new", "recover", "--confirm", "mail")
    assert needless.exit_code == 4 and "needs nobody else" in needless.stderr
