"""The congestion policer: how much congestion a flat fee covers.

Decides whether a packet's congestion is within the contract, and whether a sender declared as much as was marked;
refuses to know packets, prices and clocks. What is counted is congestion-volume: the bytes of packets that met
congestion. Integers only: the bucket is in byte·ns/s.

A user who sends x bytes a second over paths that mark a share m may do so while x·m is at most the fill rate w, which
is what a Kelly user with a budget of w would choose by himself; so a flat fee and a price per mark meet here.

Sources: re-ECN and ConEx (Briscoe et al. 2005; RFC 6789, RFC 7713); algorithms: token bucket of congestion-volume.
"""

from __future__ import annotations

from dataclasses import dataclass

NS_PER_S = 1_000_000_000

ACCESS_SHARE_DIVISOR = 100
"""w is 1 % of the access rate by default: enough for a full rate at 1 % of marks."""
DEPTH_S = 10
"""The bucket holds ten seconds of w by default: a page that meets congestion passes, a day of it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicerSettings:
    """What a contract covers: `fill_bytes_per_s` of congestion-volume in the long run, `depth_bytes` at once."""

    fill_bytes_per_s: int
    depth_bytes: int

    def __post_init__(self) -> None:
        assert self.fill_bytes_per_s >= 0
        assert self.depth_bytes >= 0

    @classmethod
    def for_fill(cls, fill_bytes_per_s: int) -> PolicerSettings:
        """The default depth for a fill rate."""
        return cls(fill_bytes_per_s=fill_bytes_per_s, depth_bytes=fill_bytes_per_s * DEPTH_S)

    @classmethod
    def for_access(cls, access_bit_s: int) -> PolicerSettings:
        """The defaults for an access line."""
        return cls.for_fill(access_bit_s // 8 // ACCESS_SHARE_DIVISOR)


class CongestionPolicer:
    """A token bucket of congestion-volume, full at the start."""

    __slots__ = ("_depth", "_last_ns", "_tokens", "settings")

    def __init__(self, settings: PolicerSettings, *, now_ns: int) -> None:
        self.settings = settings
        self._depth = settings.depth_bytes * NS_PER_S
        self._tokens = self._depth
        self._last_ns = now_ns

    def admit(self, congestion_bytes: int, *, now_ns: int) -> bool:
        """Takes the congestion-volume out of the bucket; False, and nothing taken, where it holds less.

        A packet without congestion costs nothing and always passes. Time that goes back fills nothing.
        """
        self._fill(now_ns)
        cost = congestion_bytes * NS_PER_S
        if cost > self._tokens:
            return False
        self._tokens -= cost
        return True

    def wait_ns(self, congestion_bytes: int, *, now_ns: int) -> int | None:
        """After how long `admit` would say yes, for a policer that delays; None: never, it is more than the depth
        or there is no fill.
        """
        self._fill(now_ns)
        missing = congestion_bytes * NS_PER_S - self._tokens
        if missing <= 0:
            return 0
        fill = self.settings.fill_bytes_per_s
        if congestion_bytes > self.settings.depth_bytes or fill == 0:
            return None
        return -(-missing // fill)

    def level_bytes(self, now_ns: int) -> int:
        """Whole bytes of congestion that are covered now."""
        self._fill(now_ns)
        return self._tokens // NS_PER_S

    def _fill(self, now_ns: int) -> None:
        elapsed = now_ns - self._last_ns
        if elapsed > 0:
            self._last_ns = now_ns
            self._tokens = min(self._depth, self._tokens + elapsed * self.settings.fill_bytes_per_s)


class CongestionAudit:
    """At the egress: an aggregate must have declared at least the congestion that it met."""

    __slots__ = ("allowance_bytes", "declared_bytes", "marked_bytes")

    def __init__(self, *, allowance_bytes: int) -> None:
        """`allowance_bytes`: what may be met before it is declared; a round trip's worth of it."""
        self.allowance_bytes = allowance_bytes
        self.declared_bytes = 0
        self.marked_bytes = 0

    def on_packet(self, size_bytes: int, *, declared: bool, marked: bool) -> None:
        """Counts a packet that leaves: `declared` by its sender as answer to congestion, `marked` on its way here."""
        self.declared_bytes += size_bytes if declared else 0
        self.marked_bytes += size_bytes if marked else 0

    @property
    def undeclared_bytes(self) -> int:
        """Congestion that was met and neither declared nor allowed for; above 0 the aggregate understates."""
        return max(0, self.marked_bytes - self.declared_bytes - self.allowance_bytes)
