"""MX and SRV records, asked of a name server in this process that speaks real DNS; the e2e tests have a real one."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from raftcluster.discovery.candidate import Found, Sighting
from raftcluster.discovery.domain import MailExchangers, Services
from raftcluster.discovery.inquiry import Inquiry, Provider
from raftcluster.errors import Refusal, Unavailable

ZONE = {
    ("example.org.", "MX"): ["10 mx2.example.org.", "5 MX1.example.org."],
    ("none.example.", "MX"): ["0 ."],
    ("empty.example.", "A"): ["192.0.2.1"],
    ("_raftcluster._tcp.example.org.", "SRV"): ["0 5 9778 mx1.example.org.", "5 0 9777 mx3.example.org."],
}


class Answer(socketserver.BaseRequestHandler):
    """One question of UDP."""

    def handle(self) -> None:
        data, sock = self.request
        asked = dns.message.from_wire(data)
        (question,) = asked.question
        answer = dns.message.make_response(asked)
        answer.flags |= dns.flags.AA
        name, kind = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        if name == "broken.example.":
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif not any(name == known for known, _ in ZONE):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif (name, kind) in ZONE:
            answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *ZONE[name, kind]))
        sock.sendto(answer.to_wire(), self.client_address)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socketserver.ThreadingUDPServer(("127.0.0.1", 0), Answer) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join()


def ask(provider: Provider, server: str, *domains: str) -> Found:
    return provider.find(Inquiry(domains=domains, nameservers=(server,)))


def test_mail_exchangers_by_preference(server: str) -> None:
    assert ask(MailExchangers(), server, "example.org") == Found(
        (
            Sighting("mx", "MX of example.org, preference 5", "mx1.example.org"),
            Sighting("mx", "MX of example.org, preference 10", "mx2.example.org"),
        )
    )


def test_services_with_their_ports(server: str) -> None:
    assert ask(Services(), server, "example.org").sightings == (
        Sighting("srv", "SRV of _raftcluster._tcp.example.org, priority 0", "mx1.example.org", port=9778),
        Sighting("srv", "SRV of _raftcluster._tcp.example.org, priority 5", "mx3.example.org", port=9777),
    )


def test_a_domain_that_takes_no_mail_or_has_no_records_or_is_none(server: str) -> None:
    said = ask(MailExchangers(), server, "none.example", "empty.example", "nowhere.example")
    assert said.sightings == ()
    assert said.remarks == (
        "none.example has no MX record but that for none",
        "empty.example has no MX record",
        "nowhere.example has no MX record",
    )
    assert ask(Services(), server, "none.example").remarks == ("_raftcluster._tcp.none.example has no SRV record",)


def test_a_name_server_that_fails_is_named(server: str) -> None:
    with pytest.raises(Unavailable, match=r"MX of broken\.example.*SERVFAIL") as failed:
        ask(MailExchangers(), server, "broken.example")
    assert "--nameserver" in failed.value.remedy


@pytest.mark.parametrize("domain", ["a..b", "x" * 64 + ".example", "\ud800.example"])
def test_what_is_no_domain_is_refused(server: str, domain: str) -> None:
    with pytest.raises(Refusal):
        ask(MailExchangers(), server, domain)


@pytest.mark.parametrize("server", ["localhost", "127.0.0.1:x", "[::1", ""])
def test_what_is_no_name_server_is_refused(server: str) -> None:
    with pytest.raises(Refusal, match="is no ADDRESS or ADDRESS:PORT"):
        ask(MailExchangers(), server, "example.org")
