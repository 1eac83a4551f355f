"""Starts the minting child and takes what it hands out. The child's side is `mint`: it imports nothing of this file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Final

from raftcluster import codec, failpoints
from raftcluster.errors import Refusal, Rejected
from raftcluster.transport.certificates import Minted

GENTLE_SECONDS: Final = 10.0
MINT_SECONDS: Final = 60.0
"""Interpreter start, imports and a few signatures take less than a second of processor time. Whoever steps back gets none of it
while others are always ready to run: after `GENTLE_SECONDS` another child takes part like everybody, for `MINT_SECONDS`."""
PROMPT: Final = "from raftcluster.transport import mint; mint.run()"
CHILD: Final = f"import os; os.nice(5); {PROMPT}"
"""The child. Most of its time goes into imports, while mail is being answered: it steps back before them. Not far: on a host whose
processors are all busy, as a mail filter's are, 10 instead of 5 made seconds of what takes a tenth of one, and the cluster waits for it."""


def mint(
    cluster_id: str, generation: int, requests: Mapping[str, bytes], manifest: bytes = b"", *, gently: bool = True
) -> Minted:
    """A new hierarchy from a short-lived child process: root, a certificate per request (node id -> PEM), and the
    root's signature of `manifest`. Public data only; nothing is written, so failing leaves nothing behind.

    The child is a new interpreter, never a fork of this process (whose memory and descriptors it would share), in
    isolated mode, so that neither PYTHONPATH nor the working directory choose what it imports. `mint.py` is its side. With
    `gently` it steps back for others: where mail is answered.

    Thread: any but the tick thread; it waits for the child. Raises `Rejected` when a request or an id is not
    acceptable, `Refusal` when the child cannot be run.
    """
    job = codec.pack([cluster_id, generation, dict(requests), manifest])
    try:
        try:
            child = _run(CHILD, job, GENTLE_SECONDS) if gently else _run(PROMPT, job, MINT_SECONDS)
        except subprocess.TimeoutExpired:  # it has ended, and its root key with it
            child = _run(PROMPT, job, MINT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refusal(f"the minting process did not run: {error}", subject=sys.executable) from error
    if child.returncode != 0:
        lines = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise Refusal(
            f"the minting process ended with status {child.returncode}: {lines[-1]}",
            subject=sys.executable,
            remedy=f"install raftcluster where `{sys.executable} -I` finds it",
        )
    answer = codec.unpack(child.stdout)
    if "rejected" in answer:
        raise Rejected(answer["rejected"], subject=answer["subject"])
    return Minted(answer["root"], answer["certificates"], answer["signature"])


def _run(program: str, job: bytes, seconds: float) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-I", "-c", program],
        input=job,
        capture_output=True,
        close_fds=True,
        env=failpoints.environment(),
        cwd="/",
        timeout=seconds,
        check=False,
    )
