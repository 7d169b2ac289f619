"""The receiver's buffer of a stream: what arrives plays at its own speed, and stops where there is nothing.

Decides: when it plays and when it stalls. Refuses to know: packets' rates beyond what each of them plays.
Source: M3I 3.5.1 (a receiver's buffer of 5 to 10 s).
"""

from __future__ import annotations

from lab.simulator.events import Packet, Timeline


class Playback:
    """Plays from `begin_ns` of media on, stalls at none, goes on at `resume_ns`. All by arithmetic at arrivals."""

    def __init__(self, timeline: Timeline, *, begin_ns: int = 2_000_000_000, resume_ns: int = 1_000_000_000) -> None:
        self._line = timeline
        self._needs_ns = begin_ns
        self._resume_ns = resume_ns
        self._last_ns = 0
        self._playing = False
        self._begun = False
        self._media_ns = 0
        self.stalls = 0
        self.stalled_ns = 0

    def arrive(self, packet: Packet) -> None:
        self._pass()
        self._media_ns += packet.media_ns
        if not self._playing and self._media_ns >= self._needs_ns:
            self._playing = self._begun = True
            self._needs_ns = self._resume_ns

    def buffer_ns(self) -> int:
        """What there is to play now."""
        self._pass()
        return self._media_ns

    def _pass(self) -> None:
        now_ns = self._line.now_ns
        passed_ns, self._last_ns = now_ns - self._last_ns, now_ns
        if self._playing:
            self._media_ns -= passed_ns
            if self._media_ns < 0:
                self.stalls += 1
                self.stalled_ns -= self._media_ns
                self._media_ns = 0
                self._playing = False
        elif self._begun:
            self.stalled_ns += passed_ns
