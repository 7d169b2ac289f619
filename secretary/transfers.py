"""What is asked of the secretary: a transfer, as far as the host knows it, and the moment at which it is asked.

Values only; everything that judges a transfer (rules, learner, budgets, guard) reads these and nothing else. What a
host does not know is empty, 0 or None, and no judge may take that for an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Annotated

import msgspec

Text = Annotated[str, msgspec.Meta(max_length=256)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Nanodollars = Annotated[int, msgspec.Meta(ge=0, le=10**18)]


class Transfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`price_nanodollars`: of the whole transfer; with `size_bytes` 0 neither its size nor its price is known."""

    user: Text = ""  # a person on this host, by name
    program: Text = ""  # file name of the executable
    kind: Text = ""  # kind of traffic (`secretary.kinds`), "" unknown
    task: Text = ""  # what the person called it
    destination: Text = ""  # name or address
    network: Text = ""  # which network the host is on
    foreground: bool | None = None
    size_bytes: Bytes = 0
    price_nanodollars: Nanodollars = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Now, by all clocks that matter. `boot`: names this boot, so that `boot_ns` of another one says nothing."""

    unix_s: int
    boot_ns: int  # counts while the machine sleeps (CLOCK_BOOTTIME)
    boot: str
    zone: tzinfo

    @property
    def local(self) -> datetime:
        return datetime.fromtimestamp(self.unix_s, self.zone)
