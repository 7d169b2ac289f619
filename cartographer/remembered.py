"""What the cartographer knows, as values that survive a restart and a change of networks.

Decides the form alone.  All times are ages: how long ago something was true when the values were taken.  Who stores
them adds the time that passed since (`recall(…, elapsed_ns=…)`), for a monotonic clock means nothing after a restart.
Pure.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from billpay.messages import IspOad, OadDescription
from cartographer.statistics import StoredWay

FORMAT = 1
Age = Annotated[int, msgspec.Meta(ge=0)]


class RememberedDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    description: OadDescription
    age_ns: Age
    left_ns: int  # until it expires


class RememberedLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    as_number: int
    alternative: int
    following: int
    age_ns: Age


class RememberedWay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In `statistics`, `measured_ns` is an age, too."""

    oads: tuple[IspOad, ...]
    age_ns: Age  # when packets last met it
    statistics: StoredWay


class RememberedAsk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """User-OADs and the way that they led to."""

    slots: tuple[IspOad, ...]
    way: str
    age_ns: Age


class RememberedIsp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ISP on the ways to one destination. `silent`: alternative → wishes for it are not uttered for so long."""

    as_number: int
    bitmap: int
    present: int
    default: int | None = None
    seen: tuple[int, ...] = ()
    silent: dict[int, Age] = {}
    age_ns: Age = 0


class RememberedDestination(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    destination: str
    path: tuple[int, ...]
    isps: tuple[RememberedIsp, ...]
    ways: tuple[RememberedWay, ...]
    asks: tuple[RememberedAsk, ...]
    age_ns: Age  # when it was last in use


class RememberedMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything, of one network."""

    format: int = FORMAT
    descriptions: tuple[RememberedDescription, ...] = ()
    links: tuple[RememberedLink, ...] = ()
    destinations: tuple[RememberedDestination, ...] = ()  # the least recently used first
