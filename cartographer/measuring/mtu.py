"""How large a packet may be that reaches a destination whole, who said so, or that somebody swallows larger ones.

Decides: which sizes to try, and what answers and silence prove. Refuses to know: sockets, clocks, how packets look.

First the classic way (RFC 1191, 8201): a "packet too big" names the next link's size, and a probe of that size checks
it. What a message says is believed only after a probe has confirmed it: anybody may send one. Where large packets
vanish without a word, sizes are searched for as RFC 8899 does, with a small packet beside the large ones: silence
proves something only while the small one is answered.  `TRIES` losses in a row pass for a limit; at 10 % loss that is
one size in 1,000, so the largest size that passed is checked against the next one at the end.

An echo comes back as large as it went, so with ICMP the way back counts, too. Sources: RFC 1191, 8201, 8899; RFC 4821.
Pure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final

from cartographer.measuring.packets import Answer, AnswerKind, ProbePacket, Prober
from cartographer.measuring.testimony import Target

LEAST_IPV4: Final = 68
LEAST_IPV6: Final = 1280
SMALL_BYTES: Final = 100
TRIES: Final = 3
AT_ONCE: Final = 6
"""Sizes between two bounds that are tried at once: 1,400 sizes take four rounds."""
MOST_MESSAGES: Final = 10
"""Links can be smaller one after another; more of them than this is somebody's game."""
COMMON_BYTES: Final = (1500, 1492, 1480, 1476, 1454, 1440, 1420, 1400, 1280)
"""Ethernet, PPPoE, tunnels, WireGuard, mobile networks, the least of IPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MtuFindings:
    """`mtu_bytes` None: not even small packets were answered. `between`: hops around the place of the limit."""

    mtu_bytes: int | None
    said_by: str = ""
    swallowed: bool = False
    between: tuple[int, int] | None = None
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """What became of one size."""

    passes: bool
    too_big: Answer | None = None


async def path_mtu(
    prober: Prober,
    target: Target,
    *,
    first_bytes: int,
    wait_ns: int,
    pause: Callable[[], Awaitable[None]],
    hops: Mapping[int, str],
    own_address: str = "",
) -> MtuFindings:
    """`first_bytes`: what our own interface sends. `hops`: who answers at which, to say where packets vanish.

    Where our own kernel remembers a message about this destination, it may be the one that says so.
    """
    least = LEAST_IPV6 if ip_address(target.destination).version == 6 else LEAST_IPV4
    search = _Search(prober, target, wait_ns=wait_ns, pause=pause)
    size, said_by = first_bytes, ""
    for _ in range(MOST_MESSAGES):
        tried = await search.try_size(size)
        if tried.passes:
            by_message = _by_message(target, size, first_bytes, said_by, hops)
            return _by_memory(by_message, size) if said_by and said_by == own_address else by_message
        if tried.too_big is None:
            break
        said = tried.too_big.mtu or 0
        if not least <= said < size:  # an old router says 0, a liar anything
            break
        size, said_by = said, tried.too_big.address
    else:
        return MtuFindings(mtu_bytes=None, words=f"{MOST_MESSAGES} messages, each with a smaller size: not believed")
    if not await search.is_small_answered():
        return MtuFindings(mtu_bytes=None, words="not even small packets are answered")
    found = await search.largest(SMALL_BYTES, size)
    if found is None:
        return MtuFindings(mtu_bytes=None, words="answers come too rarely to search")
    return await _by_search(search, found, sorted(hops), said_by)


def _by_message(target: Target, size: int, first_bytes: int, said_by: str, hops: Mapping[int, str]) -> MtuFindings:
    whose = "" if target.reaches else f" as far as hop {target.last_ttl}, which answers last"
    if not said_by:
        at_least = "" if size < first_bytes else ", all that our own link takes"
        return MtuFindings(mtu_bytes=size, words=f"{size} bytes{at_least}{whose}")
    ttl = next((ttl for ttl, address in sorted(hops.items()) if address == said_by), None)
    return MtuFindings(
        mtu_bytes=size,
        said_by=said_by,
        between=(ttl, ttl + 1) if ttl else None,
        words=f"{size} bytes{whose}: {said_by} says so",
    )


def _by_memory(found: MtuFindings, size: int) -> MtuFindings:
    return replace(found, words=f"{size} bytes: this host remembers a message (`ip route flush cache` forgets it)")


async def _by_search(search: _Search, found: int, hops: Sequence[int], said_by: str) -> MtuFindings:
    between = await search.vanishes_between(found + 1, hops)
    where = f" between hop {between[0]} and hop {between[1]}" if between else ""
    if between and between[0] == 0:
        where = f" between this host and hop {between[1]}"
    partly = f", though {said_by} speaks of another limit" if said_by else ""
    return MtuFindings(
        mtu_bytes=found,
        swallowed=True,
        between=between,
        words=f"{found} bytes; larger ones are swallowed without a word{where}{partly}",
    )


class _Search:
    """Tries sizes at the end of the path."""

    def __init__(self, prober: Prober, target: Target, *, wait_ns: int, pause: Callable[[], Awaitable[None]]) -> None:
        self._prober = prober
        self._target = target
        self._wait_ns = wait_ns
        self._pause = pause

    def _probe(self, size: int, ttl: int | None = None) -> ProbePacket:
        return replace(self._target.probe(ttl=ttl), size_bytes=size, dont_fragment=True)

    async def _ask(self, probes: Sequence[ProbePacket]) -> list[Answer | None]:
        return await self._prober.ask(probes, wait_ns=self._wait_ns)

    async def try_size(self, size: int) -> _Tried:
        """Up to `TRIES` times, one after another: a path without a limit costs one packet."""
        for number in range(TRIES):
            if number:
                await self._pause()
            (answer,) = await self._ask([self._probe(size)])
            if answer is None:
                continue
            if answer.kind is AnswerKind.TOO_BIG:
                return _Tried(passes=False, too_big=answer)
            return _Tried(passes=True)
        return _Tried(passes=False)

    async def is_small_answered(self) -> bool:
        for number in range(TRIES):
            if number:
                await self._pause()
            (answer,) = await self._ask([self._probe(SMALL_BYTES)])
            if answer is not None:
                return True
        return False

    async def largest(self, passes: int, fails: int) -> int | None:
        """The largest size that passes, from `passes` up to `fails`. None: the small packets beside went unanswered."""
        begin = [size for size in COMMON_BYTES if passes < size < fails]
        sizes = begin or _between(passes, fails)
        while fails - passes > 1:
            passed = await self._pass(sizes)
            if passed is None:
                return None
            passes = max([passes, *passed])
            fails = min([fails, *(size for size in sizes if size > passes)])
            if fails - passes <= 1:
                checked = await self._pass([fails])  # silence of one size may have been loss
                if checked:
                    passes, fails = fails, fails + 2
            sizes = _after_common(passes, fails, begin) or _between(passes, fails)
            begin = []
        return passes

    async def _pass(self, sizes: Sequence[int]) -> list[int] | None:
        """Which of them are answered; each up to `TRIES` times, and a small packet after them. None: nothing is.

        Last, since whoever limits answers then had as many left for the others.
        """
        passed: list[int] = []
        missing = list(sizes)
        controls = 0
        for number in range(TRIES + 2):
            if number:
                await self._pause()
            asked = [*(self._probe(size) for size in missing), self._probe(SMALL_BYTES)]
            *told, small = await self._ask(asked)
            arrived = [
                size
                for size, answer in zip(missing, told, strict=True)
                if answer is not None and answer.kind is not AnswerKind.TOO_BIG
            ]
            passed += arrived
            controls += small is not None
            best = max(passed, default=0)
            missing = [size for size in missing if size > best]
            if not missing or controls >= TRIES:
                return passed
        return passed if controls else None

    async def vanishes_between(self, size: int, hops: Sequence[int]) -> tuple[int, int] | None:
        """Hops answer packets of this size as long as they arrive: the last that does, and the first that does not."""
        known = sorted(ttl for ttl in hops if ttl < self._target.last_ttl)
        known.append(self._target.last_ttl)
        low, high = -1, len(known) - 1  # the last one is known not to
        while high - low > 1:
            middle = (low + high) // 2
            if await self._reaches(size, known[middle]):
                low = middle
            else:
                high = middle
        return (known[low] if low >= 0 else 0), known[high]

    async def _reaches(self, size: int, ttl: int) -> bool:
        for number in range(TRIES):
            if number:
                await self._pause()
            (answer,) = await self._ask([self._probe(size, ttl=ttl)])
            if answer is not None:
                return answer.kind is not AnswerKind.TOO_BIG
        return False


def _after_common(passes: int, fails: int, tried: Sequence[int]) -> list[int]:
    """One more than what passed: a common size is mostly the limit itself."""
    return [passes + 1, *_between(passes + 1, fails)] if tried and passes in tried and fails - passes > 1 else []


def _between(passes: int, fails: int) -> list[int]:
    """Sizes that cut what is left into equal parts."""
    span = fails - passes
    cuts = {passes + span * number // (AT_ONCE + 1) for number in range(1, AT_ONCE + 1)}
    return sorted(size for size in cuts if passes < size < fails)
