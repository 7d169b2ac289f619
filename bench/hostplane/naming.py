"""Whose bytes: what each engine, and nethogs where it is installed, says of short and long downloads of known programs.

Decides nothing. The witness are the other end's counters for each server's port, at the IP layer; interfaces work
without offloads, so that packets are as on a wire. A byte is named rightly when the program that moved it is told.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.hostplane.hosts import RIGHT, Hosts, engine_on, plan_of, progress, running, spread, start
from bench.hostplane.rows import Row
from bench.hostplane.traffic import GET_DATAGRAMS
from bench.nfqueue import inside
from dataplane.host_engine import EngineName

SECTION: Final = "attribution"
DOWNLOADS: Final = 40
DOWNLOAD_BYTES: Final = 200_000
LONG_BYTES: Final = 8_000_000
QUICK_LONG_BYTES: Final = 3_000_000
QUICK_FAMILY: Final = {"tcp": (4,), "udp": (6,)}
PORTS: Final = {"tcp": (8000, 8001), "udp": (4433, 4434)}
PROGRAMS: Final = {"tcp": ("curl", "longget"), "udp": ("quicget", "longquic")}
NETHOGS: Final = "nethogs"
OURS: Final = (EngineName.EBPF, EngineName.NFQUEUE, EngineName.SOCKETS)
SHARE: Final = 0.999
_COUNTED: Final = re.compile(r"\[\d+:(\d+)\] -A HOSTPLANE .*--[sd]port (\d+)")
_TRACED: Final = re.compile(r"^(.+)/(\d+)/(\d+)\t([\d.e+]+)\t([\d.e+]+)$")


def measure(hosts: Hosts, *, quick: bool) -> list[Row]:
    """Of every witness the share of bytes that it names rightly, by transport and IP version."""
    hosts.set_offloads(False)
    _count_at_the_other_end(hosts)
    long_curl, get, long_get = (hosts.directory / name for name in ("longget", "quicget", "longquic"))
    shutil.copy("/usr/bin/curl", long_curl)
    for path in (get, long_get):
        shutil.copy("/usr/bin/perl", path)
    folder = hosts.directory / "served"
    folder.mkdir()
    for name, size in (("short", DOWNLOAD_BYTES), ("long", QUICK_LONG_BYTES if quick else LONG_BYTES)):
        (folder / name).write_bytes(bytes(size))
    found: dict[tuple[str, str, int], tuple[float, float]] = {}
    witnesses = [*map(str, OURS), *([NETHOGS] if shutil.which(NETHOGS) else [])]
    with (
        running(hosts.right, "serve_files", PORTS["tcp"][0], folder),
        running(hosts.right, "serve_files", PORTS["tcp"][1], folder),
        running(hosts.right, "serve_datagrams", PORTS["udp"][0], 0),
        running(hosts.right, "serve_datagrams", PORTS["udp"][1], 1),
    ):
        for witness in witnesses:
            for transport in PORTS:
                for family in QUICK_FAMILY[transport] if quick else RIGHT:
                    progress(f"downloads: {witness}, {transport}, IPv{family}")
                    downloads = 5 if quick else DOWNLOADS
                    found[(witness, transport, family)] = _one(hosts, witness, transport, family, downloads)
    rows = [_row(what, shares) for what, shares in found.items()]
    if NETHOGS not in witnesses:
        rows.append(Row(section=SECTION, what=NETHOGS, unit="", note="not installed: apt-get install nethogs"))
    return rows


def _row(what: tuple[str, str, int], shares: tuple[float, float]) -> Row:
    witness, transport, family = what
    short, whole = (spread([100 * share]) for share in shares)
    is_goal = witness in (EngineName.EBPF, EngineName.NFQUEUE)
    return Row(
        section=SECTION,
        what=f"{witness}: {transport.upper()}, IPv{family}",
        unit="% of bytes",
        value=whole,
        note=f"of short downloads alone {short.median:.1f} %",
        at_least=100 * SHARE if is_goal else None,
    )


def _one(hosts: Hosts, witness: str, transport: str, family: int, downloads: int) -> tuple[float, float]:
    """Rightly named: of the short downloads, and of all."""
    before = _passed(hosts)
    if witness == NETHOGS:
        with _nethogs(hosts) as totals:
            _download(hosts, transport, family, downloads)
        named = totals
    else:
        with engine_on(hosts) as engine:
            engine.start(witness, plan_of(), ticks=True)
            _download(hosts, transport, family, downloads)
            named = Counter(engine.order("totals"))
            engine.order("stop")
    true = [_passed(hosts)[port] - before[port] for port in PORTS[transport]]
    right = [min(named[program], size) for program, size in zip(PROGRAMS[transport], true, strict=True)]
    return right[0] / true[0], sum(right) / sum(true)


def _download(hosts: Hosts, transport: str, family: int, downloads: int) -> None:
    """One long download, and short ones one after the other beside it."""
    command = _tcp_command if transport == "tcp" else _udp_command
    long = start(hosts.left, *command(hosts.directory, family, is_long=True), stdout=subprocess.DEVNULL)
    for _ in range(downloads):
        short = start(hosts.left, *command(hosts.directory, family, is_long=False), stdout=subprocess.DEVNULL)
        assert short.wait(20) == 0, short.args
    assert long.wait(40) == 0, long.args


def _tcp_command(directory: Path, family: int, *, is_long: bool) -> list[str]:
    program = str(directory / "longget") if is_long else "curl"
    host = f"[{RIGHT[family]}]" if family == 6 else RIGHT[family]
    what = "long" if is_long else "short"
    return [program, "-sfgo", "/dev/null", f"http://{host}:{PORTS['tcp'][is_long]}/{what}"]


def _udp_command(directory: Path, family: int, *, is_long: bool) -> list[str]:
    program = directory / PROGRAMS["udp"][is_long]
    size = (directory / "served" / ("long" if is_long else "short")).stat().st_size
    return [str(program), "-e", GET_DATAGRAMS, RIGHT[family], str(PORTS["udp"][is_long]), str(size)]


def _count_at_the_other_end(hosts: Hosts) -> None:
    """Counters of what each server's port receives and sends; nothing is decided by these rules."""
    for program in ("iptables", "ip6tables"):
        inside(hosts.right.pid, program, "-t", "mangle", "-N", "HOSTPLANE")
        for chain in ("PREROUTING", "POSTROUTING"):
            inside(hosts.right.pid, program, "-t", "mangle", "-A", chain, "-j", "HOSTPLANE")
        for transport, ports in PORTS.items():
            for port in ports:
                for end in ("--sport", "--dport"):
                    inside(hosts.right.pid, program, "-t", "mangle", "-A", "HOSTPLANE", "-p", transport, end, str(port))


def _passed(hosts: Hosts) -> Counter[int]:
    found: Counter[int] = Counter()
    for program in ("iptables-save", "ip6tables-save"):
        for line in inside(hosts.right.pid, program, "-c", "-t", "mangle").splitlines():
            if counted := _COUNTED.match(line):
                found[int(counted[2])] += int(counted[1])
    return found


@contextmanager
def _nethogs(hosts: Hosts) -> Iterator[Counter[str]]:
    """Its own totals in trace mode: of each process the largest that it ever told."""
    totals: Counter[str] = Counter()
    with tempfile.TemporaryFile("w+", dir=hosts.directory) as output:
        process = start(
            hosts.left, NETHOGS, "-t", "-C", "-v", "2", "-d", "1", "left", stdout=output, stderr=subprocess.DEVNULL
        )
        time.sleep(1.5)
        try:
            yield totals
            time.sleep(2.5)
        finally:
            process.terminate()
            process.wait()
        output.seek(0)
        largest: dict[tuple[str, str], float] = {}
        for line in output:
            if told := _TRACED.match(line.rstrip("\n")):
                name = told[1].split(" ")[0].rpartition("/")[2]
                key, size = (name, told[2]), float(told[4]) + float(told[5])
                largest[key] = max(largest.get(key, 0.0), size)
        for (name, _), size in largest.items():
            totals[name] += int(size)
