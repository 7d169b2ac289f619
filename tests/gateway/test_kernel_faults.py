"""What goes wrong around a gateway's programs while packets pay: readers that die, prices that nobody stands by, tables
that are full, cables that are pulled out, another version in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from gateway_network import KEY, grant_for, paying, plain
from kernel_chain import A_PORT, AMOUNT, B_PORT, A, B, Chain
from later_version import ROOT, TESTS, Stream, later_version
from netns import Routed
from paid_books import errors_in, reader_of, settled_books
from real_gateway import wait_until
from small_lab import PAID_PORT, SmallLab, small_lab

from billpay.errors import LocalProtocolError
from dataplane.ebpf.kernel_counters import CountersView, fold_pinned
from dataplane.supervisor import ReaderSupervisor
from gateway.commands import Command, GrantAnswer, OpenGrant, Refused, SetLink, Tick
from gateway.kernel_datapath import PRICE_HOLDS_NS
from gateway.payments import MAX_GRANTS, MAX_GRANTS_PER_FLOW
from lab.namespaces import end_process
from lab.traffic import Counted

pytestmark = pytest.mark.netns

PACKET = plain(A[4], B[4], sport=A_PORT, dport=B_PORT)

# --- readers that die -----------------------------------------------------------------------------------------------


def packets_at_b(lab: SmallLab) -> int:
    """Of the flood, whoever read them."""
    shown = lab.network["B"].run(["nft", "-j", "list", "counters"])
    (count,) = [entry["counter"]["packets"] for entry in msgspec.json.decode(shown)["nftables"] if "counter" in entry]
    return int(count)


def received_by_b(lab: SmallLab) -> int:
    return int(lab.snapshot("B").accounts.links[0].received_packets)


@pytest.mark.parametrize("node", ["X", "A"])
def test_a_flood_loses_nothing_by_kills_but_what_the_books_name(node: str, tmp_path: Path) -> None:
    with small_lab(tmp_path) as lab:
        rules = "add table inet t; add counter inet t c; add chain inet t i { type filter hook input priority 0; }"
        rule = f"add rule inet t i udp dport {PAID_PORT} counter name c"
        lab.network["B"].run(["nft", "-f", "-"], stdin=f"{rules}; {rule}\n".replace("; add", "\nadd"))
        arguments = [lab.address("B"), str(PAID_PORT), "1000000", "100", "60"]
        sink = lab.network["B"].start([sys.executable, "-m", "lab.traffic", "sink", *arguments[:2]])
        flood = lab.network["A"].start(
            [sys.executable, "-m", "lab.traffic", "flood", *arguments], stdout=subprocess.PIPE
        )
        earlier = lab.daemons.books()
        for _ in range(3):
            paid_at_b = received_by_b(lab)
            wait_until(lambda paid_at_b=paid_at_b: received_by_b(lab) > paid_at_b + 500, patience_s=20)
            before, seen = reader_of(lab, node), packets_at_b(lab)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda seen=seen: packets_at_b(lab) > seen + 1000)
            wait_until(lambda before=before: reader_of(lab, node) not in (0, before))
            books = lab.daemons.books()
            for name, each in books.items():
                assert each.received_nanodollars >= earlier[name].received_nanodollars
                assert each.sent_nanodollars >= earlier[name].sent_nanodollars
            earlier = books
        flood.terminate()
        output, _ = flood.communicate()
        sent = msgspec.json.decode(output, type=Counted).sent
        wait_until(lambda: packets_at_b(lab) == sent)
        end_process(sink)
        books = settled_books(lab)
    assert errors_in(books) == {}
    paid = next(link.sent_packets for link in books["A"].links)
    assert paid <= sent
    assert books["A"].sent_nanodollars == 20 * paid
    assert books["B"].links[0].received_packets <= paid


# --- prices ---------------------------------------------------------------------------------------------------------


def test_of_a_reader_that_stands_still_no_price_is_left(tmp_path: Path) -> None:
    with Chain(queue=tmp_path / "queue.json") as chain:
        chain.pay(PACKET)
        link = chain.x.links["y"]
        link.toll.congestion_picodollars = 5000
        chain.x._write_price(link, time.monotonic_ns())
        chain.exchange(3)
        assert chain.link_count("x", "y", "retained_nanodollars") == 3 * 6
        time.sleep(PRICE_HOLDS_NS / 1e9 + 0.05)
        chain.exchange(3)
        assert chain.link_count("x", "y", "retained_nanodollars") == 3 * 6 + 3 * 1
        chain.assert_alike()


# --- tables that are full -------------------------------------------------------------------------------------------


def numbered(number: int, port: int = 0) -> OpenGrant:
    packet = plain(A[4], B[4], sport=A_PORT, dport=port or 10_000 + number)
    return OpenGrant(link="a", grant=grant_for(packet, grant=f"{number + 100:032x}", not_before_unix_s=0))


def test_more_grants_than_there_is_room_for_are_refused_and_their_packets_go_on_unpaid() -> None:
    with Chain() as chain:
        chain.pay(PACKET)
        for number in range(MAX_GRANTS - 1):
            assert isinstance(chain.tell(chain.x, numbered(number)), GrantAnswer)
        refused = chain.tell(chain.x, numbered(MAX_GRANTS))
        assert isinstance(refused, Refused)
        assert refused.code == "too-many-grants"
        chain.exchange(2)
        chain.assert_alike()
        assert chain.link_count("x", "a", "received_packets") == 2


def test_more_grants_of_a_flow_than_there_are_places_are_refused() -> None:
    with Chain() as chain:
        chain.pay(PACKET)
        for number in range(1, MAX_GRANTS_PER_FLOW):
            assert isinstance(chain.tell(chain.x, numbered(number, B_PORT)), GrantAnswer)
        refused = chain.tell(chain.x, numbered(MAX_GRANTS_PER_FLOW, B_PORT))
        assert isinstance(refused, Refused)
        assert refused.code == "too-many-grants"
        chain.exchange(2)
        chain.assert_alike()


def test_without_a_free_counter_a_grant_is_refused_and_all_goes_on() -> None:
    with Chain() as chain:
        chain.pay(PACKET)
        with contextlib.suppress(LocalProtocolError):
            for number in range(1 << 20):
                chain.counters["x"].index(f"filler/{number}")
        refused = chain.tell(chain.x, numbered(1))
        assert isinstance(refused, Refused)
        chain.exchange(2)
        chain.assert_alike()
        assert chain.link_count("x", "a", "received_packets") == 2


# --- cables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [False, True], ids=["no queue", "queue"])
def test_a_link_that_was_down_pays_again(queue: bool, tmp_path: Path) -> None:
    with Chain(queue=tmp_path / "queue.json" if queue else None) as chain:
        chain.pay(PACKET)
        chain.exchange(3)
        chain.turn_off_and_on(1)
        follow(chain)
        chain.exchange(3)
        chain.assert_alike()
        assert chain.link_count("y", "x", "received_packets") == 6


@pytest.mark.parametrize("cable", [0, 1, 2], ids=["uplink", "between", "last"])
def test_another_cable_pays_again(cable: int) -> None:
    with Chain() as chain:
        chain.pay(PACKET)
        chain.exchange(3)
        chain.lay_again(cable)
        follow(chain)
        chain.exchange(3)
        chain.assert_alike()
        assert chain.link_count("y", "x", "received_packets") == 6


def follow(chain: Chain) -> None:
    """What the readers do a moment later, when they see it."""
    for name, core in (("x", chain.x), ("y", chain.y)):
        for descriptor in core.descriptors():
            core.on_readable(descriptor, time.monotonic_ns())
        later_ns = time.monotonic_ns() + 10**9
        chain.inside(name, lambda core=core, later_ns=later_ns: core.on_timer(later_ns))
    chain.inside("a", lambda: chain.a.on_timer(time.monotonic_ns()))


# --- another version ------------------------------------------------------------------------------------------------

READER = """
import sys

version, tests = sys.argv[1:3]
sys.path[:0] = [version, tests]
from gateway_network import X, Y, fixed, routes, to_gateway, to_host

import gateway
from dataplane.ebpf.kernel_reader import serve_kernel
from dataplane.links import read_link
from gateway.kernel_datapath import KernelGateway
from gateway.plan import GatewayPlan

assert gateway.__path__[0].startswith(version)

def build(counters):
    links = (
        to_host("a", read_link("ra").index, toll=fixed(1)),
        to_gateway("b", read_link("rb").index, Y, toll=fixed(1)),
    )
    there = routes(("10.9.1.0/24",), "a") + routes(("10.9.2.0/24",), "b")
    return KernelGateway(GatewayPlan(as_number=X, links=links, routes=there), counters)

sys.exit(serve_kernel(build))
"""


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return later_version(
        tmp_path_factory.mktemp("later"),
        "gateway.bpf.c",
        ("gateway.h", r"(struct link_state \{\n)", r"\1\t__u64 of_later_days[3];\n"),
        ("gateway.h", r"(struct grant_terms \{\n)", r"\1\t__u64 of_later_days;\n"),
        ("gateway_layout.py", r"(LINK_STATE: Final = Layout\(\n)", r'\1    of_later_days="3Q",\n'),
        ("gateway_layout.py", r"(GRANT_TERMS: Final = Layout\(\n)", r'\1    of_later_days="Q",\n'),
    )


def raw_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


async def some_more(view: CountersView) -> None:
    before = view.committed("link/a/received_packets")
    async with asyncio.timeout(20):
        while view.committed("link/a/received_packets") < before + 300:
            await asyncio.sleep(0.01)


async def test_another_version_goes_on_counting_where_the_last_one_stopped(later: Path, tmp_path: Path) -> None:
    with Routed() as routed:
        path = tmp_path / "counters"
        there = ("10.9.2.1", 0)
        packet = plain("10.9.1.1", there[0], sport=A_PORT, dport=B_PORT)
        grant = grant_for(packet, key=KEY.hex(), not_before_unix_s=0, expires_unix_s=2**32, cap=10**12)
        commands: list[Command] = [Tick(), *(SetLink(link=name, agreed=True, in_default=False) for name in "ab")]
        commands.append(OpenGrant(link="a", grant=grant))
        readers = {root: routed.r.command(sys.executable, "-c", READER, str(root), TESTS) for root in (ROOT, later)}
        async with ReaderSupervisor(
            readers[ROOT],
            counters_path=path,
            owner="version",
            on_event=lambda _: None,
            snapshot=lambda: [msgspec.json.encode(command) for command in commands],
        ) as supervisor:
            view = CountersView(path)
            paid_packet = paying(packet, AMOUNT, unix_s=int(time.time()))
            with (
                routed.a.call(raw_socket) as raw,
                Stream(routed, lambda: raw.sendto(paid_packet, there), B_PORT) as payments,
            ):
                earlier: dict[str, int] = {}
                for root in (later, ROOT, later):
                    await some_more(view)
                    await supervisor.replace(readers[root], between=lambda: None)
                    now = view.snapshot()
                    assert all(now[name] >= value for name, value in earlier.items() if "generation" not in name)
                    earlier = now
                await some_more(view)
            counted = view.snapshot()
            view.close()
        fold_pinned(path)
    assert payments.received == payments.sent, "no packet is lost by it"
    paid = counted["link/a/received_packets"]
    assert 1200 <= paid <= payments.sent
    assert counted["link/a/received_nanodollars"] == counted[f"grant/{grant.grant}/spent_nanodollars"] == AMOUNT * paid
    assert counted["link/b/sent_nanodollars"] == (AMOUNT - 1) * paid
