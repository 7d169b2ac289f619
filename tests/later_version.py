"""The same programs as another version of this project would have them, and traffic on which one follows the other."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from netns import Routed

ROOT = Path(__file__).parent.parent
TESTS = str(ROOT / "tests")
PACKAGES = ("billpay", "dataplane", "gateway", "hostagent", "neighbour")


def later_version(root: Path, program: str, *changes: tuple[str, str, str]) -> Path:
    """In `root`, with `program` compiled anew. A change: of a file in dataplane/ebpf, a pattern that is there once, and
    what comes instead."""
    if shutil.which("clang") is None:
        pytest.skip("no clang: another version's programs cannot be compiled")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.o"))
    shutil.copytree(ROOT / "scripts", root / "scripts")
    ebpf = root / "dataplane" / "ebpf"
    for source in ebpf.glob("*.bpf.c"):
        if source.name != program:
            source.unlink()
    for name, pattern, by in changes:
        text, count = re.subn(pattern, by, (ebpf / name).read_text(encoding="utf-8"))
        assert count == 1, pattern
        (ebpf / name).write_text(text, encoding="utf-8")
    subprocess.run([root / "scripts" / "build-ebpf"], check=True)
    return root


class Stream:
    """Within it `send` is called again and again in a, and a socket of b's counts what arrives at a port."""

    def __init__(self, routed: Routed, send: Callable[[], object], port: int) -> None:
        self.sent = self.received = 0
        self._send_one = send
        self._ending = threading.Event()
        self._receiver = routed.b.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        self._receiver.bind(("10.9.2.1", port))
        self._receiver.settimeout(1)
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Returns when all have come that will."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        while not self._ending.is_set():
            self._send_one()
            self.sent += 1
            if not self.sent % 50:
                time.sleep(0.005)

    def _receive(self) -> None:
        try:
            while True:
                self._receiver.recv(2000)
                self.received += 1
        except TimeoutError:
            self._receiver.close()
