"""The uplinks of a host: the agreement and the account with the gateway behind each.

Decides: whether we may pay by an uplink (its gateway agreed to headers and is heard of). Refuses to know flows.
The account is kept by the same code as a gateway's (`neighbour.exchange`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from billpay.errors import RemoteProtocolError
from billpay.links import Reading
from billpay.mac import epoch_of
from billpay.messages import Agreement, AgreementRequest
from billpay.settlement import Role
from dataplane.links import read_links
from hostagent.configuration import Configuration, UplinkSection
from neighbour.book import Book
from neighbour.calling import Caller, patience_s
from neighbour.exchange import LinkExchange, Terms
from neighbour.identity import NodeIdentity, PeerCertificate

MAX_SOURCE_ADDRESSES = 16


@dataclass(slots=True, kw_only=True)
class Uplink:
    section: UplinkSection
    certificate: PeerCertificate
    caller: Caller
    exchange: LinkExchange | None = None
    agreed: bool = False
    state: str = "no agreement"
    heard_unix_s: int = 0
    interval_s: int = 1
    minutes_apart: int = 0  # the gateway's clock less ours; MACs hold for a minute more or less

    @property
    def name(self) -> str:
        return self.section.name


class Uplinks:
    """All of them. `on_change(uplink)` is called when an uplink's `agreed` has changed."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        identity: NodeIdentity,
        book: Book,
        read: Callable[[str], Reading],
        on_change: Callable[[Uplink], None],
        clock: Callable[[], int],
    ) -> None:
        self._configuration = configuration
        self._identity = identity
        self._book = book
        self._read = read
        self._on_change = on_change
        self._unix_s = clock
        self.by_name = {section.name: self._open(section) for section in configuration.uplinks}

    def _open(self, section: UplinkSection) -> Uplink:
        certificate = PeerCertificate.read(section.gateway_certificate)
        request = AgreementRequest(
            name=self._configuration.agent.name,
            as_number=0,
            header=section.header,
            source_addresses=own_addresses()[:MAX_SOURCE_ADDRESSES],
        )
        caller = Caller(
            identity=self._identity,
            peer=certificate,
            url=section.control_url,
            request=request,
            adopt=lambda agreement: self._adopt(section.name, agreement),
            heard=lambda: self._heard(section.name),
            lost=lambda why: self._lost(section.name, why),
        )
        return Uplink(section=section, certificate=certificate, caller=caller)

    def _adopt(self, name: str, agreement: Agreement) -> LinkExchange:
        uplink = self.by_name[name]
        ours = self._configuration.settlement
        if agreement.settlement_threshold != ours.threshold_nanodollars:
            raise RemoteProtocolError(
                "other-threshold",
                f"{name} settles at {agreement.settlement_threshold} n$, we at {ours.threshold_nanodollars} n$",
            )
        if uplink.exchange is None:
            uplink.exchange = LinkExchange(
                book=self._book,
                identity=self._identity,
                peer=uplink.certificate,
                role=Role.CALLER,
                terms=Terms(
                    link=agreement.link,
                    threshold_nanodollars=ours.threshold_nanodollars,
                    grace_intervals=ours.grace_intervals,
                ),
                read=lambda: self._read(name),
            )
        uplink.exchange.adopt_interval(agreement.next_interval)
        uplink.interval_s = agreement.statement_interval_s
        uplink.heard_unix_s = self._unix_s()
        uplink.minutes_apart = agreement.epoch - epoch_of(self._unix_s())
        self._set(uplink, (agreement.header and uplink.section.header) or uplink.section.implied)
        return uplink.exchange

    def _heard(self, name: str) -> None:
        self.by_name[name].heard_unix_s = self._unix_s()

    def _lost(self, name: str, why: str) -> None:
        self.by_name[name].state = why

    def on_second(self) -> None:
        """An agreement lapses when its gateway has been silent for long."""
        for uplink in self.by_name.values():
            if uplink.agreed and self._unix_s() - uplink.heard_unix_s > patience_s(uplink.interval_s):
                self._set(uplink, False)

    def _set(self, uplink: Uplink, agreed: bool) -> None:
        if agreed:
            uplink.state = "agreed"
            if abs(uplink.minutes_apart) > 1:  # every MAC would be refused
                uplink.state = f"agreed, but our clocks are {abs(uplink.minutes_apart)} minutes apart"
        if uplink.agreed != agreed:
            uplink.agreed = agreed
            self._on_change(uplink)


def own_addresses() -> tuple[str, ...]:
    """This host's global addresses: the gateway tells us when we arrive from another one (a NAT between us)."""
    addresses = (address for link in read_links() for address in link.addresses)
    return tuple(address for address in addresses if not ip_address(address).is_link_local)
