"""The providers `mx` and `srv`: the hosts that a domain's DNS records name. The only file that imports dnspython.

MX records (RFC 5321, section 5.1) name the hosts that take a domain's mail; a single `.` is the word for none (RFC 7505). SRV
records (RFC 2782) of `_raftcluster._tcp.DOMAIN` name nodes and their ports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from raftcluster.discovery.candidate import Found, Sighting
from raftcluster.discovery.inquiry import Inquiry
from raftcluster.errors import Refusal, Unavailable

if TYPE_CHECKING:
    from dns.resolver import Resolver

SERVICE: Final = "_raftcluster._tcp"
SECONDS: Final = 5.0
"""For one question, over all name servers."""
DNS_PORT: Final = 53


class MailExchangers:
    """The hosts of MX records."""

    def find(self, inquiry: Inquiry) -> Found:
        """One sighting a record. Raises `Refusal`, `Unavailable`."""

        def sighting(domain: str, record: Any) -> Sighting | None:
            name = _plain(record.exchange)
            origin = f"MX of {domain}, preference {record.preference}"
            return Sighting("mx", origin, name) if name else None

        return _asked(inquiry, "MX", lambda domain: domain, sighting)


class Services:
    """The hosts and ports of SRV records."""

    def find(self, inquiry: Inquiry) -> Found:
        """One sighting a record. Raises `Refusal`, `Unavailable`."""

        def sighting(domain: str, record: Any) -> Sighting | None:
            name = _plain(record.target)
            origin = f"SRV of {SERVICE}.{domain}, priority {record.priority}"
            return Sighting("srv", origin, name, port=record.port) if name else None

        return _asked(inquiry, "SRV", lambda domain: f"{SERVICE}.{domain}", sighting)


def _asked(
    inquiry: Inquiry,
    kind: str,
    question: Callable[[str], str],
    sighting: Callable[[str, Any], Sighting | None],
) -> Found:
    domains = inquiry.domains or tuple(filter(None, [inquiry.site.domain]))
    if not domains:
        return Found(remarks=("this host's name has no domain: name one with --domain",))
    sightings: list[Sighting] = []
    remarks: list[str] = []
    resolver = _resolver(inquiry.nameservers)
    for domain in domains:
        records = _records(resolver, question(domain), kind)
        found = [each for record in records if (each := sighting(domain, record)) is not None]
        if not found:
            remarks.append(f"{question(domain)} has no {kind} record" + (" but that for none" if records else ""))
        sightings += found
    return Found(tuple(sightings), tuple(remarks))


def _records(resolver: Resolver, name: str, kind: str) -> list[Any]:
    """By preference or priority. Raises `Refusal` for what is no name or not known, `Unavailable` when nobody answers."""
    import dns.exception
    import dns.resolver

    try:
        answer = resolver.resolve(name, kind, raise_on_no_answer=False, lifetime=SECONDS, search=False)
    except dns.resolver.NXDOMAIN:
        return []
    except (dns.resolver.NoNameservers, dns.exception.Timeout) as error:
        said = " ".join(str(error).split())[:300]
        raise Unavailable(
            f"no name server answered for {kind} of {name}: {said}", subject=name, remedy="try --nameserver ADDRESS"
        ) from error
    except dns.exception.DNSException as error:
        raise Refusal(f"{name!r:.300} cannot be asked for: {error}", subject=name[:300]) from error
    return sorted(answer) if answer.rrset is not None else []


def _resolver(nameservers: tuple[str, ...]) -> Resolver:
    try:
        import dns.exception
        import dns.resolver
    except ImportError as error:
        raise Refusal(
            "MX and SRV records need dnspython", subject="dnspython", remedy="pip install 'raftcluster[dns]'"
        ) from error
    try:
        resolver = dns.resolver.Resolver(configure=not nameservers)
        if nameservers:
            resolver.nameservers = [_server(each) for each in nameservers]
    except (dns.exception.DNSException, ValueError) as error:
        raise Refusal(f"no name server: {error}", subject="nameserver", remedy="give --nameserver ADDRESS") from error
    return resolver


def _server(text: str) -> Any:
    import dns.inet
    import dns.nameserver

    if dns.inet.is_address(text):
        return dns.nameserver.Do53Nameserver(text, DNS_PORT)
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not dns.inet.is_address(host) or not port.isdigit():
        raise ValueError(f"{text!r:.80} is no ADDRESS or ADDRESS:PORT")
    return dns.nameserver.Do53Nameserver(host, int(port))


def _plain(name: Any) -> str:
    """Without the dot at the end; empty for the root."""
    return str(name.to_text(omit_final_dot=True)).lower().removesuffix(".")
