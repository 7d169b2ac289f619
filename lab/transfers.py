"""TCP transfers by unmodified programs: iperf3, curl.

Decides nothing: starts them in namespaces and reads what they report.  A transfer that failed counts 0 and says why.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import msgspec

from billpay.errors import EnvironmentFault
from lab.namespaces import Namespace, end_process, inside_namespace

_READY_S = 5.0
_STEADY_BYTES = "4096"  # written at once: iperf3's own 128 KiB would be bursts that fill a slow link
_OVERTIME_S = 30  # iperf3 is ended by us, when the measured time is over
_FILE_SERVER = (  # http.server asks for its own name before it listens, and inside there is nobody to ask: five seconds
    "import runpy, socket; socket.getfqdn = str; runpy.run_module('http.server', run_name='__main__', alter_sys=True)"
)


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """What a receiver got."""

    name: str
    bit_s: int
    bytes: int
    seconds: float
    trouble: str = ""


class IperfServer:
    def __init__(self, namespace: Namespace, *, address: str, port: int, errors: IO[bytes]) -> None:
        self._process = namespace.start(
            ["iperf3", "--server", "--bind", address, "--port", str(port)], stdout=errors, stderr=errors
        )
        wait_until_listening(namespace, port=port, process=self._process)

    def close(self) -> None:
        end_process(self._process)


class IperfTransfer:
    """A running client: one TCP connection from `namespace` to the server.

    What it achieved is read from the receiver's sockets (`Receipt`), not from the client's report: that report has to
    come through the same congested link and may never arrive for a transfer that pays nothing.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        source: str,
        destination: str,
        port: int,
        seconds: float,
        congestion_control: str,
        rate_bit_s: int | None,
        errors: IO[bytes],
    ) -> None:
        self._process = namespace.start(
            [
                *("iperf3", "--client", destination, "--bind", source, "--port", str(port)),
                *("--time", str(int(seconds) + _OVERTIME_S), "--congestion", congestion_control),
                *(("--bitrate", str(rate_bit_s), "--length", _STEADY_BYTES) if rate_bit_s else ()),
            ],
            stdout=errors,
            stderr=errors,
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        end_process(self._process)


class Receipt:
    """What TCP received on one port of a namespace since this was made, by the kernel's own counters."""

    def __init__(self, namespace: Namespace, port: int) -> None:
        self._namespace = namespace
        self._port = port
        self._most: dict[str, int] = {}

    def bytes(self) -> int:
        """Adds up all connections seen so far; look often enough to see each before it is closed."""
        output = self._namespace.run(["ss", "-H", "-t", "-i", "-n", "-O", "sport", "=", f":{self._port}"])
        self._most.update(read_received(output))
        return sum(self._most.values())


def read_received(output: str) -> dict[str, int]:
    """Received bytes for each peer, out of `ss -H -t -i -n -O`."""
    received: dict[str, int] = {}
    for line in output.splitlines():
        words = line.split()
        counts = [word.partition(":")[2] for word in words if word.startswith("bytes_received:")]
        if counts and len(words) > 4:
            received[words[4]] = int(counts[0])
    return received


class FileServer:
    """An HTTP server with one file, from Python's standard library."""

    def __init__(
        self, namespace: Namespace, *, address: str, port: int, directory: Path, megabytes: float, errors: IO[bytes]
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "file").write_bytes(bytes(int(megabytes * 1e6)))
        self._process = namespace.start(
            [sys.executable, "-c", _FILE_SERVER, str(port), "--bind", address, "--directory", str(directory)],
            stdout=errors,
            stderr=errors,
        )
        wait_until_listening(namespace, port=port, process=self._process)

    def close(self) -> None:
        end_process(self._process)


class _CurlReport(msgspec.Struct, frozen=True):
    size_download: float = 0
    time_total: float = 0
    errormsg: str | None = None


def fetch(namespace: Namespace, *, name: str, host: str, port: int, at_most_s: float) -> Goodput:
    """Downloads the server's file with curl."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    command = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{json}", "--max-time", str(at_most_s)]
    process = namespace.start([*command, f"http://{authority}/file"], stdout=subprocess.PIPE)
    output, _ = process.communicate()
    report = msgspec.json.decode(output, type=_CurlReport)
    rate = report.size_download * 8 / report.time_total if report.time_total else 0
    return Goodput(
        name=name,
        bit_s=int(rate),
        bytes=int(report.size_download),
        seconds=report.time_total,
        trouble=report.errormsg or "",
    )


def wait_until_listening(
    namespace: Namespace, *, port: int, process: subprocess.Popen[bytes], protocol: str = "tcp"
) -> None:
    """Returns when a TCP socket listens on the port inside (or a UDP socket is bound to it).

    Raises EnvironmentFault when the process ends before.
    """
    deadline_s = time.monotonic() + _READY_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        if inside_namespace(namespace.pid, lambda: _listens(port, protocol)):
            return
        time.sleep(0.02)
    raise EnvironmentFault("start server on port", str(port), f"not listening in {namespace.name}", "see the logs")


def _listens(port: int, protocol: str) -> bool:
    """From the kernel's own tables, since a trial connection would be taken for the one client of an iperf3 server."""
    state = {"tcp": "0A", "udp": "07"}[protocol]  # LISTEN; what an unconnected UDP socket is in
    for table in (f"/proc/thread-self/net/{protocol}", f"/proc/thread-self/net/{protocol}6"):
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[3] == state and int(words[1].rpartition(":")[2], 16) == port:
                return True
    return False
