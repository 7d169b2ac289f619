"""For how long a person's answer holds.

Decides: when a term ends. Refuses to know: who is asked and when, what an answer is about (`secretary.inbox`), files
and clocks (`Moment` is an argument). Pure.

What has an end has two deadlines, one on the wall clock and one on the clock that counts while the machine sleeps
(CLOCK_BOOTTIME). The first that passes ends it: a wall clock set back renews nothing, and a night in the bag is no
extension. After a reboot only the wall clock's is left; while it stands before the moment at which the answer was
given, the answer rests, since nobody can say how much of its time is over.

Source: Bill-Pay 2.4 (the user's answers teach the digital secretary); clock_gettime(2).
"""

from __future__ import annotations

import enum
from datetime import datetime, timedelta
from typing import Final

import msgspec

from secretary.transfers import Moment

NS_PER_S: Final = 1_000_000_000


class Term(enum.Enum):
    """For how long a person's word holds; its clock goes on while the machine sleeps."""

    ONCE = "once"  # this flow only
    UNTIL_QUIT = "until-quit"  # until no process of the program is left
    TEN_MINUTES = "10m"
    ONE_HOUR = "1h"
    TODAY = "today"  # until the next local midnight
    ALWAYS = "always"


_SECONDS: Final = {Term.TEN_MINUTES: 600, Term.ONE_HOUR: 3600}


class Deadline(msgspec.Struct, frozen=True, kw_only=True):
    """When something ends, by both clocks; all None: it has no end of its own. Base of what a person said."""

    until_unix_s: int | None = None
    until_boot_ns: int | None = None
    boot: str = ""

    def seconds_left(self, now: Moment) -> int | None:
        """None: it has no end of its own; 0 or less: it is over."""
        if self.until_unix_s is None:
            return None
        left = self.until_unix_s - now.unix_s
        if self.until_boot_ns is not None and self.boot == now.boot:
            left = min(left, (self.until_boot_ns - now.boot_ns) // NS_PER_S)
        return left

    def is_over(self, now: Moment) -> bool:
        left = self.seconds_left(now)
        return left is not None and left <= 0


def deadline_of(term: Term, now: Moment) -> Deadline:
    """Of what is said now. ONCE, UNTIL_QUIT and ALWAYS have no end on a clock."""
    seconds = _seconds_of(term, now)
    if seconds is None:
        return Deadline()
    return Deadline(until_unix_s=now.unix_s + seconds, until_boot_ns=now.boot_ns + seconds * NS_PER_S, boot=now.boot)


def _seconds_of(term: Term, now: Moment) -> int | None:
    if term is Term.TODAY:
        here = now.local
        midnight = datetime(here.year, here.month, here.day, tzinfo=now.zone) + timedelta(days=1)
        return max(1, int(midnight.timestamp()) - now.unix_s)
    return _SECONDS.get(term)
