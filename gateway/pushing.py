"""Pushes the price of a mark to whoever the operator names: one signed datagram each, and again every few seconds.

A driver: `mark_prices` decides the price; the load of the links that mark comes from the interfaces' own counters.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address

import msgspec

from billpay.errors import EnvironmentFault
from billpay.sessions import SESSION_PORT, MarkPrice
from dataplane.attribution.interfaces import Interfaces
from gateway.mark_prices import MarkPricing
from neighbour.identity import NodeIdentity

LOG = logging.getLogger("gateway")
AGAIN_S = 1.0
LOOK_S = 0.25


class Load:
    """How much of the links that mark was used since it was asked last, by the interfaces' own counters."""

    def __init__(self, rates_bit_s: Mapping[str, int]) -> None:
        self._rates_bit_s = dict(rates_bit_s)
        self._before: tuple[int, int] | None = None  # ns, bytes

    def ppm(self) -> int | None:
        """None the first time, and where an interface is gone or the kernel does not tell: then the price stays."""
        try:
            interfaces = Interfaces()
        except EnvironmentFault as fault:
            LOG.warning("%s", fault)
            return None
        try:
            found = interfaces.read()
        finally:
            interfaces.close()
        if not all(name in found for name in self._rates_bit_s):
            return None
        now = (time.monotonic_ns(), sum(found[name].sent_bytes for name in self._rates_bit_s))
        before, self._before = self._before, now
        if before is None or now[0] <= before[0] or now[1] < before[1]:
            return None
        bits_e15 = (now[1] - before[1]) * 8 * 10**15
        return bits_e15 // ((now[0] - before[0]) * sum(self._rates_bit_s.values()))


class PricePusher:
    """`load_ppm()`: how much of the priced links was used since it was asked last; None: not known."""

    def __init__(
        self,
        pricing: MarkPricing,
        *,
        identity: NodeIdentity,
        addresses: tuple[str, ...],
        load_ppm: Callable[[], int | None],
    ) -> None:
        self._pricing = pricing
        self._identity = identity
        self._targets = [(text, ip_address(text).version) for text in addresses]
        self._load_ppm = load_ppm
        self._news = asyncio.Event()

    @property
    def newest(self) -> MarkPrice:
        return self._pricing.newest

    def set_price(self, nanodollars_per_mark: int) -> MarkPrice:
        price = self._pricing.set_price(nanodollars_per_mark, _unix_ms())
        LOG.info("a mark costs %d n$ from %d on", nanodollars_per_mark, price.valid_from_unix_ms)
        self._news.set()
        return price

    async def work(self) -> None:
        """Until cancelled."""
        sockets: dict[int, socket.socket] = {
            version: _socket(version) for version in {version for _, version in self._targets}
        }
        try:
            next_s = 0.0
            while True:
                self._follow_load()
                if self._news.is_set() or time.monotonic() >= next_s:
                    self._news.clear()
                    next_s = time.monotonic() + AGAIN_S
                    self._push(sockets)
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
                except TimeoutError:
                    continue
        finally:
            for each in sockets.values():
                each.close()

    def _follow_load(self) -> None:
        if not self._pricing.is_period_over(_unix_ms()):
            return
        load_ppm = self._load_ppm()
        if load_ppm is not None and self._pricing.on_load(load_ppm, _unix_ms()) is not None:
            self._news.set()

    def _push(self, sockets: dict[int, socket.socket]) -> None:
        for price in self._pricing.pushes():
            datagram = msgspec.json.encode(self._identity.sign(price))
            for address, version in self._targets:
                try:
                    sockets[version].sendto(datagram, (address, SESSION_PORT))
                except OSError as error:  # no route now: it is said again soon
                    LOG.debug("price to %s: %s", address, error)


def _socket(version: int) -> socket.socket:
    made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000
