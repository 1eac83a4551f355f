"""What a push has to do on a host, and when an upgrade may go on; without hosts."""

from __future__ import annotations

import base64
import io
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from raftcluster.errors import MissingPrivilege, Refusal
from raftcluster.push.artefact import Artefact, Wheel, seal
from raftcluster.push.host import Target, packed
from raftcluster.push.place import Place
from raftcluster.push.plan import Found, Step, plan
from raftcluster.push.rollout import Rollout, Work, failed
from raftcluster.push.upgrade import unwell
from raftcluster.remote.askpass import Askpass
from raftcluster.remote.facts import Facts, Python
from raftcluster.remote.shell import Done, Local, Running
from raftcluster.remote.sudo import Sudo

ARTEFACT = Artefact(Path("/nowhere"), (Wheel("raftcluster-0.1.0-py3-none-any.whl", "0" * 64, 1),))
PLACE = Place()
RUNNING = f"/opt/raftcluster/releases/{ARTEFACT.id}/venv/bin/python"
DONE = Found(True, ARTEFACT.hash, True, PLACE.digest, ARTEFACT.id, True, RUNNING)
ALL = [Step.COPY, Step.INSTALL, Step.ARRANGE, Step.SWITCH, Step.ENTER, Step.START, Step.VERIFY]


def steps(found: Found, *, enter: bool = True, upgrade: bool = False) -> list[Step]:
    return plan(found, ARTEFACT, PLACE, enter=enter, upgrade=upgrade, host="mx1")


def test_a_bare_host_needs_everything() -> None:
    assert steps(Found()) == ALL
    assert steps(Found(), enter=False) == ALL[:4]


@pytest.mark.parametrize("done", range(1, len(ALL)))
def test_what_is_done_is_not_done_again(done: int) -> None:
    """A push that was ended after any step is finished by the next one."""
    found = Found(begun=True)
    for step in ALL[:done]:
        found = {
            Step.COPY: replace(found, copied=ARTEFACT.hash),
            Step.INSTALL: replace(found, installed=True),
            Step.ARRANGE: replace(found, arranged=PLACE.digest),
            Step.SWITCH: replace(found, current=ARTEFACT.id),
            Step.ENTER: replace(found, node=True),
            Step.START: replace(found, running=RUNNING),
        }[step]
    assert steps(found) == ALL[done:]


def test_another_release_under_a_node_is_an_upgrade() -> None:
    older = replace(
        DONE, copied="", installed=False, current="older", running="/opt/raftcluster/releases/older/venv/bin/python"
    )
    with pytest.raises(Refusal, match="mx1 is a node of another release, older") as caught:
        steps(older)
    assert "--upgrade" in caught.value.remedy
    assert steps(older, upgrade=True) == [Step.COPY, Step.INSTALL, Step.SWITCH, Step.START, Step.VERIFY]
    assert steps(replace(older, node=False, running=""), enter=False) == [Step.COPY, Step.INSTALL, Step.SWITCH]


def test_what_was_damaged_is_copied_again() -> None:
    assert steps(replace(DONE, copied="f" * 64)) == [Step.COPY, Step.INSTALL, Step.VERIFY]


def test_what_a_host_says_is_read() -> None:
    text = f"begun=yes\ncopied={ARTEFACT.hash}\ninstalled=yes\ncurrent=abc\nnode=yes\nrunning=/a/b=c\n"
    assert Found.read(text) == Found(True, ARTEFACT.hash, True, "", "abc", True, "/a/b=c")
    assert Found.read("") == Found()


def test_the_scripts_are_posix_shell(tmp_path: Path) -> None:
    for name, text in PLACE.files().items():
        (tmp_path / name).write_text(text)
    for name in ("supervise", "uninstall"):
        subprocess.run(["sh", "-n", str(tmp_path / name)], check=True)
    unit = PLACE.files()["unit"]
    assert "AmbientCapabilities=CAP_NET_ADMIN\n" in unit and "User=raftcluster\n" in unit
    assert Place(prefix="/srv/x").digest != PLACE.digest


def test_it_travels_as_one_tar(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "raftcluster-0.1.0-py3-none-any.whl").write_bytes(b"\0\xff")
    sealed = seal(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(packed(sealed)))) as tar:
        held = {each.name: tar.extractfile(each) for each in tar}
        assert {name: file.read() for name, file in held.items() if file is not None} == {
            "SHA256SUMS": sealed.sums.encode(),
            "wheels/raftcluster-0.1.0-py3-none-any.whl": b"\0\xff",
        }


# --- a host that says what was asked of it


FACTS = Facts(
    greeting="",
    host="mx1",
    user="keeper",
    root=False,
    sudo="password",
    machine="m",
    boot="b",
    clock_off=None,
    system={},
    systemd=False,
    commands=frozenset(),
    pythons=(Python("/usr/bin/python3", (3, 11, 2), ()),),
    place="/",
    free_bytes=None,
    filesystem="",
    read_only=False,
    node=None,
    directory="",
    version="",
    realm=None,
    unread="",
    ruleset=None,
)


@dataclass
class Recorded:
    """Keeps what it is told to run; fails at a word."""

    fail_at: str = ""
    kind: str = ""
    host: str = "mx1"
    ran: list[tuple[list[str], str]] = field(default_factory=list)

    def run(self, words: Sequence[str], given: str = "", seconds: float = 0) -> Done:
        self.ran.append((list(words), given))
        if self.fail_at and any(self.fail_at in each for each in words):
            return Done(1, "", "it broke")
        return Done(0, self.kind if words == ["sh", "-s"] else "", "")

    def start(self, words: Sequence[str]) -> Running:
        raise AssertionError(words)


def target(shell: Any, **facts: Any) -> Target:
    return Target("mx1", shell, replace(FACTS, **facts), PLACE)


ASKED = ["sudo", "-k", "-S", "-p", "", "--"]


@pytest.mark.parametrize(("kind", "before"), [("root", []), ("free", ["sudo", "-n", "--"])])
def test_a_password_that_nobody_asks_for_is_not_said(kind: str, before: list[str]) -> None:
    shell = Recorded(kind=kind)
    Sudo(shell, "secret-word").run(["id"], "given")
    assert shell.ran[-1] == ([*before, "id"], "given") and "secret-word" not in str(shell.ran)


def test_a_password_goes_before_what_is_given_and_nowhere_else() -> None:
    shell = Recorded(kind="password")
    Sudo(shell, "secret-word").run(["raftcluster", "join"], "rc1.token")
    assert [each for each, _ in shell.ran[1:]] == [[*ASKED, "true"], [*ASKED, "raftcluster", "join"]]
    assert [each for _, each in shell.ran[1:]] == ["secret-word\n", "secret-word\nrc1.token"]
    assert "secret-word" not in repr(Sudo(shell, "secret-word"))


@pytest.mark.parametrize("kind", ["none", "password"])
def test_an_account_that_does_not_become_root(kind: str) -> None:
    with pytest.raises(MissingPrivilege, match="mx1: the account does not become root"):
        Sudo(Recorded(kind=kind, fail_at="true"), "secret-word").run(["id"])


def test_without_a_way_to_root_nothing_is_begun() -> None:
    with pytest.raises(MissingPrivilege, match="keeper is not root on mx1"):
        target(Recorded()).check(ARTEFACT)
    assert target(Recorded(), root=True).check(ARTEFACT) == "/usr/bin/python3"
    other = Artefact(Path("/nowhere"), (*ARTEFACT.wheels, Wheel("cffi-2-cp313-cp313-linux_x86_64.whl", "", 1)))
    with pytest.raises(Refusal, match=r"Python 3\.11, which cannot install cffi"):
        target(Recorded(), root=True).check(other)


def test_a_first_push_that_fails_is_undone() -> None:
    shell = Recorded(fail_at="install --quiet")
    work = Work(target(shell, root=True))
    said: list[str] = []
    rollout = Rollout(ARTEFACT, "", lambda host, text: said.append(text))
    rollout.look([work])
    assert work.left == ALL[:4]
    work.left.remove(Step.COPY)  # nothing lies at /nowhere
    rollout.prepare([work])
    assert work.undone and said[-2:] == ["failed: mx1: it broke", "as it was before"]
    assert PLACE.files()["uninstall"] in shell.ran[-1][0]
    error = failed([work])
    assert error is not None and error.subject == "mx1"


# --- the gate of an upgrade


def status(name: str, role: str, **row: Any) -> dict[str, Any]:
    rows = [{"id": each, "name": each, "linked": True, "trails_by": 0, **row} for each in ("mx1", "mx2")]
    return {"name": name, "role": role, "leader": "mx1", "members": rows, "failure": None, "storage": "ok"}


def test_when_the_next_node_may_be_stopped() -> None:
    one, two = status("mx1", "leader"), status("mx2", "voter", trails_by=None)
    assert unwell({"mx1": one, "mx2": two}) == ""
    assert "who leads" in unwell({"mx1": {**one, "role": "voter", "leader": "mx2"}, "mx2": two})
    assert unwell({"mx2": two}) == "", "the leader is no host of ours"
    assert "not linked with mx1" in unwell({"mx1": status("mx1", "leader", linked=False), "mx2": two})
    assert "trails by 2000" in unwell({"mx1": status("mx1", "leader", trails_by=2000), "mx2": two})
    assert unwell({"mx1": one, "mx2": {**two, "storage": "full"}}) == "mx2: see its status"


# --- the password's way to ssh


def test_only_a_question_for_the_password_is_answered() -> None:
    with Askpass("pass word'\"$x") as ask:
        folder = ask.path.parent
        assert folder.stat().st_mode & 0o777 == 0o700
        for _ in range(2):
            assert Local().run([str(ask.path), "keeper@mx1's password: "]).out == "pass word'\"$x\n"
        together = [subprocess.Popen([str(ask.path), "Password:"], stdout=subprocess.PIPE, text=True) for _ in range(4)]
        assert [each.communicate(timeout=60)[0] for each in together] == ["pass word'\"$x\n"] * 4
        assert Local().run([str(ask.path), "Enter passphrase for key '/root/id': "]).status == 1
        held = b"".join(each.read_bytes() for each in folder.iterdir() if each.is_file())
        assert b"pass word" not in held
    assert not folder.exists()
