"""The payment plane: an engine that starts, is changed for the other, and cannot go on. Readers are real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from billpay.errors import EnvironmentFault
from dataplane.desired import DesiredState
from dataplane.payment_engines import PaymentEngine, WantedPaymentEngine
from dataplane.payment_plane import Means, PaymentPlane
from dataplane.supervisor import Health

pytestmark = pytest.mark.netns

READER = str(Path(__file__).parent.parent / "plane_reader.py")


@dataclass(slots=True)
class Machine:
    directory: Path
    faults: list[str] = field(default_factory=list)
    prepared: list[PaymentEngine] = field(default_factory=list)
    started: int = 0

    @asynccontextmanager
    async def plane(self, wanted: WantedPaymentEngine = "auto") -> AsyncIterator[PaymentPlane]:
        made = PaymentPlane(
            Means(
                faults=lambda: self.faults,
                command=lambda engine: [sys.executable, READER, engine.value, str(self.directory)],
                desired=self._desired,
            ),
            wanted=wanted,
            state_directory=self.directory,
            owner="plane",
            on_event=lambda _event: None,
            snapshot=lambda: [b"snapshot"],
            on_started=self._count,
        )
        async with made.running():
            yield made
        made.close()

    def _desired(self, engine: PaymentEngine) -> DesiredState:
        self.prepared.append(engine)
        return DesiredState(owner="plane")

    def _count(self) -> None:
        self.started += 1

    def break_engine(self, engine: PaymentEngine) -> None:
        (self.directory / f"broken-{engine}").touch()

    def mend_engine(self, engine: PaymentEngine) -> None:
        (self.directory / f"broken-{engine}").unlink()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_engine_changes_both_ways_and_no_count_is_lost(machine: Machine) -> None:
    async with machine.plane() as plane:
        assert await plane.request(b"") == b"ebpf"
        watching = asyncio.get_running_loop().create_task(plane.watch())
        for number, (wanted, engine) in enumerate(
            [("nfqueue", b"nfqueue"), ("ebpf", b"ebpf"), ("nfqueue", b"nfqueue")]
        ):
            await plane.change(wanted)  # type: ignore[arg-type]
            assert plane.health is Health.RUNNING
            assert await plane.request(b"") == engine
            assert machine.started == number + 2
        assert plane.choice is not None
        assert plane.choice.reason == "nfqueue: the configuration names it"
        assert not watching.done()
        watching.cancel()
        await asyncio.wait({watching})
    async with machine.plane("nfqueue") as plane:
        assert plane.counters()["test.asked"] == 4 + 4 + 1  # each reader's snapshot, and what it was asked
    assert machine.prepared == [
        *(PaymentEngine.EBPF, PaymentEngine.NFQUEUE, PaymentEngine.EBPF, PaymentEngine.NFQUEUE, PaymentEngine.NFQUEUE)
    ]


async def test_naming_the_engine_that_runs_changes_nothing_but_the_reason(machine: Machine) -> None:
    machine.faults.append("no libbpf")
    async with machine.plane() as plane:
        assert plane.choice is not None
        assert plane.choice.reason == "nfqueue; not ebpf: no libbpf"
        await plane.change("nfqueue")
        assert plane.choice.reason == "nfqueue: the configuration names it"
        assert machine.started == 1
        with pytest.raises(EnvironmentFault, match="no libbpf"):
            await plane.change("ebpf")
        assert plane.health is Health.RUNNING
        assert machine.started == 1


async def test_one_that_cannot_start_is_followed_by_the_other(machine: Machine) -> None:
    machine.break_engine(PaymentEngine.EBPF)
    async with machine.plane() as plane:
        assert await plane.request(b"") == b"nfqueue"
        assert plane.choice is not None
        assert "the verifier refused them" in plane.choice.reason
        await plane.change("auto")
        assert await plane.request(b"") == b"nfqueue"
    with pytest.raises(EnvironmentFault, match="the verifier refused them"):
        async with machine.plane("ebpf"):
            pass


async def test_a_change_that_fails_leaves_it_as_it_was(machine: Machine) -> None:
    async with machine.plane("nfqueue") as plane:
        machine.break_engine(PaymentEngine.EBPF)
        with pytest.raises(EnvironmentFault, match="the verifier refused them"):
            await plane.change("ebpf")
        assert await plane.request(b"") == b"nfqueue"
        assert plane.choice is not None
        assert plane.choice.reason == "nfqueue: the configuration names it"
        machine.mend_engine(PaymentEngine.EBPF)
        await plane.change("ebpf")
        assert await plane.request(b"") == b"ebpf"


async def test_an_engine_that_stops_to_work_is_changed_for_the_other(machine: Machine) -> None:
    async with machine.plane() as plane:
        watching = asyncio.get_running_loop().create_task(plane.watch())
        machine.break_engine(PaymentEngine.EBPF)
        os.kill(plane.reader_pid or 0, signal.SIGKILL)
        await until(lambda: machine.started == 2)
        assert await plane.request(b"") == b"nfqueue"
        assert plane.choice is not None
        assert "the verifier refused them" in plane.choice.reason
        watching.cancel()
        await asyncio.wait({watching})


async def test_a_reader_that_does_not_end_is_killed_and_replaced(machine: Machine) -> None:
    async with machine.plane() as plane:
        os.kill(plane.reader_pid or 0, signal.SIGSTOP)
        await plane.change("nfqueue")
        assert await plane.request(b"") == b"nfqueue"


async def test_where_neither_works_any_more_one_of_them_is_tried_until_it_does(machine: Machine) -> None:
    async with machine.plane() as plane:
        watching = asyncio.get_running_loop().create_task(plane.watch())
        for engine in PaymentEngine:
            machine.break_engine(engine)
        os.kill(plane.reader_pid or 0, signal.SIGKILL)
        await until(lambda: plane.choice is not None and plane.choice.engine is PaymentEngine.NFQUEUE)
        machine.mend_engine(PaymentEngine.NFQUEUE)
        await until(lambda: plane.health is Health.RUNNING)
        assert not watching.done()
        watching.cancel()
        await asyncio.wait({watching})
