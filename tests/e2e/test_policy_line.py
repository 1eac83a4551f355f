"""The line printed for the administrator, in a real Postfix whose policy server is down: `on_unavailable` holds there, too."""

from __future__ import annotations

import pytest

from raftcluster.greylist.rules import Action
from raftcluster.policy.decision import postfix_line
from tests.e2e.hosts import Hosts
from tests.e2e.postfix import DOMAIN, Postfix, SystemLog

NOBODY = "inet:127.0.0.1:10023"


@pytest.mark.parametrize(("on_unavailable", "code", "words"), [("defer", 450, "4.3.0"), ("pass", 250, "")])
def test_postfix_does_without_the_server_what_the_administrator_chose(
    hosts: Hosts, system_log: SystemLog, on_unavailable: Action, code: int, words: str
) -> None:
    postfix = Postfix(hosts, 1, system_log, postfix_line(NOBODY, 2.0, on_unavailable))
    try:
        postfix.start()
        reply = postfix.send("192.0.2.7", "a@example.net", f"b@{DOMAIN}").recipient
    finally:
        postfix.close()
    assert reply.code == code and words in reply.text, reply
