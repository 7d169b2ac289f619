"""The engine of payments changes while payments go on: nothing is counted twice, and what is missing has its line."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from real_gateway import children_of, wait_until
from small_lab import PAID_PORT, SmallLab, small_lab

from gateway.admin import reload
from hostagent.client import LocalClient
from lab.audit import ask_agent, ask_gateway
from lab.books import NodeBooks
from lab.configurations import AGENT, GATEWAY
from lab.measures import named_losses, unexplained
from lab.namespaces import end_process
from lab.report import LinkResult
from lab.traffic import Counted

pytestmark = pytest.mark.netns

EXCHANGE_S = 60  # it is ended before
PACKETS_PER_S = 200
IN_FLIGHT = 5  # replies that the asker did not wait for any more
HOPS = [*pairwise("AXB"), *pairwise("BXA")]


def admin(lab: SmallLab) -> Path:
    return lab.directory / "X" / GATEWAY / "admin.sock"


def change_engine(lab: SmallLab, node: str, engine: str) -> None:
    """As an operator does: in the file, and then by a reload."""
    role = GATEWAY if node == "X" else AGENT
    path = lab.config(node, role)
    text, count = re.subn(r'^engine = "\w+"$', f'engine = "{engine}"', path.read_text(), flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)
    if node == "X":
        assert asyncio.run(reload(admin(lab))).changed == ("gateway.engine",)
        assert ask_gateway(admin(lab)).engine == engine
    else:
        asyncio.run(_reload_agent(lab.socket(node)))
        wait_until(lambda: ask_agent(lab.socket(node)).status.payments_engine == engine)


async def _reload_agent(socket: Path) -> None:
    async with LocalClient(socket) as client:
        await client.reload()


def errors_in(books: Mapping[str, NodeBooks]) -> dict[str, int]:
    """By the books alone: what no named loss explains."""
    counts = {(link.node, link.peer): link for node in books.values() for link in node.links}
    links = [
        LinkResult(
            sender=one,
            receiver=other,
            sent_nanodollars=counts[one, other].sent_nanodollars,
            received_nanodollars=counts[other, one].received_nanodollars,
            counted_by_from=counts[one, other].sent_nanodollars,
            counted_by_to=counts[other, one].received_nanodollars,
            packets=0,
            passed_packets=0,
            queue_drops=0,
        )
        for one, other in HOPS
    ]
    return unexplained(links, named_losses(books), books)


def settled_books(lab: SmallLab) -> Mapping[str, NodeBooks]:
    """When the neighbours' statements agree, and nothing moves any more."""

    def is_quiet() -> bool:
        before, books = lab.daemons.books(), lab.daemons.books()
        return before == books and all(node.statements_agree for node in books.values())

    time.sleep(1)
    wait_until(is_quiet, patience_s=20)
    return lab.daemons.books()


@pytest.mark.parametrize("node", ["X", "A", "B"])
def test_the_engine_changes_both_ways_under_traffic_and_every_nanodollar_is_explained(
    node: str, tmp_path: Path
) -> None:
    with small_lab(tmp_path) as lab:
        answering = lab.answer(PAID_PORT)
        asking = lab.exchange(PAID_PORT, seconds=EXCHANGE_S, packets_per_s=PACKETS_PER_S)
        for engine in ("nfqueue", "ebpf", "nfqueue", "ebpf"):
            await_payments(lab)
            change_engine(lab, node, engine)
        await_payments(lab)
        exchange = end_exchange(asking, answering)
        books = settled_books(lab)
    assert exchange.sent - exchange.received < IN_FLIGHT, "no packet is lost by it"
    assert errors_in(books) == {}
    lost = books["A"].links[0].sent_nanodollars - next(
        link.received_nanodollars for link in books["X"].links if link.peer == "A"
    )
    assert lost == 0 or node == "X", "only a gateway that is changed lets paid packets pass uncounted"


@pytest.mark.parametrize("node", ["X", "A", "B"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_reader_of_programs_that_dies_or_hangs_is_succeeded_with_all_its_counts(
    node: str, number: signal.Signals, tmp_path: Path
) -> None:
    with small_lab(tmp_path) as lab:
        answering = lab.answer(PAID_PORT)
        asking = lab.exchange(PAID_PORT, seconds=EXCHANGE_S, packets_per_s=PACKETS_PER_S)
        for _ in range(2):
            await_payments(lab)
            assert "ebpf" in lab.daemons.books()[node].engine
            before = reader_of(lab, node)
            os.kill(before, number)
            wait_until(lambda before=before: reader_of(lab, node) not in (0, before))
        await_payments(lab)
        exchange = end_exchange(asking, answering)
        books = settled_books(lab)
    assert exchange.sent - exchange.received < IN_FLIGHT, "no packet is lost by it"
    assert errors_in(books) == {}


def await_payments(lab: SmallLab, packets: int = 50) -> None:
    """Until so many more have gone all the way, to B and back."""

    def received(node: str) -> int:
        return ask_agent(lab.socket(node)).accounts.links[0].received_packets

    before = {node: received(node) for node in ("A", "B")}
    wait_until(lambda: all(received(node) >= count + packets for node, count in before.items()), patience_s=20)


def end_exchange(asking: subprocess.Popen[bytes], answering: subprocess.Popen[bytes]) -> Counted:
    asking.terminate()
    output, _ = asking.communicate()
    end_process(answering)
    return msgspec.json.decode(output, type=Counted)


def reader_of(lab: SmallLab, node: str) -> int:
    """0: there is none just now."""
    name = "gateway.reader" if node == "X" else "hostagent.payments.reader"
    return children_of(lab.daemons.main_pid(node)).get(name, 0)
