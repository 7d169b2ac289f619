"""The neighbours of a gateway: who is behind each link, what was agreed, and what stands between us.

Decides: whether headers may be sent to a neighbour and whether its payments count; both go to the packet core as
`SetLink`. Refuses to know: sockets (`gateway.control` answers calls, `neighbour.calling` makes them) and packets.

An agreement holds while the neighbour is heard of: after some statement intervals without a word
(`neighbour.calling.patience_s`) no headers are sent to it, so that a host that went away gets ordinary packets.
Source: Bill-Pay 2.3, 2.4 (default: no preferential service); ARCHITECTURE, "agreement".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from billpay.errors import ConfigurationError, EnvironmentFault, RemoteProtocolError
from billpay.links import Reading
from billpay.messages import Agreement, AgreementRequest
from billpay.settlement import Role, Standing
from gateway.commands import SetLink
from gateway.configuration import Configuration, LinkSection, ceiling_of
from gateway.secretary_keys import SecretaryChain, SecretaryKeys
from neighbour.book import Book
from neighbour.calling import patience_s
from neighbour.exchange import LinkExchange, Terms
from neighbour.identity import NodeIdentity, PeerCertificate


@dataclass(slots=True, kw_only=True)
class Neighbour:
    """One link and who is behind it. `exchange` is None until a caller knows what the link is called."""

    section: LinkSection
    certificate: PeerCertificate
    signers: SecretaryChain
    role: Role
    exchange: LinkExchange | None = None
    takes_headers: bool = False
    state: str = "no agreement"
    heard_unix_s: int = 0

    @property
    def name(self) -> str:
        return self.section.name

    @property
    def grant_signer(self) -> PeerCertificate:
        """Whose signature opens grants now."""
        return self.signers.current

    @property
    def in_default(self) -> bool:
        return self.exchange is not None and self.exchange.standing is Standing.IN_DEFAULT

    def link_state(self) -> SetLink:
        return SetLink(link=self.name, agreed=self.takes_headers, in_default=self.in_default)


class _Remembered(msgspec.Struct, frozen=True):
    """Which links took headers when we last ran: a restart must not keep what others would have earned."""

    agreed: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Neighbours:
    """All of them; `on_change` is called with the new state of a link for the packet core."""

    configuration: Configuration
    identity: NodeIdentity
    book: Book
    read: Callable[[str], Reading]
    on_change: Callable[[SetLink], None]
    passing_s: Callable[[str], float] = lambda _link: 0.0  # as of `LinkExchange`
    by_link: dict[str, Neighbour] = field(default_factory=dict)
    secretary_keys: SecretaryKeys = field(init=False)
    _last: dict[str, SetLink] = field(default_factory=dict)

    def open(self, now_unix_s: int) -> None:
        """Reads the certificates; links that we answer on have their account at once."""
        remembered = self._recall()
        self.secretary_keys = SecretaryKeys(self.configuration.state_directory / "secretary-keys.json")
        for section in self.configuration.links:
            if section.peer == "legacy":
                continue
            certificate = PeerCertificate.read(section.peer_certificate)
            if self.by_key(certificate.public_key):
                problem = f"{section.name} has the certificate of another link: a node has one link with us"
                raise ConfigurationError(section.peer_certificate, "", problem, "join the two, or use another node")
            signer = section.secretary_certificate
            role = _role(self.configuration.gateway.as_number, section)
            neighbour = Neighbour(
                section=section,
                certificate=certificate,
                signers=self.secretary_keys.open(section.name, PeerCertificate.read(signer) if signer else certificate),
                role=role,
            )
            if role is Role.ANSWERER:
                neighbour.exchange = self._exchange(neighbour, self._link_name(section))
            if section.name in remembered:
                neighbour.takes_headers, neighbour.heard_unix_s = True, now_unix_s
                neighbour.state = "agreed before the restart"
            self.by_link[section.name] = neighbour

    def by_key(self, public_key: bytes) -> list[Neighbour]:
        return [found for found in self.by_link.values() if found.certificate.public_key == public_key]

    def states(self) -> list[SetLink]:
        """For a fresh packet core."""
        return [neighbour.link_state() for neighbour in self.by_link.values()]

    # --- agreements -------------------------------------------------------------------------------------------------

    def answer(self, neighbour: Neighbour, request: AgreementRequest, *, epoch: int, now_unix_s: int) -> Agreement:
        """The terms for a caller. Raises RemoteProtocolError when it is not whom the configuration names."""
        section = neighbour.section
        if request.as_number != section.peer_as:
            raise RemoteProtocolError("wrong-as", f"link {section.name} is to AS {section.peer_as}")
        if neighbour.role is not Role.ANSWERER or neighbour.exchange is None:
            raise RemoteProtocolError("wrong-role", "of two gateways the one with the lower AS number calls")
        self.heard(neighbour, now_unix_s, takes_headers=request.header and section.header)
        settlement = self.configuration.settlement
        return Agreement(
            link=self._link_name(section),
            header=section.header,
            max_amount=self.max_amount(section),
            settlement_threshold=settlement.threshold_nanodollars,
            statement_interval_s=settlement.interval_s,
            next_interval=neighbour.exchange.next_interval,
            epoch=epoch,
        )

    def adopt(self, neighbour: Neighbour, agreement: Agreement, now_unix_s: int) -> LinkExchange:
        """The terms that we, the caller, were given. Raises RemoteProtocolError when they are not acceptable to us."""
        ours = self.configuration.settlement.threshold_nanodollars
        if agreement.settlement_threshold != ours:
            raise RemoteProtocolError(
                "other-threshold", f"{neighbour.name} settles at {agreement.settlement_threshold} n$, we at {ours} n$"
            )
        if neighbour.exchange is None:
            neighbour.exchange = self._exchange(neighbour, agreement.link)
        neighbour.exchange.adopt_interval(agreement.next_interval)
        self.heard(neighbour, now_unix_s, takes_headers=agreement.header and neighbour.section.header)
        return neighbour.exchange

    def heard(self, neighbour: Neighbour, now_unix_s: int, *, takes_headers: bool | None = None) -> None:
        neighbour.heard_unix_s = now_unix_s
        if takes_headers is not None:
            neighbour.takes_headers = takes_headers
            neighbour.state = "agreed" if takes_headers else "agreed without headers"
        self.report(neighbour)

    def lost(self, neighbour: Neighbour, why: str) -> None:
        """A call failed; the agreement lapses by `on_second` if that lasts."""
        neighbour.state = why

    def on_second(self, now_unix_s: int) -> None:
        patience = patience_s(self.configuration.settlement.interval_s)
        for neighbour in self.by_link.values():
            if neighbour.takes_headers and now_unix_s - neighbour.heard_unix_s > patience:
                neighbour.takes_headers = False
                neighbour.state = f"not heard of for {patience} s"
            self.report(neighbour)

    def report(self, neighbour: Neighbour) -> None:
        """Tells the packet core, once for each change."""
        state = neighbour.link_state()
        if self._last.get(neighbour.name) != state:
            self._last[neighbour.name] = state
            self.on_change(state)
            self._remember()

    def max_amount(self, section: LinkSection) -> int:
        """What one packet from the neighbour may carry: more is cut, or no payment at all."""
        ceiling = ceiling_of(self.configuration, section).packet_nanodollars
        most = section.max_amount_nanodollars
        return most if ceiling is None else min(most, ceiling)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _link_name(self, section: LinkSection) -> str:
        return f"{self.configuration.gateway.name}/{section.name}"

    def _exchange(self, neighbour: Neighbour, link: str) -> LinkExchange:
        settlement = self.configuration.settlement
        name = neighbour.name
        return LinkExchange(
            book=self.book,
            identity=self.identity,
            peer=neighbour.certificate,
            role=neighbour.role,
            terms=Terms(
                link=link,
                threshold_nanodollars=settlement.threshold_nanodollars,
                grace_intervals=settlement.grace_intervals,
            ),
            read=lambda: self.read(name),
            passing_s=lambda: self.passing_s(name),
        )

    @property
    def _memory(self) -> Path:
        return self.configuration.state_directory / "agreements.json"

    def _recall(self) -> tuple[str, ...]:
        try:
            return msgspec.json.decode(self._memory.read_bytes(), type=_Remembered).agreed
        except (FileNotFoundError, msgspec.DecodeError):  # damaged: neighbours agree again within an interval
            return ()

    def _remember(self) -> None:
        agreed = tuple(name for name, neighbour in self.by_link.items() if neighbour.takes_headers)
        temporary = self._memory.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(_Remembered(agreed=agreed)))
            temporary.replace(self._memory)
        except OSError as error:
            raise EnvironmentFault("write", str(self._memory), error.strerror, "free some disk space") from error


def _role(own_as: int, section: LinkSection) -> Role:
    """A host always calls; of two gateways the one with the lower AS number."""
    if section.peer == "host" or own_as > section.peer_as:
        return Role.ANSWERER
    return Role.CALLER
