"""What the secretary is told of a flow: who sends it, what kind of traffic it is, where to, on which network.

Decides: which of the agent's names stand for what; what is not known stays empty. Refuses to know: what a transfer is
worth, and everything that is not the agent's to say (sizes and prices the secretary reckons for itself).
"""

from __future__ import annotations

import pwd
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from billpay.messages import FlowSelector, PriceQuote
from dataplane.metering import Kind, Program
from secretary.transfers import Transfer

TEXT_MAX: Final = 256
PACKET_BYTES: Final = 1_400
PICODOLLARS: Final = 1_000
BYTES_PER_MB: Final = 1_000_000

ContextOf = Callable[[FlowSelector], Transfer | None]
"""None: whose flow it is is not known yet."""


def nothing_known(_flow: FlowSelector) -> Transfer:
    """Of an agent that only pays: it does not know whose flows these are."""
    return Transfer()


def transfer_of(
    flow: FlowSelector, program: Program | None, *, kind: str, network: str, foreground: bool | None
) -> Transfer:
    if program is None or program.kind is Kind.UNATTRIBUTED:
        return Transfer(kind=kind, destination=flow.destination, network=network[:TEXT_MAX])
    name = program.executable.rpartition("/")[2] or program.container or program.unit
    return Transfer(
        user=user_name(program.user_id) if program.user_id is not None else "",
        program=name[:TEXT_MAX],
        kind=kind,
        task=program.task[:TEXT_MAX],
        destination=flow.destination,
        network=network[:TEXT_MAX],
        foreground=foreground,
    )


@lru_cache(maxsize=256)
def user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def price_per_mb(quote: PriceQuote) -> int:
    """Nanodollars for a megabyte by the cheapest alternative, asked for packets of `PACKET_BYTES`; 0 without any."""
    least = min((price.toll_picodollars for price in quote.prices), default=0)
    return least * BYTES_PER_MB // (PACKET_BYTES * PICODOLLARS)
