"""Probes that people ask for: reports as they come, bounds, and what a prober that fails says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from billpay.errors import EnvironmentFault
from cartographer.measuring.packets import Transport
from cartographer.measuring.report import ProbeReport, ProbeRequest
from hostagent.desk import Refused
from hostagent.paths.prober import AT_ONCE_MAX, Probers, reports

REQUEST = ProbeRequest(destination="203.0.113.1")


def report(rounds: int, *, final: bool = False) -> ProbeReport:
    return ProbeReport(
        destination="203.0.113.1",
        address="203.0.113.1",
        transport=Transport.ICMP,
        port=0,
        rounds_done=rounds,
        final=final,
    )


class Scripted:
    """A prober that goes on when it is told to."""

    def __init__(self, *, fault: EnvironmentFault | None = None) -> None:
        self.go = asyncio.Semaphore(0)
        self.heard: list[int] = []
        self._fault = fault

    async def run(self, _request: ProbeRequest) -> AsyncIterator[ProbeReport]:
        for rounds in range(1, 4):
            await self.go.acquire()
            if self._fault is not None and rounds == 2:
                raise self._fault
            yield report(rounds, final=rounds == 3)

    def probers(self) -> Probers:
        return Probers(on_report=lambda _request, found: self.heard.append(found.rounds_done), run=self.run)


async def test_each_report_is_seen_by_who_waits_for_it() -> None:
    scripted = Scripted()
    probers = scripted.probers()
    begun = probers.start(REQUEST)
    assert (begun.number, begun.done, begun.report) == (1, False, None)
    assert await probers.wait(1, begun.sequence, 0) == begun
    shown = begun
    for rounds in (1, 2, 3):
        scripted.go.release()
        shown = await probers.wait(1, shown.sequence, 5)
        assert shown.report is not None
        assert shown.report.rounds_done == rounds
    while not shown.done:
        shown = await probers.wait(1, shown.sequence, 5)
    assert shown.problem == ""
    assert scripted.heard == [1, 2, 3]


async def test_a_prober_that_fails_says_why_and_what_was_found_stays() -> None:
    scripted = Scripted(fault=EnvironmentFault("send", "203.0.113.1", "no route to host", "look at ip route"))
    probers = scripted.probers()
    shown = probers.start(REQUEST)
    scripted.go.release()
    scripted.go.release()
    while not shown.done:
        shown = await probers.wait(1, shown.sequence, 5)
    assert shown.report is not None
    assert "no route to host" in shown.problem


async def test_few_run_at_once_and_all_end_with_the_agent() -> None:
    scripted = Scripted()
    probers = scripted.probers()
    for _ in range(AT_ONCE_MAX):
        probers.start(REQUEST)
    with pytest.raises(Refused) as refused:
        probers.start(REQUEST)
    assert refused.value.code == "too-many-probes"
    await asyncio.sleep(0)
    await probers.stop()
    assert (await probers.wait(1, 0, 0)).problem == "the agent ends"
    with pytest.raises(Refused) as unknown:
        await probers.wait(99, 0, 0)
    assert unknown.value.code == "no-such-probe"


async def test_the_real_prober_says_what_it_cannot_do_in_one_line() -> None:
    with pytest.raises(EnvironmentFault) as fault:
        async for _ in reports(ProbeRequest(destination="nosuch.invalid", rounds=1, names=False)):
            pass
    assert "nosuch.invalid" in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "program",
    [
        ("/nonexistent/python",),
        ("/bin/sh", "-c", 'printf \'{"destination": "half\''),
        ("/bin/sh", "-c", "echo nonsense"),
        ("/bin/sh", "-c", "head -c 200000 /dev/zero; echo"),
        ("/bin/sh", "-c", "exit 3"),
    ],
)
async def test_a_prober_that_is_missing_or_talks_nonsense_is_trouble_and_no_crash(
    program: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostagent.paths.prober.WORKER", program)
    monkeypatch.setattr("hostagent.paths.prober.LINE_BYTES_MAX", 65_536)
    with pytest.raises(EnvironmentFault):
        async for _ in reports(REQUEST):
            pass
