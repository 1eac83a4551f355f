"""The minting child: a process whose only work is to hold a root key while certificates are signed, and to exit.

A node's process has other threads, other people's code and a debugger's reach; a key in its memory could be dumped,
swapped or forked away long afterwards. This one, started by :func:`raftcluster.transport.minting.mint`,

* shares nothing with its parent: a new process image, no descriptor but stdin, stdout and stderr, no environment
  (but what arms a failpoint, which nothing in production does);
* writes no core file, and other processes of the same user cannot attach to it;
* reads one msgpack value, makes the key, signs, writes one msgpack value of **public** data, and exits.

Python cannot prove that the key was overwritten. What holds: no file ever held it, and the process is gone.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from typing import Final

from raftcluster import codec, failpoints
from raftcluster.errors import RaftclusterError, Rejected
from raftcluster.transport.certificates import issue

_PR_SET_DUMPABLE: Final = 4


def main() -> int:
    """The child's whole life. Exit status 0 even for a rejected request: the answer says so."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    cluster_id, generation, requests, manifest = codec.unpack(sys.stdin.buffer.read())
    try:
        minted = issue(cluster_id, generation, requests, manifest)
    except Rejected as error:
        answer: dict[str, object] = {"rejected": error.message, "subject": error.subject}
    else:
        answer = {"root": minted.root_pem, "certificates": minted.certificates, "signature": minted.manifest_signature}
    failpoints.reach("mint.signed")
    sys.stdout.buffer.write(codec.pack(answer))
    sys.stdout.buffer.flush()
    failpoints.reach("mint.answered")
    return os.EX_OK


def run() -> None:
    """`main`, and what cannot be done on standard error."""
    try:
        sys.exit(main())
    except RaftclusterError as error:
        sys.exit(f"raftcluster.transport.mint: {error}")
