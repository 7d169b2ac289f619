"""The one step of the build that pyproject.toml cannot say: the eBPF programs are compiled before they are packed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithEbpf(build_py):
    """Without a compiler the agent is built all the same: it then works by its next best engine, and says so."""

    def run(self) -> None:
        done = subprocess.run([Path(__file__).parent / "scripts" / "build-ebpf"], check=False)
        if done.returncode:
            print("hostagent is built without its eBPF programs", file=sys.stderr)
        super().run()


setup(cmdclass={"build_py": BuildWithEbpf})
