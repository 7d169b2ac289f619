"""Names that nobody waits for, and origins by the longest prefix."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import random
import threading
from pathlib import Path

import pytest

from billpay.errors import ConfigurationError, EnvironmentFault
from cartographer.measuring.names import AT_A_TIME, KEPT, KEPT_S, Names, Origins, read_origins

RIB = """# prefix origin
192.0.2.0/24 64512
192.0.2.128/25 64513   # more specific
10.0.0.0/8 64514_64515
0.0.0.0/0 1
2001:db8::/32 64516
2001:db8:1::/48 64517
"""


def test_the_longest_prefix_says_whose_an_address_is(tmp_path: Path) -> None:
    path = tmp_path / "rib"
    path.write_text(RIB)
    origins = read_origins(path)
    found = [origins.of(each) for each in ("192.0.2.127", "192.0.2.128", "192.0.3.0", "10.255.0.1", "192.0.1.255")]
    assert found == ["64512", "64513", "1", "64514_64515", "1"]
    six = [origins.of(each) for each in ("2001:db8::1", "2001:db8:1::1", "2001:db8:2::1", "2001:db7::1", "::1")]
    assert six == ["64516", "64517", "64516", None, None]


def test_pfx2as_in_gzip_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "routeviews.pfx2as.gz"
    path.write_bytes(gzip.compress(b"198.51.100.0\t24\t64512,64513\n2001:db8::\t32\t7\n"))
    origins = read_origins(path)
    assert (origins.of("198.51.100.9"), origins.of("2001:db8::9")) == ("64512,64513", "7")
    assert origins
    assert not Origins()
    assert Origins().of("10.0.0.1") is None


@pytest.mark.parametrize("bits", [32, 128])
def test_every_address_finds_what_a_search_through_all_prefixes_finds(bits: int) -> None:
    draw = random.Random(bits)
    kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
    kind = ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address
    networks: dict[tuple[int, int], str] = {}
    for number in range(300):
        length = draw.choice((0, 1, 2, 3, 4, 5, 6, bits - 1, bits))
        start = draw.getrandbits(bits) >> (bits - length) << (bits - length)
        networks[start, length] = str(number + 1)
    origins = Origins((str(kind(start)), length, origin) for (start, length), origin in networks.items())
    near = [start + step for start, _ in networks for step in (-1, 0, 1) if 0 <= start + step < 1 << bits]
    for value in near + [draw.getrandbits(bits) for _ in range(200)]:
        inside = [length for start, length in networks if value >> (bits - length) == start >> (bits - length)]
        expected = None
        if inside:
            longest = max(inside)
            expected = networks[value >> (bits - longest) << (bits - longest), longest]
        assert origins.of(str(kind(value))) == expected


@pytest.mark.parametrize(
    "line", ["10.0.0.0/33 1", "10.0.0.0/8", "10.0.0/8 1", "10.0.0.0/8 x", "10.0.0.0/x 1", "2001:db8::/129 1", "\x80"]
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rib"
    path.write_bytes(f"# fine\n10.0.0.0/8 1\n{line}\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"line \d"):
        read_origins(path)


def test_a_file_that_is_not_there_or_cut_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault):
        read_origins(tmp_path / "none")
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"10.0.0.0/8 1\n" * 50)[:-12])
    with pytest.raises(ConfigurationError):
        read_origins(cut)


async def test_names_are_asked_once_and_what_strangers_say_is_not_printed() -> None:
    asked: list[str] = []
    answers = {
        "192.0.2.1": "router-1.example.net.",
        "192.0.2.2": None,
        "192.0.2.3": "evil\x1b[2J.example",
        "192.0.2.4": "a." * 200 + "b",
        "192.0.2.5": "two words",
    }

    def ask(address: str) -> str | None:
        asked.append(address)
        return answers[address]

    now_s = 0.0
    with Names(ask=ask, clock_s=lambda: now_s) as names:
        found = await names.of(answers)
        assert found == {**dict.fromkeys(answers), "192.0.2.1": "router-1.example.net"}
        assert names.known("192.0.2.1") == "router-1.example.net"
        await names.of(answers)
        assert sorted(asked) == sorted(answers)
        now_s = KEPT_S
        await names.of(["192.0.2.1"])
        assert asked.count("192.0.2.1") == 2


async def test_nobody_waits_for_a_resolver_that_hangs() -> None:
    """It is not asked more often than in AT_A_TIME threads, and those do not keep the program alive."""
    released, count = threading.Event(), []

    def ask(address: str) -> str | None:
        count.append(address)
        released.wait(10)
        return "late.example"

    names = Names(ask=ask)
    addresses = [f"192.0.2.{number}" for number in range(30)]
    found = await names.of(addresses, wait_s=0.01)
    assert found == dict.fromkeys(addresses)
    assert len(count) <= AT_A_TIME
    assert all(thread.daemon for thread in names._threads)
    released.set()
    assert set((await names.of(addresses)).values()) == {"late.example"}
    names.close()


async def test_off_means_that_nothing_is_asked() -> None:
    def ask(address: str) -> str | None:
        raise AssertionError(address)

    names = Names(is_on=False, ask=ask)
    names.want("192.0.2.1")
    assert await names.of(["192.0.2.1"]) == {"192.0.2.1": None}


async def test_memory_is_bounded() -> None:
    with Names(ask=lambda address: "x.example") as names:
        for number in range(KEPT + 100):
            names.want(str(ipaddress.IPv4Address(number)))
        assert len(names._asked) == KEPT
        await asyncio.sleep(0)
