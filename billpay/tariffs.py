"""Tariffs as values: what a month or a packet costs, exactly, and on which time scale that changes.

Decides the price of a usage record in whole nanodollars; refuses to know who pays, when, and how usage is counted.
A tariff is read from and written to its signed message (`billpay.messages.Tariff`). What is below a nanodollar is never
charged: every price rounds down once, in the payer's favour.

Every kind may publish tolls, since they are taken out of packets under any contract; only the kind "tolls" prices them.
The nanopayment balance is what the payer sent less what it received; a bill that contains it can be below zero.

Sources: Bill-Pay (tolls; flat fee for end users; contracts of today plus one clause); the 95th percentile of 5-minute
volumes as in transit contracts; M3I requirements (three time scales of price change; a fixed price for each mark,
charged to the receiver).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from billpay.errors import LocalProtocolError, RemoteProtocolError
from billpay.messages import Tariff, Timescale, TollTerms
from billpay.money import PICODOLLARS_PER_NANODOLLAR
from billpay.policer import CongestionPolicer, PolicerSettings
from billpay.tolls import EgressToll, TollSchedule

SAMPLE_S: Final = 300
"""Volumes are sampled every five minutes: 8640 samples in a month of 30 days."""
DROPPED_PERCENT: Final = 5
"""Of all samples of a month, the highest of which cost nothing: 432 of 8640."""
BITS_PER_BYTE: Final = 8
BITS_PER_MBIT: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """`count` packets of one size and payment that left over one link."""

    link: str
    count: int
    size_bytes: int
    amount_nanodollars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What was used in a billing period; a tariff looks at the parts that it charges for.

    `volumes_bytes`: one for each five minutes, in the direction (or the larger of both) that the contract names.
    `received_marks`: packets that arrived with CE, segments counted one by one.
    """

    volume_bytes: int = 0
    volumes_bytes: tuple[int, ...] = ()
    packets: tuple[Packets, ...] = ()
    sent_nanodollars: int = 0
    received_nanodollars: int = 0
    received_marks: int = 0

    @property
    def balance_nanodollars(self) -> int:
        """Nanopayments sent less received: above 0 the user owes."""
        return self.sent_nanodollars - self.received_nanodollars


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What every tariff carries: whose it is, which version, since when, and how fast it changes (M3G-01)."""

    issuer: str
    serial: int
    timescale: Timescale
    valid_from_unix_s: int
    currency: str = "USD"
    tolls: tuple[TollTerms, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolls(Published):
    """Usage pricing: each packet its toll, and nothing else. The tolls are those of now, the congestion part too."""

    def price(self, usage: Usage) -> int:
        """What a gateway with these tolls takes out of the packets; picodollars left over on a link are not charged.

        Raises LocalProtocolError for packets over a link for which no toll is published.
        """
        picodollars = {terms.link: 0 for terms in self.tolls}
        egresses = {terms.link: _egress(terms) for terms in self.tolls}
        for packets in usage.packets:
            egress = egresses.get(packets.link)
            if egress is None:
                raise LocalProtocolError(f"usage over link {packets.link}, for which the tariff has no toll")
            toll = egress.picodollars(packets.size_bytes, packets.amount_nanodollars)
            affordable = packets.amount_nanodollars * PICODOLLARS_PER_NANODOLLAR
            picodollars[packets.link] += packets.count * min(toll, affordable)
        return sum(owed // PICODOLLARS_PER_NANODOLLAR for owed in picodollars.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatFee(Published):
    """A constant bill: the access ISP pays the nanopayments, as far as the congestion policer lets it (BP-04)."""

    monthly_fee_nanodollars: int
    congestion_bytes_per_s: int = 0
    reset_day: int = 1

    def price(self, usage: Usage) -> int:  # noqa: ARG002 (that usage does not matter is the point)
        """The fee of one month."""
        return self.monthly_fee_nanodollars

    def absorption(self, *, now_ns: int) -> Absorption:
        """What the ISP will pay for one subscriber of this tariff, from now on."""
        return Absorption(PolicerSettings.for_fill(self.congestion_bytes_per_s), now_ns=now_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile95PlusNanopayments(Published):
    """A transit contract of today plus one clause: 95th percentile of the month and the nanopayment balance (BP-52)."""

    nanodollars_per_mbit_s: int
    monthly_fee_nanodollars: int = 0
    reset_day: int = 1

    def price(self, usage: Usage) -> int:
        """Below 0 where the user received more in packets than the month costs."""
        bits = percentile_95_bytes(usage.volumes_bytes) * BITS_PER_BYTE
        volume_price = bits * self.nanodollars_per_mbit_s // (SAMPLE_S * BITS_PER_MBIT)
        return self.monthly_fee_nanodollars + volume_price + usage.balance_nanodollars


@dataclass(frozen=True, slots=True, kw_only=True)
class PerByte(Published):
    """A metered line: a fee with a bundle of bytes in it, and a price for each byte beyond."""

    picodollars_per_byte: int
    bundle_bytes: int = 0
    monthly_fee_nanodollars: int = 0
    reset_day: int = 1

    def price(self, usage: Usage) -> int:
        """The fee, and the bytes of the month that are not in the bundle."""
        beyond_bytes = max(0, usage.volume_bytes - self.bundle_bytes)
        return self.monthly_fee_nanodollars + beyond_bytes * self.picodollars_per_byte // PICODOLLARS_PER_NANODOLLAR


@dataclass(frozen=True, slots=True, kw_only=True)
class PerMark(Published):
    """A price for congestion alone: so much for each packet that arrives with the mark CE (RFC 3168), and a fee.

    The receiver counts, since only there all marks of the path have come together; it pays its access ISP, whose own
    contract upstream is of the same kind. What nobody is disturbed by costs nothing.
    """

    nanodollars_per_mark: int
    monthly_fee_nanodollars: int = 0
    reset_day: int = 1

    def price(self, usage: Usage) -> int:
        """The fee, and the marks of the month."""
        return self.monthly_fee_nanodollars + usage.received_marks * self.nanodollars_per_mark


AnyTariff = Tolls | FlatFee | Percentile95PlusNanopayments | PerByte | PerMark


class Absorption:
    """The nanopayments that an access ISP makes for one flat-fee subscriber, bounded by a congestion policer."""

    __slots__ = ("_policer", "absorbed_nanodollars", "refused_packets")

    def __init__(self, settings: PolicerSettings, *, now_ns: int) -> None:
        self._policer = CongestionPolicer(settings, now_ns=now_ns)
        self.absorbed_nanodollars = 0
        self.refused_packets = 0

    def on_packet(self, size_bytes: int, *, payment_nanodollars: int, now_ns: int) -> int:
        """What the ISP puts into this packet: the payment that its path asks for, or 0 beyond the policy.

        A packet whose path asks for a payment is congestion of its whole size; a refused one goes on unpaid.
        """
        if payment_nanodollars == 0:
            return 0
        if not self._policer.admit(size_bytes, now_ns=now_ns):
            self.refused_packets += 1
            return 0
        self.absorbed_nanodollars += payment_nanodollars
        return payment_nanodollars


def percentile_95_bytes(volumes_bytes: Iterable[int]) -> int:
    """The highest volume that is left when the top 5 % of the samples (rounded down) are dropped; 0 without samples."""
    falling = sorted(volumes_bytes, reverse=True)
    return falling[len(falling) * DROPPED_PERCENT // 100] if falling else 0


# --- the message ------------------------------------------------------------------------------------------------------

_ABOUT: Final = ("issuer", "serial", "timescale", "valid_from_unix_s", "currency", "tolls")
_MONTHLY: Final = ("monthly_fee_nanodollars", "reset_day")
_KINDS: Final[dict[str, tuple[type[AnyTariff], tuple[str, ...]]]] = {
    "tolls": (Tolls, ()),
    "flat-fee": (FlatFee, (*_MONTHLY, "congestion_bytes_per_s")),
    "percentile-95": (Percentile95PlusNanopayments, (*_MONTHLY, "nanodollars_per_mbit_s")),
    "per-byte": (PerByte, (*_MONTHLY, "picodollars_per_byte", "bundle_bytes")),
    "per-mark": (PerMark, (*_MONTHLY, "nanodollars_per_mark")),
}
"""For each kind of the message its value, and the fields that it has beyond those of every tariff."""


def from_message(message: Tariff) -> AnyTariff:
    """The tariff that a message publishes.

    Raises RemoteProtocolError `foreign-terms` where it has terms that its kind does not know (a price that nobody would
    charge, or that someone overlooks, is a mistake), and `duplicate-toll` where a link has two tolls.
    """
    tariff, terms = _KINDS[message.kind]
    names = (*_ABOUT, *terms)
    for field in msgspec.structs.fields(Tariff):
        if field.name not in ("kind", *names) and getattr(message, field.name) != field.default:
            raise RemoteProtocolError("foreign-terms", f"a tariff of kind {message.kind} has no {field.name}")
    if len({toll.link for toll in message.tolls}) < len(message.tolls):
        raise RemoteProtocolError("duplicate-toll", "the tariff has two tolls for one link")
    return tariff(**{name: getattr(message, name) for name in names})


def to_message(tariff: AnyTariff) -> Tariff:
    """The message that publishes a tariff."""
    kind = next(kind for kind, (value, _) in _KINDS.items() if isinstance(tariff, value))
    names = (*_ABOUT, *_KINDS[kind][1])
    return Tariff(kind=kind, **{name: getattr(tariff, name) for name in names})


def _egress(terms: TollTerms) -> EgressToll:
    """The published toll in the form in which gateways reckon with it, so that both come to the same picodollar."""
    schedule = TollSchedule(
        fixed_nanodollars_per_packet=terms.fixed_nanodollars_per_packet,
        fixed_picodollars_per_byte=terms.fixed_picodollars_per_byte,
        proportional_ppm=terms.proportional_ppm,
        cap_nanodollars=terms.cap_nanodollars,
    )
    egress = EgressToll(schedule)
    egress.congestion_picodollars = terms.congestion_picodollars
    return egress
