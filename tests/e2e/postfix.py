"""A real Postfix per host: an isolated instance with its own configuration, queue, data and log, and a client for it."""

from __future__ import annotations

import errno
import os
import pwd
import re
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.children import STOP_SECONDS, Child
from tests.e2e.hosts import Hosts
from tests.helpers import eventually

PORT = 25
START_SECONDS = 60.0
DELIVERY_SECONDS = 60.0
DOMAIN = "example.test"
DEV_LOG = Path("/dev/log")
DATAGRAM_BYTES = 65536

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {home}/spool
data_directory = {home}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
mail_owner = postfix
setgid_group = postdrop
myhostname = {name}.test
mydestination =
mynetworks =
inet_interfaces = {address}
inet_protocols = ipv4
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {home}/mail
virtual_mailbox_maps = static:box
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
default_transport = error:this instance sends nothing
disable_dns_lookups = yes
smtpd_peername_lookup = no
alias_maps =
alias_database =
smtpd_authorized_xclient_hosts = 10.77.0.0/24
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = reject_unauth_destination, {policy}
"""

MASTER_CF = """\
{address}:{port} inet n - n - - smtpd
cleanup  unix n - n -   0 cleanup
qmgr     unix n - n 300 1 qmgr
rewrite  unix - - n -   - trivial-rewrite
bounce   unix - - n -   0 bounce
defer    unix - - n -   0 bounce
trace    unix - - n -   0 bounce
proxymap unix - - n -   - proxymap
error    unix - - n -   - error
retry    unix - - n -   - error
virtual  unix - n n -   - virtual
anvil    unix - - n -   1 anvil
postlog  unix-dgram n - n - 1 postlogd
"""


class SystemLog:
    """What is said to /dev/log: Postfix complains about its configuration nowhere else.

    On a machine that has a /dev/log of its own, its complaints are found in that machine's log, and not here; and in that of
    other tests when these run beside us.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._socket: socket.socket | None = None
        if DEV_LOG.is_socket() and not self._anybody_there():
            DEV_LOG.unlink()
        if not DEV_LOG.exists():
            bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                bound.bind(str(DEV_LOG))
            except OSError as error:
                bound.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                return  # tests that run beside these were faster
            DEV_LOG.chmod(0o666)
            self._socket = bound
            self._reader = threading.Thread(target=self._read, args=[bound], name="/dev/log")
            self._reader.start()

    @staticmethod
    def _anybody_there() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            return probe.connect_ex(str(DEV_LOG)) == 0

    def _read(self, bound: socket.socket) -> None:
        while line := bound.recv(DATAGRAM_BYTES):
            self._lines.append(line.decode(errors="replace"))

    def mark(self) -> int:
        """Where it stands now, for `since`."""
        return len(self._lines)

    def since(self, mark: int) -> str:
        """What was said after `mark`."""
        return "\n".join(self._lines[mark:]) if self._socket else "(see the machine's own log)"

    def close(self) -> None:
        if self._socket is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", str(DEV_LOG))  # an empty datagram ends the reader
            self._reader.join(5)
            DEV_LOG.unlink()
            self._socket.close()


@dataclass(frozen=True)
class Reply:
    """What the server said to one command."""

    code: int
    text: str


@dataclass(frozen=True)
class Dialogue:
    """One SMTP session as swaks printed it."""

    recipient: Reply  # to RCPT TO
    message: Reply | None  # to the end of the message; None when it did not come so far
    transcript: str


class Postfix:
    """The instance on one host, asking the policy service that `policy` names. Not thread-safe.

    It runs as the first process of a process namespace: ending that ends all of it.
    """

    def __init__(
        self, hosts: Hosts, number: int, log: SystemLog, policy: str, *, main: str = "", master: str = ""
    ) -> None:
        """`main` and `master` are lines more for these files."""
        self._hosts = hosts
        self._number = number
        self._log = log
        self._policy = policy
        self._more = {"main.cf": main, "master.cf": master}
        # Not pytest's tmp_path: that is for root alone, and Postfix's daemons are not root.
        self._home = Path(tempfile.mkdtemp(prefix=f"raftcluster-mx{number}-"))
        self._child: Child | None = None

    def start(self) -> None:
        """Returns when it greets; AssertionError with what it complained about otherwise."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it; `wait` is yours."""
        self._mark = self._log.mark()
        self._configure()
        isolated = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*isolated, "postfix", "-c", str(self._home / "etc"), "start-fg"]
        self._child = self._hosts.start(self._number, f"postfix mx{self._number}", command, self._home / "output.log")

    @property
    def configuration(self) -> Path:
        """The directory of its main.cf, for MAIL_CONFIG."""
        return self._home / "etc"

    def inside(self) -> list[str]:
        """The beginning of a command line that runs among its processes: signals reach the right ones there alone."""
        assert self._child is not None
        (first,) = self._child.counters.children()
        return ["nsenter", "--target", str(first.pid), "--pid", "--mount"]

    def wait(self) -> None:
        """The other half of `start`."""
        try:
            eventually(self._greets, START_SECONDS, "Postfix greets")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._complaints()}") from None

    def _configure(self) -> None:
        user = pwd.getpwnam("postfix")
        self._home.chmod(0o755)
        for folder in ("etc", "spool", "data", "mail"):
            (self._home / folder).mkdir(exist_ok=True)
        for folder in ("data", "mail"):
            os.chown(self._home / folder, user.pw_uid, user.pw_gid)
        values = {
            "home": self._home,
            "name": f"mx{self._number}",
            "address": self._hosts.address(self._number),
            "port": PORT,
            "domain": DOMAIN,
            "uid": user.pw_uid,
            "gid": user.pw_gid,
            "policy": self._policy,
        }
        (self._home / "etc" / "main.cf").write_text(MAIN_CF.format(**values) + self._more["main.cf"])
        (self._home / "etc" / "master.cf").write_text(MASTER_CF.format(**values) + self._more["master.cf"])
        Path("/etc/postfix/main.cf").touch()  # it reads the machine's own before ours; it may be empty

    def _greets(self) -> bool:
        assert self._child is not None and self._child.alive()
        probe = f"exec 3<>/dev/tcp/{self._hosts.address(self._number)}/{PORT} && timeout 2 head -c 3 <&3"
        return self._hosts.run(self._number, "timeout", "3", "bash", "-c", probe).stdout == "220"

    def _complaints(self) -> str:
        files = [
            path.read_text(errors="replace")
            for path in (self._home / "mail.log", self._home / "output.log")
            if path.exists()
        ]
        return "\n".join([*files, self._log.since(self._mark)])

    def send(self, client: str, sender: str, recipient: str, *, subject: str = "test") -> Dialogue:
        """One attempt to send a message, as if from the address `client` (XCLIENT)."""
        assert self._child is not None and self._child.alive()
        done = self._hosts.run(
            self._number,
            *("swaks", "--server", self._hosts.address(self._number), "--port", str(PORT)),
            *("--xclient", f"ADDR={client} NAME=client.{DOMAIN}", "--helo", f"client.{DOMAIN}"),
            *("--from", sender, "--to", recipient, "--header", f"Subject: {subject}", "--timeout", "20s"),
        )
        recipient_reply = _reply(done.stdout, "RCPT TO:")
        assert recipient_reply is not None, f"no answer to RCPT TO:\n{done.stdout}\n{done.stderr}\n{self._complaints()}"
        return Dialogue(recipient_reply, _reply(done.stdout, "."), done.stdout)

    def delivered(self, subject: str) -> str:
        """The delivered message with that subject, header and all, as it stands in the mailbox file."""
        return eventually(lambda: self._find(subject), DELIVERY_SECONDS, f"the message {subject!r} is delivered")

    def _find(self, subject: str) -> str:
        return next(iter(self.found(subject)), "")

    def found(self, subject: str) -> list[str]:
        """All messages with that subject in the mailbox file, whoever their recipients are."""
        mailbox = self._home / "mail" / "box"
        text = mailbox.read_text() if mailbox.exists() else ""
        messages = re.split(r"^From ", text, flags=re.MULTILINE)
        return [each for each in messages if re.search(rf"^Subject: {re.escape(subject)}$", each, re.MULTILINE)]

    def log(self) -> str:
        """What it has logged."""
        return (self._home / "mail.log").read_text(errors="replace")

    def close(self) -> None:
        """End it and remove all that it had."""
        if self._child is not None:
            # `unshare` ends once the kernel has ended all in the namespace. Killed itself, it would end before they do,
            # and one that delivers a message would write while its directory is removed.
            with suppress(psutil.NoSuchProcess):  # it may have ended by itself
                for first in self._child.counters.children():
                    first.kill()
                    self._child.process.wait(STOP_SECONDS)
            self._child.kill()
        shutil.rmtree(self._home)


def _reply(transcript: str, command: str) -> Reply | None:
    """The reply to the command that begins so. swaks marks commands with `->`, replies with `<-`, bad ones with `<**`."""
    lines = iter(transcript.splitlines())
    for line in lines:
        if line.startswith(" -> " + command):
            for answer in lines:
                if match := re.match(r"<(?:\*\*|-|~\*) +(\d{3}) (.*)", answer):
                    return Reply(int(match[1]), match[2])
    return None
