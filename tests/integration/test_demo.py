"""`./run demo --keep`: the whole story passes, and what it leaves behind answers Postfix, and stops as it says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers import eventually

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A control socket's path may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="rc") as path:
        yield Path(path)


def test_the_demo_passes_and_keeps_its_nodes_when_asked(short_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "--keep"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=os.environ | {"TMPDIR": str(short_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stop = re.search(r"Stop them: +kill ([\d ]+); rm -r (\S+)", done.stdout)
    assert stop is not None, done.stdout
    processes = [psutil.Process(int(pid)) for pid in stop[1].split()]
    try:
        assert "FAIL" not in done.stdout
        assert done.stdout.count("  ok ") >= 5
        lines = re.findall(
            r"check_policy_service \{ inet:127\.0\.0\.1:(\d+), timeout=5s, default_action=DUNNO \}", done.stdout
        )
        assert len(lines) == 3
        for port in lines:
            with socket.create_connection(("127.0.0.1", int(port)), timeout=60) as connection:
                connection.sendall(
                    b"request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.99\n"
                    b"sender=stranger@example.net\nrecipient=who@example.org\n\n"
                )
                assert connection.makefile("rb").readline().startswith(b"action=DEFER_IF_PERMIT 4.2.0 ")
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)

    def ended() -> bool:
        return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)

    eventually(ended, what="the nodes stop")
    shutil.rmtree(stop[2])
