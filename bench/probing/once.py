"""One trace from a process of its own, as a command would do it: `python -m bench.probing.once`. Prints the hops."""

from __future__ import annotations

import asyncio

from bench.probing.network import DESTINATION
from cartographer.measuring.multipath import Multipath, MultipathTerms, discover
from cartographer.measuring.packets import ProbePacket, Transport
from cartographer.measuring.tracing import Route, TraceTerms, trace
from cartographer.measuring.wire import WireProber

PROBE = ProbePacket(destination=DESTINATION, transport=Transport.UDP, ttl=1)


async def trace_once() -> Route:
    with WireProber() as prober:
        return await trace(TraceTerms(probe=PROBE), prober)


async def discover_once() -> Multipath:
    with WireProber() as prober:
        return await discover(MultipathTerms(probe=PROBE), prober)


if __name__ == "__main__":
    for hop in asyncio.run(trace_once()).hops:
        print(f" {hop.ttl} {' '.join(hop.addresses) or '*'}")
