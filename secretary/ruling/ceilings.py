"""What nothing and nobody may exceed: ceilings of the organisation and of the person, and what a program asked for.

Decides: how much of what was wanted is allowed, and who cut it, one line for each cut. Refuses to know: why so much was
wanted, how spending is counted (`spent_today` says it), files and clocks. Pure.

The least of all ceilings that apply holds; nothing raises what was wanted, neither another ceiling nor the order in
which they are looked at. Three bid for a packet: the organisation limits, the person decides within that, and the
program may ask for less than both, never for more.

Source: MacKie-Mason and Varian, "Pricing the Internet" (the administrator, the user and the software set bids, and an
organisation puts a ceiling on them).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from billpay.header import MAX_AMOUNT_NANODOLLARS
from billpay.messages import Amount, Name, Sum
from secretary.ruling.rules import Most, name_matches, program_matches
from secretary.transfers import Transfer

Glob = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Globs = Annotated[tuple[Glob, ...], msgspec.Meta(max_length=64)]


class Setter(enum.Enum):
    """Who set a ceiling."""

    ORGANISATION = "organisation"
    PERSON = "person"
    PROGRAM = "program"


class Ceiling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is not said holds for all, and is no bound. Names may be globs. `day_nanodollars`: of all it holds for."""

    name: Name
    program: Globs = ()
    user: Globs = ()
    kind: Globs = ()
    network: Globs = ()
    packet_nanodollars: Amount | None = None
    transfer_nanodollars: Sum | None = None
    mb_nanodollars: Sum | None = None
    day_nanodollars: Sum | None = None

    def holds(self, transfer: Transfer) -> bool:
        """What the host does not know of a transfer does not take it from under a ceiling."""
        return (
            (not self.program or not transfer.program or program_matches(self.program, transfer.program))
            and (not self.user or not transfer.user or name_matches(self.user, transfer.user))
            and (not self.kind or not transfer.kind or name_matches(self.kind, transfer.kind))
            and (not self.network or not transfer.network or name_matches(self.network, transfer.network))
        )


@dataclass(frozen=True, slots=True)
class Placed:
    """A ceiling and who set it; what is spent under it is known by both."""

    setter: Setter
    ceiling: Ceiling

    def __str__(self) -> str:
        whose = {Setter.ORGANISATION: "your organisation's", Setter.PERSON: "your", Setter.PROGRAM: "the program's"}
        return f"{whose[self.setter]} ceiling {self.ceiling.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The most for one packet and for the whole transfer, before any ceiling."""

    packet_nanodollars: int
    transfer_nanodollars: int


@dataclass(frozen=True, slots=True)
class Cut:
    """One bound that was lowered, and by whom."""

    placed: Placed
    what: str  # "a packet", "the transfer"
    wanted_nanodollars: int
    allowed_nanodollars: int
    bound: str  # "5 n$ a packet", "100 n$ a day, 40 n$ are left"

    def __str__(self) -> str:
        cut = f"{self.wanted_nanodollars} n$ for {self.what} cut to {self.allowed_nanodollars} n$"
        return f"{cut} by {self.placed}: {self.bound}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Never more than what was wanted. `cuts`: at most one for a packet and one for the transfer."""

    packet_nanodollars: int
    transfer_nanodollars: int
    cuts: tuple[Cut, ...] = ()


def place(organisation: Sequence[Ceiling], person: Sequence[Ceiling]) -> tuple[Placed, ...]:
    """All ceilings; of two that cut alike the organisation's is named."""
    return (
        *(Placed(Setter.ORGANISATION, ceiling) for ceiling in organisation),
        *(Placed(Setter.PERSON, ceiling) for ceiling in person),
    )


def asked_by_program(most: Most) -> Placed:
    """What the program itself bids, as a ceiling for this one transfer."""
    asked = Ceiling(
        name="bid",
        packet_nanodollars=most.packet_nanodollars,
        transfer_nanodollars=most.transfer_nanodollars,
        mb_nanodollars=most.mb_nanodollars,
    )
    return Placed(Setter.PROGRAM, asked)


def apply(
    ceilings: Sequence[Placed],
    wanted: Wanted,
    transfer: Transfer,
    spent_today: Callable[[Placed], int],
) -> Allowed:
    """`spent_today`: under a ceiling, what open grants may still spend included; asked of those with a day's bound."""
    packet, of_packet = wanted.packet_nanodollars, None
    whole, of_whole = wanted.transfer_nanodollars, None
    for placed in ceilings:
        if not placed.ceiling.holds(transfer):
            continue
        left = None
        if placed.ceiling.day_nanodollars is not None:
            left = max(0, placed.ceiling.day_nanodollars - spent_today(placed))
        for bound, text in _packet_bounds(placed.ceiling, left):
            if bound < packet:
                packet, of_packet = bound, (placed, text)
        for bound, text in _transfer_bounds(placed.ceiling, transfer.size_bytes, left):
            if bound < whole:
                whole, of_whole = bound, (placed, text)
    cuts = [
        Cut(by[0], what, before, after, by[1])
        for by, what, before, after in (
            (of_packet, "a packet", wanted.packet_nanodollars, packet),
            (of_whole, "the transfer", wanted.transfer_nanodollars, whole),
        )
        if by is not None
    ]
    return Allowed(packet_nanodollars=packet, transfer_nanodollars=whole, cuts=tuple(cuts))


_Bounds = list[tuple[int, str]]
_A_PACKET: Final = "a packet"


def _packet_bounds(ceiling: Ceiling, left: int | None) -> _Bounds:
    """A packet is no dearer than all that is left of the day."""
    bounds = []
    if ceiling.packet_nanodollars is not None:
        bounds.append((ceiling.packet_nanodollars, f"{ceiling.packet_nanodollars} n$ {_A_PACKET}"))
    if ceiling.mb_nanodollars is not None:
        of_packet = Most(mb_nanodollars=ceiling.mb_nanodollars).of_packet() or 0
        bounds.append((min(of_packet, MAX_AMOUNT_NANODOLLARS), f"{ceiling.mb_nanodollars} n$ a MB"))
    if ceiling.transfer_nanodollars is not None:
        bounds.append((ceiling.transfer_nanodollars, f"{ceiling.transfer_nanodollars} n$ a transfer"))
    return bounds + _day_bounds(ceiling, left)


def _transfer_bounds(ceiling: Ceiling, size_bytes: int, left: int | None) -> _Bounds:
    bounds = []
    for part, what in (
        (Most(packet_nanodollars=ceiling.packet_nanodollars), f"{ceiling.packet_nanodollars} n$ {_A_PACKET}"),
        (Most(mb_nanodollars=ceiling.mb_nanodollars), f"{ceiling.mb_nanodollars} n$ a MB"),
        (Most(transfer_nanodollars=ceiling.transfer_nanodollars), f"{ceiling.transfer_nanodollars} n$ a transfer"),
    ):
        bound = part.of_transfer(size_bytes)
        if bound is not None:
            bounds.append((bound, what))
    return bounds + _day_bounds(ceiling, left)


def _day_bounds(ceiling: Ceiling, left: int | None) -> _Bounds:
    return [] if left is None else [(left, f"{ceiling.day_nanodollars} n$ a day, {left} n$ are left")]
