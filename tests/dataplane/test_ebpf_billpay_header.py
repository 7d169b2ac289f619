"""dataplane/ebpf/billpay.h says of every packet, and makes of it, what billpay.header, packet, mac and segments do."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrRouting, PadN
from scapy.packet import Raw

from billpay import header as h
from billpay.errors import EnvironmentFault
from billpay.header import CannotCarry, Header, Located, Malformed, Slot
from billpay.mac import compute_mac
from billpay.packet import flow_key, transport_of
from billpay.segments import segments_of
from dataplane.ebpf.libbpf import BpfObject
from gateway.marking import is_ect, with_ce
from tests.gateway_network import A_V4, A_V6, B_V4, B_V6, KEY, carrying, plain, segment

pytestmark = pytest.mark.netns
ROOT = Path(__file__).resolve().parents[2]
FOUND = (
    Malformed.TRUNCATED,
    Malformed.LENGTH,
    Malformed.OVERRUN,
    Malformed.OAD_COUNT,
    Malformed.DUPLICATE,
    Malformed.AMOUNT_OVER_CEILING,
    Malformed.ON_FRAGMENT,
    Malformed.SHARED,
)
NO_HEADER, HEADER, CAN_CARRY, READ = -2, -1, -1, 1
LOCATE, UPDATE, STRIP, INSERT, MARK = range(5)
EPOCH, NO_SLOT = 29_000_000, 7
MAX_AMOUNT = 1_000_000
ENTRY = struct.Struct("=I")
QUESTION = struct.Struct("=16s11I4x32sQ")
ANSWER = struct.Struct("=Q3i9I4I")


class Said(NamedTuple):
    mac: int
    found: int
    done: int
    cannot: int
    read: int
    size: int
    protocol: int
    offset: int
    is_whole: int
    is_fragment: int
    ports: int
    packets: int
    wire_bytes: int
    bill_offset: int
    oad_count: int
    start: int
    length: int


class Probe:
    """One operation on one packet, in the kernel."""

    def __init__(self, loaded: BpfObject) -> None:
        self._questions, self._answers = loaded.map("questions"), loaded.map("answers")
        self._program = loaded.program("probe")

    def ask(
        self, packet: bytes, operation: int = LOCATE, *, header: bytes = bytes(10), mtu: int = 0xFFFF, **more: int
    ) -> tuple[Said, bytes]:
        names = ("amount", "path_length", "name", "slot_index", "slot", "epoch", "oad_count")
        given = {"epoch": EPOCH, "slot_index": NO_SLOT, "oad_count": (len(header) - 10) // 4} | more
        numbers = [given.get(name, 0) for name in names]
        words = header[:-6] + bytes(32 - len(header[:-6]))
        mac = int.from_bytes(header[-6:], "little")
        segment_bytes = given.get("segment_bytes", 0)
        question = QUESTION.pack(KEY, operation, MAX_AMOUNT, *numbers, mtu, segment_bytes, words, mac)
        self._questions.update(ENTRY.pack(0), question)
        kind = b"\x86\xdd" if packet[:1] and packet[0] >> 4 == 6 else b"\x08\x00"
        ran = self._program.test_run(bytes(12) + kind + packet)
        raw = self._answers.lookup(ENTRY.pack(0))
        assert raw is not None
        return Said(*ANSWER.unpack(raw)), ran.data_out[14:]


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("no clang: the probe cannot be compiled")
    made = tmp_path_factory.mktemp("probe") / "header_probe.bpf.o"
    machine = subprocess.check_output(["uname", "-m"], text=True).strip()
    includes = [f"-I/usr/include/{machine}-linux-gnu", f"-I{ROOT / 'dataplane' / 'ebpf'}"]
    source = str(Path(__file__).parent / "header_probe.bpf.c")
    subprocess.run(
        [clang, "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", *includes, "-c", source, "-o", made],
        check=True,
    )
    try:
        loaded = BpfObject(made)
    except EnvironmentFault as fault:
        pytest.skip(f"eBPF programs cannot be loaded here: {fault}")
    yield Probe(loaded)
    loaded.close()


# --- packets ---------------------------------------------------------------------------------------------------------


def with_ipv4_options(packet: bytes, options: bytes) -> bytes:
    """Options after the fixed header; lengths and checksum are made right."""
    options += bytes(-len(options) % 4)
    first, total = packet[0] + len(options) // 4, len(packet) + len(options)
    added = (len(options) >> 2 << 8) + len(options) + int.from_bytes(options, "big")
    checksum = (int.from_bytes(packet[10:12], "big") - added) % 65535
    head = bytes((first, packet[1])) + total.to_bytes(2, "big") + packet[4:10] + checksum.to_bytes(2, "big")
    return head + packet[12:20] + options + packet[20:]


def behind_extensions(chance: random.Random) -> bytes:
    packet = IPv6(src=A_V6, dst=B_V6, tc=chance.randrange(256))
    for _ in range(chance.choice((0, 0, 1, 2, 9))):
        packet /= chance.choice(
            (IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(10))]), IPv6ExtHdrRouting(), IPv6ExtHdrDestOpt())
        )
    if chance.random() < 0.2:
        packet /= IPv6ExtHdrFragment(offset=chance.choice((0, 3)))
    transport = (
        UDP(sport=7, dport=9) if chance.random() < 0.5 else TCP(sport=7, dport=9, dataofs=5 + chance.randrange(9))
    )
    return bytes(packet / transport / Raw(bytes(chance.randrange(90))))


def any_packet(chance: random.Random) -> bytes:
    match chance.randrange(5):
        case 0:
            return plain(size=chance.randrange(200), tos=chance.randrange(256))
        case 1:
            return plain(A_V6, B_V6, size=chance.randrange(200), tos=chance.randrange(256))
        case 2:
            return segment(*chance.choice(((A_V4, B_V4), (A_V6, B_V6))))
        case 3:
            options = b"".join(
                chance.choice((b"\x01", b"\x94\x04\0\0", b"\x07\x07\x04\0\0\0\0", b"\x44\x03\x05"))
                for _ in range(chance.randrange(1, 6))
            )
            return with_ipv4_options(plain(size=chance.randrange(60)), options)
        case _:
            return behind_extensions(chance)


def any_header(chance: random.Random) -> Header:
    slots = tuple(
        Slot(chance.choice((0, 64512, 64513)), chance.randrange(4096), chance.randrange(12))
        for _ in range(chance.randrange(8))
    )
    return Header(chance.randrange(1 << chance.randrange(25)), chance.randrange(16), slots, chance.randbytes(6))


def option_among_others(chance: random.Random) -> bytes:
    """An IPv4 packet whose Bill-Pay option has others in front of it, or behind it."""
    ours = h.encode(any_header(chance)._replace(slots=()))
    option = bytes((h.IPV4_OPTION, len(ours) + 2)) + ours
    parts = [option, *(chance.choice((b"\x01", b"\x94\x04\0\0", b"\0")) for _ in range(chance.randrange(1, 5)))]
    if chance.random() < 0.1:
        parts.append(option)
    chance.shuffle(parts)
    return with_ipv4_options(plain(size=20), b"".join(parts))


def packets(seed: int, count: int) -> Iterator[bytes]:
    """Packets of all kinds, with a header and without, some of them damaged in their first 100 bytes."""
    chance = random.Random(seed)
    made = 0
    while made < count:
        packet = any_packet(chance)
        if chance.random() < 0.7:
            carried = h.insert(packet, h.encode(any_header(chance)), mtu=65535)
            packet = packet if isinstance(carried, CannotCarry) else carried
        if chance.random() < 0.2:
            packet = option_among_others(chance)
        if chance.random() < 0.4:
            damaged = bytearray(packet)
            for _ in range(chance.randrange(1, 3)):
                damaged[chance.randrange(min(100, len(damaged)))] = chance.choice(
                    (0, 1, 0x9E, 0x3E, chance.randrange(256))
                )
            packet = bytes(damaged)
        if chance.random() < 0.1:
            packet = packet[: chance.randrange(20, len(packet) + 1)]
        if packet[0] >> 4 in (4, 6) and (packet[0] >> 4 == 4 or len(packet) >= 40):
            made += 1
            yield packet


def trimmed(packet: bytes) -> bytes:
    """As the kernel trims what the link layer padded, before anybody else sees it."""
    if packet[0] >> 4 == 4:
        length = int.from_bytes(packet[2:4], "big")
        return packet[:length] if length >= 20 else packet
    length = int.from_bytes(packet[4:6], "big")
    return packet[: 40 + length] if length else packet


# --- the same, twice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_it_says_of_a_packet_what_the_cores_say(probe: Probe, seed: int) -> None:
    for packet in packets(seed, 400):
        segment_bytes = 7 * (len(packet) % 5)
        said, _ = probe.ask(packet, segment_bytes=segment_bytes)
        seen = trimmed(packet)
        assert said.read == READ
        assert said.size == len(seen)
        transport = transport_of(seen)
        assert bool(said.is_whole) == (transport is not None), seen.hex()
        if transport is not None:
            assert (said.protocol, said.offset, bool(said.is_fragment)) == tuple(transport), seen.hex()
            flow = flow_key(seen)
            assert flow is not None
            ports = flow.source_port.to_bytes(2, "big") + flow.destination_port.to_bytes(2, "big")
            assert said.ports.to_bytes(4, "little") == ports, seen.hex()
        count, wire_bytes, _ = segments_of(seen, segment_bytes)
        assert (said.packets, said.wire_bytes) == (count, wire_bytes), seen.hex()
        located = h.locate(seen, max_amount=MAX_AMOUNT)
        if isinstance(located, Located):
            assert said.found == HEADER, seen.hex()
            assert (said.bill_offset, said.oad_count) == located[:2]
            assert (said.start, said.length) == located[3:]
            flow = flow_key(seen)
            assert flow is not None
            mac = compute_mac(KEY, flow, EPOCH, h.base_and_slots(seen, located))
            assert said.mac.to_bytes(8, "little")[:6] == mac, seen.hex()
        else:
            expected = NO_HEADER if located is None else FOUND.index(located)
            assert said.found == expected, (located, seen.hex())


@pytest.mark.parametrize("seed", range(4))
def test_it_makes_of_a_header_what_the_core_makes(probe: Probe, seed: int) -> None:
    chance = random.Random(seed)
    for packet in packets(seed + 100, 400):
        seen = trimmed(packet)
        rest = packet[len(seen) :]
        located = h.locate(seen, max_amount=MAX_AMOUNT)
        if not isinstance(located, Located):
            continue
        slot_index = chance.choice((None, *range(located.oad_count)))
        amount, path_length = chance.randrange(1 << 24), chance.randrange(18)
        slot, name = chance.getrandbits(32), chance.choice((0, 64512))
        expected = h.update(
            seen,
            located,
            amount=amount,
            path_length=path_length,
            slot_index=slot_index,
            slot=None if slot_index is None else slot,
            mac_field=h.last_gateway_field(name),
        )
        said, became = probe.ask(
            packet,
            UPDATE,
            amount=amount,
            path_length=path_length,
            slot_index=NO_SLOT if slot_index is None else slot_index,
            slot=int.from_bytes(slot.to_bytes(4, "big"), "little"),
            name=int.from_bytes(name.to_bytes(2, "big"), "little"),
        )
        assert said.done == 1
        assert became.hex() == (expected + rest).hex()
        said, became = probe.ask(packet, STRIP)
        if len(seen) - located.length < (20 if located.version == 4 else 40):
            continue
        assert said.done == 1, seen.hex()
        assert became.hex() == (h.strip(seen, located) + rest).hex(), seen.hex()


@pytest.mark.parametrize("seed", range(4))
def test_it_puts_a_header_in_where_the_core_does(probe: Probe, seed: int) -> None:
    chance = random.Random(seed)
    reasons = list(CannotCarry)
    for packet in packets(seed + 200, 400):
        seen = trimmed(packet)
        header = h.encode(any_header(chance))
        mtu = chance.choice((65535, 65535, len(seen) + 20))
        expected = h.insert(seen, header, mtu=mtu)
        said, became = probe.ask(packet, INSERT, header=header, mtu=mtu)
        if isinstance(expected, CannotCarry):
            assert said.cannot == reasons.index(expected), (expected, seen.hex())
        else:
            assert said.cannot == CAN_CARRY, seen.hex()
            assert said.done == 1
            assert became.hex() == (expected + packet[len(seen) :]).hex()


def test_a_mark_is_set_where_the_sender_understands_it(probe: Probe) -> None:
    for packet in packets(300, 300):
        seen = trimmed(packet)
        said, became = probe.ask(packet, MARK)
        assert bool(said.done) == is_ect(seen)
        assert became == (with_ce(seen) if is_ect(seen) else seen) + packet[len(seen) :]


def test_the_largest_headers(probe: Probe) -> None:
    for packet in (plain(size=0), plain(A_V6, B_V6, size=0), segment()):
        for count in range(8):
            carried = carrying(packet, Header(1, 1, tuple(Slot(i, i, 1) for i in range(count)), bytes(6)))
            said, became = probe.ask(carried, STRIP)
            assert (said.found, said.oad_count, said.done) == (HEADER, count, 1)
            assert became == packet
