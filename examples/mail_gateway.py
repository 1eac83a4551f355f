"""A mail product's main process: the node, a socket for its workers, and a quarantine whose messages are files in a folder.

python examples/mail_gateway.py DIR FOLDER HOST:PORT     runs the node in DIR (made by `raftcluster init` or `join`) until SIGTERM

Workers (examples/milter.py, examples/smtpd.py) ask it at DIR/workers.sock. FOLDER holds the messages, which all hosts of the product
share, and `key`, with which envelopes are sealed. What is released goes to the SMTP server at HOST:PORT.
"""

import logging
import signal
import smtplib
import sys
from pathlib import Path
from typing import BinaryIO

from raftcluster import Service, SmtpDelivery

TIMEOUT_SECONDS = 30.0


def main(directory: Path, folder: Path, host: str, port: int) -> None:
    def open_message(reference: str) -> BinaryIO:
        return (folder / reference).open("rb")

    def connect() -> smtplib.SMTP:
        return smtplib.SMTP(host, port, local_hostname="localhost", timeout=TIMEOUT_SECONDS)

    service = Service(directory, policy=None, workers=directory / "workers.sock")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    with service:
        service.node.quarantine.attach((folder / "key").read_bytes(), open_message, SmtpDelivery(connect))
        service.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    where, _, number = sys.argv[3].rpartition(":")
    main(Path(sys.argv[1]), Path(sys.argv[2]), where, int(number))
