"""The process that probes: one request as JSON on standard input, reports as JSON lines on standard output.

Decides: which address a destination means, what is refused before anything is sent, and when the run ends. Refuses to
know: what is measured (`run`), and how it is shown. A process of its own, since the agent must neither load scapy nor
hold raw sockets for a stranger's question: it keeps CAP_NET_RAW alone of the capabilities that our units hand out.

    python -m cartographer.measuring.worker < request.json

Each line is a ProbeReport, the last one is final; or one Trouble, and then nothing was found. SIGINT, SIGTERM and
SIGHUP end it with a final report of what there is. The exit code says only whether there was one: 0 or 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Final

import msgspec

from billpay.errors import BillpayError, EnvironmentFault
from cartographer.measuring.gathering import Named
from cartographer.measuring.names import Names, Origins, usual_origins
from cartographer.measuring.report import Family, ProbeReport, ProbeRequest, Trouble, TroubleKind
from cartographer.measuring.run import Means, Run

MODULE: Final = "cartographer.measuring.worker"
MOST_REQUEST_BYTES: Final = 65_536
REPORT_NS: Final = 250_000_000
"""No more than one report in so long, but for the last."""
MOST_PACKETS_PER_S: Final = 1000
LEAST_PACKETS_PER_S: Final = 100
MOST_PACKET_BYTES: Final = 65_535
DEFAULT_MTU: Final = 1500

_SIOCGIFADDR: Final = 0x8915
_SIOCGIFMTU: Final = 0x8921
_FAMILIES: Final = {Family.ANY: socket.AF_UNSPEC, Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Refused(BillpayError):  # noqa: N818 (as EnvironmentFault)
    """The request makes no sense, whatever the machine allows."""

    def __init__(self, target: str, cause: str, remedy: str) -> None:
        super().__init__(target, cause, remedy)
        self.target = target
        self.cause = cause
        self.remedy = remedy


# --- where to ---------------------------------------------------------------------------------------------------------


async def resolve(destination: str, family: Family) -> str:
    """The address that is probed, as digits. Raises Refused, or EnvironmentFault where nobody could be asked."""
    try:
        address = ip_address(destination)
    except ValueError:
        address = ip_address(await _look_up(destination, family))
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    wanted = {Family.IPV4: 4, Family.IPV6: 6}.get(family, address.version)
    if address.version != wanted:
        raise Refused(destination, f"is no IPv{wanted} address", f"leave out -{wanted}")
    if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
        raise Refused(destination, "is no address of one host", "name a single destination")
    if address.is_link_local:
        raise Refused(destination, "is on our own link: no router is on the way", "name a destination farther away")
    return str(address)


async def _look_up(name: str, family: Family) -> str:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(name, None, family=_FAMILIES[family], type=socket.SOCK_DGRAM)
    except UnicodeError as error:
        raise Refused(name, "is no host name", "check how it is written") from error
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            remedy = "is there a network? an address in digits needs no name server"
            raise EnvironmentFault("look up", name, "no name server answers", remedy) from error
        if family is Family.ANY:
            raise Refused(name, "no such host", "check how it is written") from error
        version, other = ("IPv4", "-6") if family is Family.IPV4 else ("IPv6", "-4")
        raise Refused(name, f"no such host, or it has no {version} address", f"try {other}") from error
    return str(found[0][4][0])


def own_end(address: str) -> tuple[str, int]:
    """Our address towards it, and the largest packet that its interface sends.

    Asked of the interface, since the kernel's own path MTU may be of an old message.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as route:
        try:
            route.connect((address, 9))
        except OSError as error:
            version = "IPv6" if family == socket.AF_INET6 else "IPv4"
            other = "-4" if family == socket.AF_INET6 else "-6"
            remedy = f"is there a network with {version}? else try {other}"
            raise EnvironmentFault("find a way to", address, error.strerror, remedy) from error
        source = str(route.getsockname()[0])
        name = _interface_of(source)
        if name is None:
            return source, DEFAULT_MTU
        asked = struct.pack("16s16x", name.encode())
        (mtu,) = struct.unpack_from("@i", fcntl.ioctl(route, _SIOCGIFMTU, asked), 16)
    return source, min(int(mtu), MOST_PACKET_BYTES)


def _interface_of(source: str) -> str | None:
    if ":" in source:
        wanted = IPv6Address(source).packed.hex()
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            return next((line.split()[5] for line in file if line.startswith(wanted)), None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no IPv4 address
                told = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("16s16x", name.encode()))
                if socket.inet_ntoa(told[20:24]) == source:
                    return name
    return None


# --- the run ----------------------------------------------------------------------------------------------------------


async def work(request: ProbeRequest) -> None:
    """Raises BillpayError where nothing can be found out at all."""
    address = await resolve(request.destination, request.family)
    source, size = own_end(address)
    from cartographer.measuring.wire import WireProber, WireTerms

    rate = min(MOST_PACKETS_PER_S, max(LEAST_PACKETS_PER_S, request.max_hops * 1000 // request.interval_ms))
    terms = WireTerms(packets_per_s=rate, most_packets=request.max_packets)
    with WireProber(terms) as prober, Names(is_on=request.names) as names:
        means = Means(
            prober=prober,
            pause=_pause,
            clock_ns=time.monotonic_ns,
            draw=random.SystemRandom().randrange,
            link_bytes=size,
            own_address=source,
            report_every_ns=REPORT_NS,
            names=_Known(names, usual_origins()) if request.names else None,
        )
        run = Run(request, address, means)
        note = await _until_told(run, seconds=request.max_seconds)
        if note:
            write(run.report(final=True, note=note))


class _Known:
    """Names and origins together."""

    def __init__(self, names: Names, origins: Origins) -> None:
        self._names = names
        self._origins = origins

    def want(self, address: str) -> None:
        self._names.want(address)

    def known(self, address: str) -> Named:
        return Named(name=self._names.known(address) or "", origin_as=self._origins.of(address) or "")

    async def of(self, addresses: Iterable[str]) -> object:
        return await self._names.of(addresses)


async def _pause(nanoseconds: int) -> None:
    await asyncio.sleep(nanoseconds / 1e9)


async def _until_told(run: Run, *, seconds: float) -> str:
    """Why it ended before its end; "": it did not."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, told.set)
    working = asyncio.create_task(_report(run))
    waiting = asyncio.create_task(told.wait())
    done, _ = await asyncio.wait((working, waiting), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working in done:
        working.result()
        return ""
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    return "stopped early" if told.is_set() else f"stopped: more than {seconds:g} s"


async def _report(run: Run) -> None:
    async with contextlib.aclosing(run.steps()) as steps:
        async for report in steps:
            write(report)


def write(what: ProbeReport | Trouble) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def trouble_of(error: BillpayError) -> Trouble:
    match error:
        case Refused():
            return Trouble(
                error=TroubleKind.USAGE,
                operation="probe",
                target=error.target,
                cause=error.cause,
                remedy=error.remedy,
            )
        case EnvironmentFault():
            return Trouble(
                error=TroubleKind.ENVIRONMENT,
                operation=error.operation,
                target=error.target,
                cause=str(error.cause),
                remedy=error.remedy,
            )
        case _:
            return Trouble(error=TroubleKind.ENVIRONMENT, operation="probe", target="", cause=str(error))


def keep_raw_sockets_only() -> None:
    """Of the capabilities that our units hand out. Where they cannot be given up, there is no reason to go on."""
    from dataplane.hardening import Capability, drop_capabilities, held_capabilities

    drop_capabilities(each for each in held_capabilities() if each is not Capability.NET_RAW)


def main() -> int:
    try:
        request = msgspec.json.decode(sys.stdin.buffer.read(MOST_REQUEST_BYTES), type=ProbeRequest)
    except msgspec.MsgspecError as error:
        write(
            Trouble(
                error=TroubleKind.USAGE,
                operation="read",
                target="the request",
                cause=str(error),
                remedy="see report.py",
            )
        )
        return 1
    try:
        keep_raw_sockets_only()
        asyncio.run(work(request))
    except BillpayError as error:
        write(trouble_of(error))
        return 1
    except BrokenPipeError:  # whoever asked is gone
        sys.stderr.close()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
