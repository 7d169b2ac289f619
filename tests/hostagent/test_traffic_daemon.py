"""`hostagent up` on a host without any ISP, as its user meets it: names, caps, kills, and everything put back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_gateway import wait_until
from small_lab import COMMAND
from two_hosts import HOSTS, TwoHosts, stop
from unprivileged import NOBODY, as_nobody

pytestmark = pytest.mark.netns

CONFIGURATION = """
[agent]
name = "laptop"
state_directory = "{state}"
engine = "{engine}"

[[links]]
interface = "left"
egress_bit_s = 100_000_000

[[classes]]
name = "slow"
cap_bit_s = 8_000_000

[[rules]]
class = "slow"
program = "iperf3"
"""


class Agent:
    """`hostagent up` in the left host."""

    def __init__(
        self,
        hosts: TwoHosts,
        directory: Path,
        *,
        engine: str = "auto",
        text: str = CONFIGURATION,
        state: Path | None = None,
        as_user: Callable[..., list[str]] = lambda *words: [*words],
    ) -> None:
        self.hosts, self.state = hosts, state or directory / "state"
        self.config = directory / "hostagent.toml"
        self.config.write_text(text.format(state=self.state, engine=engine))
        self.log = directory / "log"
        with self.log.open("wb") as log:
            words = as_user(*COMMAND, "up", "--config", str(self.config))
            self.process = hosts.left.popen(*words, stdout=log, stderr=log)

    def wait(self) -> Agent:
        wait_until(lambda: (self.state / "hostagent.sock").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def ask(self, verb: str) -> list[dict[str, object]]:
        text = self.hosts.left.run(*COMMAND, verb, "--socket", str(self.state / "hostagent.sock"), "--json")
        found = json.loads(text)
        return found if isinstance(found, list) else [found]

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        self.process.wait(timeout=20)

    def restore(self) -> str:
        return self.hosts.left.run(*COMMAND, "restore", "--state-directory", str(self.state))


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with TwoHosts() as two:
        two.left.run(
            "tc", "qdisc", "add", "dev", "left", "root", "tbf", "rate", "900mbit", "burst", "1m", "limit", "4m"
        )
        yield two


def kernel_state(hosts: TwoHosts) -> str:
    """Everything that an agent may touch, as the usual tools print it."""
    commands = (
        ("tc", "qdisc", "show"),
        ("tc", "class", "show", "dev", "left"),
        ("tc", "filter", "show", "dev", "left"),
        ("nft", "list", "ruleset"),
        ("ip", "rule"),
        ("ip", "-6", "rule"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "-6", "route", "show", "table", "all"),
        ("ip", "-br", "link"),
        ("sysctl", "net.ipv4.tcp_ecn", "net.ipv4.tcp_congestion_control", "net.ipv4.ip_forward"),
    )
    return "\n".join(hosts.left.run(*words, check=False) for words in commands)


def upload_bit_s(hosts: TwoHosts, *options: str, seconds: float = 1.5, family: int = 4) -> float:
    text = hosts.left.run(
        "iperf3", "-J", "-c", HOSTS[family].right, "-p", "5201", "-t", str(seconds), *options, check=False
    )
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"])


@pytest.fixture
def server(hosts: TwoHosts) -> Iterator[None]:
    process = hosts.right.popen("iperf3", "-s", "-p", "5201", stdout=subprocess.DEVNULL)
    hosts.wait_for_listener(hosts.right, 5201)
    yield
    stop(process)


@pytest.mark.row("DPH-33")
@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("engine", ["ebpf", "nfqueue"])
@pytest.mark.expectation(2, 6)
def test_programs_are_named_and_capped_and_everything_is_put_back(hosts: TwoHosts, tmp_path: Path, engine: str) -> None:
    before = kernel_state(hosts)
    agent = Agent(hosts, tmp_path, engine=engine).wait()
    try:
        assert upload_bit_s(hosts) < 1.05 * 8e6
        assert upload_bit_s(hosts, family=6) < 1.05 * 8e6
        time.sleep(1.2)
        programs = {line["name"]: line for line in agent.ask("programs")}
        assert int(str(programs["iperf3"]["sent_bytes"])) > 1_500_000
        assert str(programs["iperf3"]["executable"]).endswith("/iperf3")
        flows = [flow for flow in agent.ask("flows") if flow["program"] == "iperf3"]
        assert {flow["traffic_class"] for flow in flows} == {"slow"}
        assert agent.ask("status")[0]["engine"] == engine
    finally:
        agent.end()
    assert agent.process.returncode == 0
    assert kernel_state(hosts) == before


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("engine", ["ebpf", "nfqueue"])
@pytest.mark.expectation(1, 2)
def test_after_a_kill_traffic_goes_on_and_restore_puts_everything_back(
    hosts: TwoHosts, tmp_path: Path, engine: str
) -> None:
    before = kernel_state(hosts)
    agent = Agent(hosts, tmp_path, engine=engine).wait()
    upload = hosts.left.popen(
        "iperf3",
        "-c",
        HOSTS[4].right,
        "-p",
        "5201",
        "-t",
        "30",
        "-C",
        "cubic",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1.5)
        received = hosts.interface_counts()[1]
        assert agent.process.poll() is None, agent.log.read_text()
        agent.end(signal.SIGKILL)
        time.sleep(1)
        assert hosts.interface_counts()[1] - received > 500_000
        assert "restored" in agent.restore()
        assert kernel_state(hosts) == before
        received = hosts.interface_counts()[1]
        time.sleep(1)
        assert hosts.interface_counts()[1] - received > 5_000_000  # the socket that was paced is free again, too
    finally:
        stop(upload)
    assert "nothing to restore" in agent.restore()


@pytest.mark.usefixtures("server")
@pytest.mark.expectation(1)
def test_a_stopped_agent_stops_no_traffic(hosts: TwoHosts, tmp_path: Path) -> None:
    agent = Agent(hosts, tmp_path, engine="ebpf").wait()
    try:
        os.kill(agent.process.pid, signal.SIGSTOP)
        assert 0.9 * 8e6 < upload_bit_s(hosts, seconds=2) < 1.05 * 8e6
        os.kill(agent.process.pid, signal.SIGCONT)
        time.sleep(2.5)
        programs = {line["name"]: line for line in agent.ask("programs")}
        assert int(str(programs["iperf3"]["sent_bytes"])) > 1_500_000
    finally:
        os.kill(agent.process.pid, signal.SIGCONT)
        agent.end()


@pytest.mark.usefixtures("server")
def test_an_interface_that_goes_and_comes_back_is_shaped_again(hosts: TwoHosts, tmp_path: Path) -> None:
    hosts.left.run("tc", "qdisc", "del", "dev", "left", "root")
    agent = Agent(hosts, tmp_path, engine="ebpf").wait()
    try:
        upload_bit_s(hosts, seconds=1)
        hosts.replace_link()
        time.sleep(2.5)
        assert 0.9 * 8e6 < upload_bit_s(hosts, seconds=2) < 1.05 * 8e6
        time.sleep(1.2)
        programs = {line["name"]: line for line in agent.ask("programs")}
        assert int(str(programs["iperf3"]["sent_bytes"])) > 2_500_000
    finally:
        agent.end()
    assert "7414:" not in hosts.left.run("tc", "qdisc", "show")


@pytest.mark.expectation(1)
def test_a_full_disk_changes_nothing_in_the_kernel(hosts: TwoHosts, tmp_path: Path) -> None:
    """It counts all the same, and says why it does not shape."""
    before = kernel_state(hosts)
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], check=True)
    try:
        (full / "lock").touch()
        with contextlib.suppress(OSError):
            (full / "filler").write_bytes(bytes(1 << 20))
        agent = Agent(hosts, tmp_path, state=full)
        try:
            agent.wait()
            assert "No space left" in str(agent.ask("status"))
            assert kernel_state(hosts) == before
        finally:
            agent.end()
    finally:
        subprocess.run(["umount", "-l", str(full)], check=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ('[[links]]\ninterface = "left"\negress_bit_s = 5\n', "egress_bit_s"),
        ('[[links]]\ninterface = "nosuch0"\n', "nosuch0"),
        ('[[links]]\ninterface = "left"\n[[rules]]\nclass = "gone"\n', "there are: control, default"),
        ('[[links]]\ninterface = "left"\n[[rules]]\nclass = "default"\nuser = "nobody-here"\n', "no user"),
        ('[[links]]\ninterface = "left"\n[[rules]]\nclass = "default"\nremote = "10.0.0.0/99"\n', "rules[0].remote"),
        ('[[networks]]\nmatch = "left"\n[networks.tariff]\nreset_day = 31\n', "networks[0].tariff.reset_day"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(hosts: TwoHosts, tmp_path: Path, wrong: str, says: str) -> None:
    before = kernel_state(hosts)
    head = CONFIGURATION.partition("[[links]]")[0]
    agent = Agent(hosts, tmp_path, text=head + wrong)
    try:
        agent.process.wait(timeout=20)
    finally:
        agent.end(signal.SIGKILL)
    said = [line for line in agent.log.read_text().splitlines() if line.startswith("hostagent: ")]
    assert len(said) == 1
    assert says in said[0]
    assert agent.process.returncode in (3, 4)
    assert kernel_state(hosts) == before


ASKING = """
[agent]
name = "laptop"
state_directory = "{state}"
engine = "{engine}"

[[links]]
interface = "left"

[[classes]]
name = "ask"
ask_first = true

[[classes]]
name = "nightly"

[[rules]]
class = "ask"
program = "curl"

[[rules]]
class = "nightly"
task = "nightly"
"""


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_flow_waits_for_the_answer(hosts: TwoHosts, tmp_path: Path, answer: str) -> None:
    served = hosts.serve_files({"short": 1000}, tmp_path)
    agent = Agent(hosts, tmp_path, engine="nfqueue", text=ASKING).wait()
    url = f"http://{HOSTS[4].right}:8000/short"
    download = hosts.left.popen("curl", "-sfo", str(tmp_path / "got"), "--max-time", "3", url)
    try:
        wait_until(lambda: bool(agent.ask("inbox")))
        (question,) = agent.ask("inbox")
        assert question["program"] == "curl"
        assert download.poll() is None
        socket = str(agent.state / "hostagent.sock")
        hosts.left.run(*COMMAND, "answer", str(question["number"]), answer, "--socket", socket)
        download.wait(timeout=20)
        assert (download.returncode == 0) == (answer == "yes")
        wait_until(lambda: not agent.ask("inbox"))
    finally:
        agent.end()
        stop(download)
        stop(served)


def test_a_task_has_a_class_of_its_own(hosts: TwoHosts, tmp_path: Path) -> None:
    served = hosts.serve_files({"short": 1000}, tmp_path)
    agent = Agent(hosts, tmp_path, engine="ebpf", text=ASKING.replace('program = "curl"', 'program = "wget"')).wait()
    url = f"http://{HOSTS[6].url_right}:8000/short"
    try:
        hosts.left.run(*COMMAND, "run", "--task", "nightly", "--", "curl", "-sfgo", "/dev/null", url)
        hosts.left.run("curl", "-sfgo", "/dev/null", url)
        wait_until(lambda: len([flow for flow in agent.ask("flows") if flow["program"] == "curl"]) == 2)
        classes = {flow["traffic_class"] for flow in agent.ask("flows") if flow["program"] == "curl"}
        assert classes == {"nightly", "default"}
        assert {line["task"] for line in agent.ask("programs") if line["name"] == "curl"} == {"nightly", ""}
    finally:
        agent.end()
        stop(served)


@pytest.mark.parametrize(
    ("capabilities", "engine", "rejected"),
    [((), "sockets", ["not ebpf", "not nfqueue"]), (("net_admin", "net_raw"), "nfqueue", ["not ebpf"])],
)
def test_with_less_privilege_it_does_what_it_can_and_says_why(
    hosts: TwoHosts, tmp_path: Path, capabilities: tuple[str, ...], engine: str, rejected: list[str]
) -> None:
    before = kernel_state(hosts)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        os.chown(directory, int(NOBODY), int(NOBODY))
        agent = Agent(
            hosts, directory, text=ASKING, as_user=lambda *words: as_nobody(*words, capabilities=capabilities)
        )
        try:
            agent.wait()
            (status,) = agent.ask("status")
            assert status["engine"] == engine
            for words in rejected:
                assert words in str(status["engine_reason"])
            assert "pace TCP" in str(status["limits"])
        finally:
            agent.end()
        assert agent.process.returncode == 0
    assert kernel_state(hosts) == before
