"""The engine of payments changes while payments go on: nothing is counted twice, and what is missing has its line."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest
from paid_books import await_payments, errors_in, reader_of, settled_books
from real_gateway import wait_until
from small_lab import PAID_PORT, SmallLab, small_lab

from gateway.admin import reload
from hostagent.client import LocalClient
from lab.audit import ask_agent, ask_gateway
from lab.configurations import AGENT, GATEWAY
from lab.namespaces import end_process
from lab.traffic import Counted

pytestmark = pytest.mark.netns

EXCHANGE_S = 60  # it is ended before
PACKETS_PER_S = 200
IN_FLIGHT = 5  # replies that the asker did not wait for any more


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


def end_exchange(asking: subprocess.Popen[bytes], answering: subprocess.Popen[bytes]) -> Counted:
    asking.terminate()
    output, _ = asking.communicate()
    end_process(answering)
    return msgspec.json.decode(output, type=Counted)
