"""What an agent's engine of payments means for the kernel, and where people see it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli.show.state import show_status
from dataplane.payment_engines import PaymentEngine
from hostagent import api
from hostagent.configuration import default_configuration, desired_state, load
from hostagent.views import PaidView, snapshot_of
from tui.model import health

SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "hostagent.toml"
PAID = PaidView(
    flows=(),
    accounts=api.Accounts(links=()),
    warnings=(),
    can_pay=True,
    secretary="connected",
    spent_today_nanodollars=0,
    budget_today_nanodollars=0,
    engine="nfqueue",
    engine_reason="nfqueue; not ebpf: no libbpf",
)


def status_of(paid: PaidView | None) -> api.Snapshot:
    configuration = default_configuration(Path("/var/lib/hostagent"), Path("/run/hostagent.sock"))
    return snapshot_of(configuration, sequence=1, started_unix_s=0, now_ns=0, unix_s=60, paid=paid, traffic=None)


def test_programs_in_the_kernel_need_no_queues() -> None:
    configuration = load(SAMPLE)
    assert configuration.payments.engine == "auto"
    assert len(desired_state(configuration, PaymentEngine.NFQUEUE).queues) == 4 * len(configuration.uplinks)
    assert desired_state(configuration, PaymentEngine.EBPF).queues == ()


def test_people_see_the_engine_and_why_it_is_not_the_better_one(capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = status_of(PAID)
    assert snapshot.status.payments_engine == "nfqueue"
    assert "nfqueue; not ebpf: no libbpf" in "\n".join(line.plain for line in health.lines(snapshot))
    show_status(snapshot.status)
    assert "payments" in (shown := capsys.readouterr().out)
    assert "nfqueue; not ebpf: no libbpf" in shown
    assert msgspec.json.decode(msgspec.json.encode(snapshot.status))["payments_engine_reason"] == PAID.engine_reason


def test_who_pays_nothing_has_no_such_line(capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = status_of(None)
    assert snapshot.status.payments_engine == ""
    show_status(snapshot.status)
    assert "payments" not in capsys.readouterr().out
