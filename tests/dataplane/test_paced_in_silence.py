"""An agent that is stopped (SIGSTOP, a debugger, a hung loop) cannot go on pacing: the kernel lets its flows go."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from netns import Routed

from dataplane import ebpf_engine
from dataplane.engines import makers
from dataplane.host_engine import EngineName, HostEngine, PacedFlow
from dataplane.metering import FlowKey
from dataplane.shaping.plan import NO_SHAPING, ShapedLink, ShapingPlan

Result = TypeVar("Result")
HERE, THERE, PORT = "10.9.1.1", "10.9.2.1", 7300
ECT0 = 2
SILENCE_NS = 300_000_000


def ecn_of(receiving: socket.socket) -> int:
    _, ancillary, _, _ = receiving.recvmsg(100, 100)
    return next(data[0] for level, kind, data in ancillary if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)) & 3


@pytest.mark.netns
def test_what_a_silent_agent_paced_is_its_transports_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ebpf_engine, "PACED_WITHOUT_US_NS", SILENCE_NS)
    with Routed() as world:
        loop = asyncio.new_event_loop()
        thread = world.a.thread(loop.run_forever)

        def wait(call: Awaitable[Result]) -> Result:
            async def answer() -> Result:
                return await call

            return asyncio.run_coroutine_threadsafe(answer(), loop).result(20)

        async def start() -> HostEngine:
            engine = makers(EngineName.EBPF.value, state_directory=tmp_path)[EngineName.EBPF]()
            await engine.start(ShapingPlan(classes=NO_SHAPING.classes, links=(ShapedLink(interface="a0"),)))
            return engine

        receiving = world.b.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiving.bind((THERE, PORT))
        receiving.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        receiving.settimeout(5)
        sending = world.a.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sending.bind((HERE, PORT))
        sending.connect((THERE, PORT))

        def seen() -> int:
            sending.send(b"x")
            return ecn_of(receiving)

        def until(ecn: int) -> None:
            """Each flow is looked at once a second."""
            until_s = time.monotonic() + 5
            while seen() != ecn:
                assert time.monotonic() < until_s
                time.sleep(0.02)

        engine = wait(start())
        try:
            addresses = [socket.inet_aton(each) for each in (HERE, THERE)]
            key = FlowKey(0, socket.IPPROTO_UDP, addresses[0], PORT, addresses[1], PORT)
            paced = PacedFlow(key=key, pace_bit_s=1_000_000, answers_marks=True)
            wait(engine.pace([paced]))
            assert seen() == ECT0
            until(0)  # nobody says anything to the engine
            wait(engine.on_second())
            assert seen() == ECT0, "it is there again"
        finally:
            wait(engine.close())
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            sending.close()
            receiving.close()
