"""How exactly a cap holds: our engines beside trickle and TrafficToll, for TCP and UDP over IPv4 and IPv6.

Decides nothing. Programs send at once over IPv4 and IPv6, each capped at 8 Mbit/s by itself; the other end sees when
each packet arrives (the kernel's time stamps, bytes of the IP layer, no offloads). TCP programs send what they can, UDP
ones 12 Mbit/s. A cap holds when no second is above it and it is reached from the second second on.

Downloads are measured beside it, by what curl itself says of its payload: trickle 1.07 holds no upload here, but does
hold downloads, and is not to be judged by uploads alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.hostplane.hosts import (
    RIGHT,
    Hosts,
    engine_on,
    line_of,
    plan_of,
    progress,
    result_of,
    running,
    spread,
    start,
    stop,
    traffic,
)
from bench.hostplane.rows import Row
from bench.hostplane.traffic import SEND_TCP, SEND_UDP
from bench.nfqueue import inside
from dataplane.host_engine import EngineName
from dataplane.shaping.plan import Match, Rule, TrafficClass

SECTION: Final = "cap of 8 Mbit/s"
CAP: Final = 8_000_000
ROUNDS: Final = 3
SECONDS: Final = 4.0
QUICK_SECONDS: Final = 2.2
QUICK_FETCH_S: Final = 1.5
TRICKLE, TRAFFICTOLL = "trickle", "tt"
OURS: Final = (str(EngineName.EBPF), str(EngineName.NFQUEUE))
HINTS: Final = {TRICKLE: "apt-get install trickle", TRAFFICTOLL: "pip install traffictoll (--tools: its environment)"}
KIB_S: Final = round(CAP / 8 / 1024)
SENDERS: Final = {
    f"send{transport}{family}": (transport, family, 5401 + place)
    for place, (transport, family) in enumerate(
        (transport, family) for transport in ("tcp", "udp") for family in (4, 6)
    )
}
FETCHERS: Final = {"fetch4": 4, "fetch6": 6}
FETCH_PORT: Final = 8000
FETCH_BYTES: Final = 4 << 30
TOGETHER: Final = [[name for name in SENDERS if name.startswith(f"send{transport}")] for transport in ("tcp", "udp")]
"""What no one caps takes the processor from others: TCP and UDP one after the other, but for quickness' sake."""
PROTOCOLS: Final = {"tcp": 6, "udp": 17}
START_S: Final = 10
Sample = dict[str, float]


def measure(hosts: Hosts, *, quick: bool, tools: Path | None) -> list[Row]:
    hosts.set_offloads(False)
    for name in SENDERS:
        shutil.copy("/usr/bin/perl", hosts.directory / name)
    for name in FETCHERS:
        shutil.copy("/usr/bin/curl", hosts.directory / name)
    folder = hosts.directory / "fetched"
    folder.mkdir()
    with (folder / "file").open("wb") as file:
        file.truncate(FETCH_BYTES)  # takes no room
    others = {name: found for name in HINTS if (found := _find(name, tools))}
    shapers = [*OURS, *others]
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    limits: dict[str, list[str]] = {}
    tcp_ports = [port for transport, _, port in SENDERS.values() if transport == "tcp"]
    downloads: dict[tuple[str, int], list[float]] = defaultdict(list)
    with running(hosts.right, "drain", *tcp_ports), running(hosts.right, "serve_files", FETCH_PORT, folder):
        for number in range(1 if quick else ROUNDS):
            for shaper in shapers:
                progress(f"caps: {shaper}, round {number + 1}")
                with _shaping(hosts, shaper, others) as told:
                    limits[shaper] = told
                    for senders in [[*SENDERS]] if quick else TOGETHER:
                        seconds = QUICK_SECONDS if quick else SECONDS
                        for sender, sample in _send(hosts, shaper, senders, seconds, others).items():
                            samples[(shaper, sender)].append(sample)
                    for family, mbit_s in _fetch(hosts, shaper, QUICK_FETCH_S if quick else SECONDS, others).items():
                        downloads[(shaper, family)].append(mbit_s)
    rows = [
        Row(section=SECTION, what=f"{shaper} says that it cannot", unit="", note=text)
        for shaper in shapers
        for text in limits[shaper]
    ]
    rows += [row for shaper in shapers for sender in SENDERS for row in _rows(shaper, sender, samples)]
    for (shaper, family), rates in downloads.items():
        what = f"{shaper}: download, TCP, IPv{family}, mean of payload"
        rows.append(Row(section=SECTION, what=what, unit="Mbit/s", value=spread(rates)))
    rows += [
        Row(section=SECTION, what=name, unit="", note=f"not installed: {hint}")
        for name, hint in HINTS.items()
        if name not in others
    ]
    return rows


def _find(name: str, tools: Path | None) -> str | None:
    """On PATH, or in the environment that was named."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=f"{tools / 'bin'}{os.pathsep}{path}" if tools else path)


def _rows(shaper: str, sender: str, samples: dict[tuple[str, str], list[Sample]]) -> list[Row]:
    transport, family, _ = SENDERS[sender]
    what = f"{shaper}: {transport.upper()}, IPv{family}"
    found = [sample for sample in samples[(shaper, sender)] if sample]
    if not found:
        return [Row(section=SECTION, what=what, unit="", note="too little arrived to speak of a rate")]
    worst, first, mean = (spread([sample[key] / 1e6 for sample in found]) for key in ("worst", "first", "mean"))
    ours = shaper in OURS
    return [
        Row(
            section=SECTION,
            what=f"{what}, worst second",
            unit="Mbit/s",
            value=worst,
            note=f"first second {first.median:.2f}",
            at_most=1.05 * CAP / 1e6 if ours else None,
        ),
        Row(
            section=SECTION,
            what=f"{what}, mean from 1 s on",
            unit="Mbit/s",
            value=mean,
            at_least=0.95 * CAP / 1e6 if ours else None,
        ),
    ]


@contextmanager
def _shaping(hosts: Hosts, shaper: str, others: dict[str, str]) -> Iterator[list[str]]:
    """What the shaper says that it cannot do."""
    if shaper in OURS:
        names = [*SENDERS, *FETCHERS]
        classes = [TrafficClass(name=name, cap_bit_s=CAP) for name in names]
        rules = [
            Rule(match=Match(program=str(hosts.directory / name)), traffic_class=place + 2)
            for place, name in enumerate(names)
        ]
        with engine_on(hosts) as engine:
            yield [
                text for text in engine.start(shaper, plan_of(*classes, rules=rules), ticks=True) if "egress" in text
            ]
            engine.order("stop")
    elif shaper == TRAFFICTOLL:
        with _traffictoll(hosts, others[shaper]):
            yield []
    else:
        yield []


@contextmanager
def _traffictoll(hosts: Hosts, program: str) -> Iterator[None]:
    """Its own device for arrivals has to be there: it would load a module to get one."""
    path = hosts.directory / "traffictoll.yaml"
    lines = ["processes:"]
    for name in SENDERS:
        # tc's "kbps" are kilobytes.
        lines += [
            f"  {name}:",
            f"    upload: {CAP // 8000}kbps",
            "    match:",
            f"      - name: {name}",
        ]
    for name in FETCHERS:
        lines += [f"  {name}:", f"    download: {CAP // 8000}kbps", "    match:", f"      - name: {name}"]
    path.write_text("\n".join(lines) + "\n")
    inside(hosts.left.pid, "ip", "link", "add", "ifb0", "type", "ifb")
    inside(hosts.left.pid, "ip", "link", "set", "ifb0", "up")
    process = start(hosts.left, program, "left", str(path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + START_S
        while inside(hosts.left.pid, "tc", "class", "show", "dev", "left").count("class htb") < len(SENDERS) + 2:
            assert process.poll() is None, "TrafficToll ended"
            assert time.monotonic() < until_s, "TrafficToll made no classes"
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        stop(process)
        for what in ("root", "ingress"):
            words = ["nsenter", "-t", str(hosts.left.pid), "-n", "tc", "qdisc", "del", "dev", "left", what]
            subprocess.run(words, stderr=subprocess.DEVNULL, check=False)
        inside(hosts.left.pid, "ip", "link", "del", "ifb0")


def _send(hosts: Hosts, shaper: str, senders: list[str], seconds: float, others: dict[str, str]) -> dict[str, Sample]:
    listener = traffic(hosts.right, "listen", "right")
    line_of(listener)
    processes = []
    for name in senders:
        transport, family, port = SENDERS[name]
        before = [others[TRICKLE], "-s", "-u", str(KIB_S)] if shaper == TRICKLE else []
        program = SEND_TCP if transport == "tcp" else SEND_UDP
        words = [str(hosts.directory / name), "-e", program, RIGHT[family], str(port), str(seconds)]
        processes.append(start(hosts.left, *before, *words))
    for process in processes:
        process.wait(30)
    output, _ = listener.communicate(timeout=30)
    found = json.loads(output)
    ports = {name: (PROTOCOLS[SENDERS[name][0]], SENDERS[name][2]) for name in senders}
    return {name: found.get(f"{protocol}/{port}", {}) for name, (protocol, port) in ports.items()}


def _fetch(hosts: Hosts, shaper: str, seconds: float, others: dict[str, str]) -> dict[int, float]:
    """Mbit/s of payload of both downloads at once, by IP version."""
    before = [others[TRICKLE], "-s", "-d", str(KIB_S)] if shaper == TRICKLE else []
    processes = {}
    for name, family in FETCHERS.items():
        host = f"[{RIGHT[family]}]" if family == 6 else RIGHT[family]
        words = ["-sgo", "/dev/null", "-m", str(seconds), "-w", "%{speed_download}", f"http://{host}:{FETCH_PORT}/file"]
        processes[family] = start(hosts.left, *before, str(hosts.directory / name), *words, stdout=subprocess.PIPE)
    return {family: float(result_of(process)) * 8 / 1e6 for family, process in processes.items()}
