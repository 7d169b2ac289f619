"""Whether the agent only counts or acts, and the timer that takes an unconfirmed trial back.

Decides: when a trial is over. A trial that nobody confirms ends in observing, also when the agent dies in between: only
what was confirmed is kept. Refuses to know: what acting means. Pure; time is the monotonic clock's, as an argument.
Source: the "commit confirmed" of routers' command lines.
"""

from __future__ import annotations

from typing import Final

from billpay.errors import LocalProtocolError
from hostagent.api import Mode, ModeChange

NS_PER_S: Final = 1_000_000_000
TRIAL_S_MAX: Final = 86_400


class ModeKeeper:
    """`kept`: what a person confirmed last."""

    def __init__(self, kept: Mode) -> None:
        self.kept = kept
        self._trial_ends_ns: int | None = None

    @property
    def mode(self) -> Mode:
        return Mode.TRIAL if self._trial_ends_ns is not None else self.kept

    @property
    def acts(self) -> bool:
        return self.mode is not Mode.OBSERVE

    def change(self, change: ModeChange, now_ns: int) -> None:
        """Raises LocalProtocolError for a change that is none."""
        if change.mode is Mode.TRIAL or not 0 <= change.trial_s <= TRIAL_S_MAX:
            raise LocalProtocolError(f"say observe, or act with a trial of 0 to {TRIAL_S_MAX} s")
        if change.mode is Mode.ACT and change.trial_s:
            self._trial_ends_ns = now_ns + change.trial_s * NS_PER_S
            self.kept = Mode.OBSERVE
            return
        self._trial_ends_ns = None
        self.kept = change.mode

    def seconds_left(self, now_ns: int) -> int | None:
        """Rounded up; None outside a trial."""
        if self._trial_ends_ns is None:
            return None
        return max(0, -((now_ns - self._trial_ends_ns) // NS_PER_S))

    def rolled_back(self, now_ns: int) -> bool:
        """Ends a trial whose time is over; whether that happened just now."""
        if self._trial_ends_ns is None or now_ns < self._trial_ends_ns:
            return False
        self._trial_ends_ns = None
        return True
