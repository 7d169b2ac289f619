"""The agent as its user meets it: real processes in namespaces, real payments, faults, and bad input."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from real_gateway import children_of, kernel_state, wait_until
from small_lab import COMMAND, PAID_PORT, UNPAID_PORT, SmallLab, small_lab

from billpay.messages import Echo, FlowSelector
from billpay.signing import sign
from hostagent import api
from lab.namespaces import end_process
from lab.traffic import Counted
from neighbour.identity import NodeIdentity

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLab]:
    """For tests that leave it as it was."""
    with small_lab(tmp_path_factory.mktemp("small")) as lab:
        yield lab


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[SmallLab]:
    """For tests that break it."""
    with small_lab(tmp_path) as lab:
        yield lab


def counted(process: subprocess.Popen[bytes]) -> Counted:
    output, _ = process.communicate()
    return msgspec.json.decode(output, type=Counted)


def paying_flow(snapshot: api.Snapshot) -> api.Flow:
    return next(flow for flow in snapshot.flows if flow.rule == "exchange")


@pytest.mark.row("BP-01", "BP-24")
def test_a_flow_is_judged_paid_for_returned_and_told_about(running: SmallLab) -> None:
    answering = running.answer(PAID_PORT)
    exchange = counted(running.exchange(PAID_PORT, seconds=3))
    end_process(answering)
    assert exchange.received == exchange.sent
    flow = paying_flow(running.snapshot("A"))
    assert (flow.strategy, flow.amount_nanodollars, flow.toll_nanodollars) == ("fixed", 20, 1)
    assert flow.goodput_bit_s is not None
    assert flow.path == "AS64512:1"
    assert flow.spent_nanodollars % 20 == 0
    paid = flow.spent_nanodollars // 20
    assert paid > 200
    # A pays 20, X keeps 1, B keeps 1 and returns 18, X keeps 1: 17 come back. The first replies carry several
    # requests' payments at once, of which X keeps 1 only once.
    wait_until(lambda: running.snapshot("B").accounts.in_hand_nanodollars == 0)
    back = paying_flow(running.snapshot("A")).returned_nanodollars
    assert paid * 17 <= back <= paid * 17 + 60
    accounts = running.snapshot("B").accounts
    assert accounts.share_nanodollars == accounts.links[0].received_packets


def test_a_flow_without_a_rule_goes_unpaid_and_says_why(running: SmallLab) -> None:
    answering = running.answer(UNPAID_PORT)
    exchange = counted(running.exchange(UNPAID_PORT, seconds=1))
    end_process(answering)
    assert exchange.received == exchange.sent
    flow = next(flow for flow in running.snapshot("A").flows if str(UNPAID_PORT) in flow.flow)
    assert (flow.rule, flow.amount_nanodollars, flow.spent_nanodollars) == ("", 0, 0)
    assert "no rule" in flow.reason


@pytest.mark.row("BP-44")
def test_forged_altered_and_replayed_echoes_change_nothing(running: SmallLab, tmp_path: Path) -> None:
    answering = running.answer(PAID_PORT)
    traffic = running.exchange(PAID_PORT, seconds=4)
    wait_until(lambda: any(flow.active and flow.toll_nanodollars == 1 for flow in running.snapshot("A").flows))
    stranger = NodeIdentity.load_or_create(tmp_path / "stranger", name="B")
    name = next(flow for flow in running.snapshot("A").flows if flow.rule == "exchange" and flow.active).flow
    port = int(name.split(" → ")[0].rpartition(":")[2])
    lie = Echo(
        session="0" * 32,
        sequence=time.time_ns() // 1_000_000 + 50,
        flow=FlowSelector(
            source=running.address("A"),
            destination=running.address("B"),
            protocol=17,
            source_port=port,
            destination_port=PAID_PORT,
        ),
        packets=10**9,
        bytes=10**12,
        paid_packets=10**9,
        ce_packets=0,
        received_nanodollars=0,
        returned_nanodollars=0,
    )
    datagrams = [msgspec.json.encode(sign(stranger.key, lie)), b"", b"{}", os.urandom(500), b"[" * 3000]

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for datagram in datagrams * 3:
                sender.sendto(datagram, (running.address("A"), 7416))

    running.network["B"].inside(send)
    counted(traffic)
    end_process(answering)
    flow = paying_flow(running.snapshot("A"))
    assert flow.toll_nanodollars == 1
    assert flow.amount_nanodollars in (0, 20)
    assert (flow.goodput_bit_s or 0) < 10**7


@pytest.mark.parametrize("verb", ["status", "flows", "accounts"])
def test_the_command_line_shows_tables_and_json(running: SmallLab, verb: str) -> None:
    arguments = [*COMMAND, verb, "--socket", str(running.socket("A"))]
    table = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert table.stdout.strip()
    document = subprocess.run([*arguments, "--json"], capture_output=True, text=True, check=True)
    assert msgspec.json.decode(document.stdout)


def test_an_agent_that_does_not_run_is_one_line_and_code_6(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "status", "--socket", str(tmp_path / "none.sock")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 6
    assert len(done.stderr.strip().splitlines()) == 1
    assert "none.sock" in done.stderr


@pytest.mark.parametrize("victim", ["main", "hostagent.payments.reader", "dataplane.watchdog"])
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_traffic_goes_on_within_a_second_whatever_dies_or_hangs(
    fresh: SmallLab, victim: str, signal_number: signal.Signals
) -> None:
    answering = fresh.answer(PAID_PORT)
    traffic = fresh.exchange(PAID_PORT, seconds=3.5)
    time.sleep(1.2)
    main = fresh.daemons.main_pid("A")
    os.kill(main if victim == "main" else children_of(main)[victim], signal_number)
    result = counted(traffic)
    end_process(answering)
    assert result.received > 150, result
    assert result.sent - result.received < 100, result


@pytest.mark.parametrize("engine", ["ebpf", "nfqueue"])
def test_a_stop_and_a_restore_after_a_kill_leave_the_kernel_as_it_was(tmp_path: Path, engine: str) -> None:
    """Programs in the kernel are held by the reader: there is nothing else to see of them."""
    with small_lab(tmp_path, start=False, more={("A", "agent"): {"payments": {"engine": engine}}}) as lab:
        before = kernel_state_of(lab)
        lab.daemons.start(lambda: None)
        assert (kernel_state_of(lab) != before) is (engine == "nfqueue")
        lab.daemons.kill("A", "KILL")
        lab.network["A"].run([*COMMAND, "restore", "--state-directory", str(lab.config("A").parent)])
        assert kernel_state_of(lab) == before
        lab.daemons.restart("A")
        lab.daemons.close()
        assert kernel_state_of(lab) == before


def kernel_state_of(lab: SmallLab) -> dict[str, str]:
    class Adapter:
        def run(self, *arguments: str, check: bool = True) -> str:
            return lab.network["A"].run(list(arguments))

    return kernel_state(Adapter())  # type: ignore[arg-type]


def test_without_its_secretary_the_agent_goes_on_and_says_so(fresh: SmallLab) -> None:
    secretary = fresh.daemons.process_of("A", "secretary")
    secretary.kill()
    secretary.wait()
    answering = fresh.answer(PAID_PORT)
    result = counted(fresh.exchange(PAID_PORT, seconds=2))
    end_process(answering)
    assert result.received == result.sent
    snapshot = fresh.snapshot("A")
    assert "secretary" in {warning.code for warning in snapshot.status.warnings}
    assert snapshot.status.health is api.Health.DEGRADED
    assert snapshot.accounts.links[0].sent_nanodollars == 0


BAD = {
    "unknown key": ("[agent]", "[agent]\ncolour = 1", 3, "colour"),
    "unknown interface": ('interface = "to-X"', 'interface = "eth77"', 4, "eth77"),
    "no certificate": ("node.pem", "missing.pem", 3, "missing.pem"),
    "wrong type": ("gateway_as = 64512", 'gateway_as = "X"', 3, "gateway_as"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_one_line_with_a_code(running: SmallLab, tmp_path: Path, case: str) -> None:
    old, new, code, named = BAD[case]
    text = running.config("A").read_text().replace(str(running.config("A").parent), str(tmp_path / "state"))
    assert old in text
    bad = tmp_path / "bad.toml"
    bad.write_text(text.replace(old, new))
    before = kernel_state_of(running)
    done = running.run_up(bad)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("hostagent: ")]
    assert len(lines) == 1
    assert named in lines[0]
    assert kernel_state_of(running) == before


def test_a_second_agent_and_a_busy_echo_port_are_one_line_each(running: SmallLab, tmp_path: Path) -> None:
    done = running.run_up(running.config("A"))
    assert done.returncode == 4
    assert "another daemon works there" in done.stderr
    other = tmp_path / "other.toml"
    text = running.config("A").read_text().replace(str(running.config("A").parent), str(tmp_path / "state"))
    other.write_text(text)
    done = running.run_up(other)
    assert done.returncode == 4
    assert "7416" in done.stderr
    assert sys.executable
