"""A policy service that answers every request with the action of its command line: what the fixtures are tried with."""

from __future__ import annotations

import socketserver
import sys


class Answer(socketserver.StreamRequestHandler):
    """One connection of Postfix, any number of requests."""

    def handle(self) -> None:
        for line in self.rfile:
            if line == b"\n":
                self.wfile.write(f"action={sys.argv[2]}\n\n".encode())


class Server(socketserver.ThreadingTCPServer):
    """PORT ACTION"""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[1])), Answer) as server:
        server.serve_forever()
