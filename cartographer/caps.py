"""Whether a gateway takes more of a packet than the cap on tolls that it has published.

Decides: which cap holds, and how much a toll is above it. Refuses to know: how a toll was measured, and what follows of
it (`cartographer.judging`). Source: BP-20: legislation can limit tolls; a cap that nobody can check is none.  Pure.

The cap stands in the signed tariff (`billpay.messages.Tariff`), and the difference of two payments, as echoes show
them, is a toll: so every sender is an auditor. A cap bounds the whole toll of one packet, whatever its size; what a
gateway rounds up is below a nanodollar and never above the cap.
"""

from __future__ import annotations

from collections.abc import Iterable

from billpay.messages import Tariff


def cap_of(tariff: Tariff, link: str = "") -> int | None:
    """Nanodollars that a packet may be charged at most on that link; "": on any of them. None: no cap."""
    caps = [terms.cap_nanodollars for terms in tariff.tolls if not link or terms.link == link]
    known = [cap for cap in caps if cap is not None]
    return max(known) if known and len(known) == len(caps) else None


def path_cap(tariffs: Iterable[Tariff]) -> int | None:
    """Of all gateways on a path together; None as soon as one of them has none."""
    total = 0
    for tariff in tariffs:
        cap = cap_of(tariff)
        if cap is None:
            return None
        total += cap
    return total


def exceeds_cap(tariff: Tariff, toll_nanodollars: int, *, link: str = "") -> str:
    """What is wrong with that toll of one packet, in words for a regulator; "": nothing."""
    cap = cap_of(tariff, link)
    if cap is None or toll_nanodollars <= cap:
        return ""
    where = f" on {link}" if link else ""
    return (
        f"took {toll_nanodollars} n$ of a packet{where}, {toll_nanodollars - cap} n$ above the cap of {cap} n$ "
        f"that its tariff {tariff.serial} publishes (issuer {tariff.issuer})"
    )
