"""What a network costs, out of the configuration: the tariff that history and statements reckon by, and the data plan.

Decides: which of the two a [[networks]] table means, and that a link which is said to be metered, by nobody knows what
tariff, has an assumed one. Refuses to know: networks and files. Pure.
"""

from __future__ import annotations

from typing import Final

from billpay.messages import Timescale
from billpay.tariffs import FlatFee, PerByte
from hostagent.configuration import NetworkSection, TariffSection
from hostagent.history.statement import Contract
from hostagent.sharing.dataplan import DataPlan

NANO: Final = 10**9
BYTES_PER_GB: Final = 10**9
PICODOLLARS_PER_BYTE_OF_ONE_PER_GB: Final = 1000


def tariff_of(section: TariffSection) -> PerByte | FlatFee:
    """A tariff without a price for bytes and without a bundle is a flat fee."""
    fee = round(section.monthly_fee * NANO)
    if not section.price_per_gb and not section.bundle_gb:
        return FlatFee(
            issuer="you",
            serial=1,
            timescale=Timescale.LONG_TERM,
            valid_from_unix_s=0,
            currency=section.currency,
            monthly_fee_nanodollars=fee,
            reset_day=section.reset_day,
        )
    return PerByte(
        issuer="you",
        serial=1,
        timescale=Timescale.LONG_TERM,
        valid_from_unix_s=0,
        currency=section.currency,
        monthly_fee_nanodollars=fee,
        reset_day=section.reset_day,
        picodollars_per_byte=round(section.price_per_gb * PICODOLLARS_PER_BYTE_OF_ONE_PER_GB),
        bundle_bytes=round(section.bundle_gb * BYTES_PER_GB),
    )


def plan_of(network: str, section: NetworkSection | None, *, metered: bool | None) -> DataPlan | None:
    """None: nothing there has to be saved. What a person wrote goes before what the network says of itself."""
    tariff = section.tariff if section is not None else None
    is_metered = section.metered if section is not None and section.metered is not None else metered
    if tariff is not None and isinstance(found := tariff_of(tariff), PerByte) and is_metered is not False:
        return DataPlan.of(found, scope=network, hard=tariff.hard)
    return DataPlan.assumed(network) if is_metered and tariff is None else None


def contract_of(network: str, title: str, section: NetworkSection) -> Contract | None:
    if section.tariff is None:
        return None
    return Contract(network=network, title=title, tariff=tariff_of(section.tariff))


def tariff_text(section: NetworkSection | None) -> str:
    """One line for a person; "" where nobody said."""
    if section is None or section.tariff is None:
        return ""
    tariff, currency = section.tariff, section.tariff.currency
    parts = []
    if tariff.monthly_fee:
        parts.append(f"{tariff.monthly_fee:g} {currency} a month")
    if tariff.bundle_gb:
        parts.append(f"{tariff.bundle_gb:g} GB from day {tariff.reset_day}")
    if tariff.price_per_gb:
        beyond = " beyond" if tariff.bundle_gb else ""
        parts.append(f"{tariff.price_per_gb:g} {currency} for a gigabyte{beyond}")
    return ", ".join(parts) or "flat"
