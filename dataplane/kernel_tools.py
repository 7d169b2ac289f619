"""Runs iptables, ip, nft and tc: argument lists only, and one line when the machine refuses.

Decides: what a refusal of these programs means to a user. Refuses to know: why they are run.
Source: the exit codes and messages of iptables 1.8 and iproute2 6.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from billpay.errors import EnvironmentFault

TIMEOUT_S: Final = 20
"""Another program may hold the xtables lock for a while; longer than this means that something hangs."""

_PACKAGES: Final = {
    "iptables-restore": "iptables",
    "iptables-save": "iptables",
    "ip6tables-restore": "iptables",
    "ip6tables-save": "iptables",
    "iptables": "iptables",
    "ip6tables": "iptables",
    "nft": "nftables",
    "ip": "iproute2",
    "tc": "iproute2",
}
_NOT_PERMITTED: Final = ("operation not permitted", "permission denied", "you must be root", "are you root")


def run(arguments: Sequence[str], *, operation: str, target: str, text: str | None = None) -> str:
    """The program's output. Raises EnvironmentFault with the last line that it complained with."""
    try:
        done = subprocess.run(arguments, input=text, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        program = arguments[0]
        remedy = f"install {_PACKAGES.get(program, program)}"
        raise EnvironmentFault(operation, target, f"{program} is not installed", remedy) from error
    except subprocess.TimeoutExpired as error:
        cause = f"{arguments[0]} did not finish in {TIMEOUT_S} s"
        raise EnvironmentFault(operation, target, cause, "see which program holds the xtables lock") from error
    if done.returncode:
        raise EnvironmentFault(operation, target, *_complaint(arguments, done.stderr, done.returncode))
    return done.stdout


def is_installed(program: str) -> bool:
    return shutil.which(program) is not None


def _complaint(arguments: Sequence[str], stderr: str, code: int) -> tuple[str, str]:
    """Cause and remedy."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    if any(phrase in stderr.lower() for phrase in _NOT_PERMITTED):
        return "not permitted", "run as root or with CAP_NET_ADMIN"
    return f"{arguments[0]}: {lines[0] if lines else f'exit code {code}'}", ""
