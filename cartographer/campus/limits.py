"""How often a host may call: a token bucket for each, filled again within a minute.

Refuses to know: what is called. Pure: `now_ns` is of any one monotonic clock.
"""

from __future__ import annotations

from typing import Final

NS_PER_MINUTE: Final = 60_000_000_000


class CallLimit:
    """`per_minute` calls at once, and as many in each minute after. Holds no more hosts than there are admitted."""

    def __init__(self, per_minute: int) -> None:
        self._cost_ns = NS_PER_MINUTE // per_minute
        self._full_ns: dict[str, int] = {}  # by host: when its bucket is full again

    def allows(self, host: str, now_ns: int) -> bool:
        """Whether this call is within the limit; one that is not costs nothing."""
        full_ns = max(self._full_ns.get(host, now_ns), now_ns) + self._cost_ns
        if full_ns - now_ns > NS_PER_MINUTE:
            return False
        self._full_ns[host] = full_ns
        return True

    def forget(self, now_ns: int) -> None:
        """Hosts whose bucket is full are as if they had never called."""
        self._full_ns = {host: full_ns for host, full_ns in self._full_ns.items() if full_ns > now_ns}
