"""Whether this machine can run programs that meet packets at interfaces: asked before a reader is started with them.

Decides: what is asked, none of which lasts. Refuses to know: which programs there are, and what they are for. Whether
the kernel takes a certain program is seen when it is loaded, which can take long.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.ebpf.libbpf import create_array, library
from dataplane.hardening import Capability, held_capabilities

TCX_RELEASE: Final = (6, 6)


def machine_faults(compiled: Path) -> tuple[str, ...]:
    """Why the programs of that file cannot run here, each in a line; none: they can."""
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < TCX_RELEASE:
        return (f"Linux {release} has no tcx: that came with {'.'.join(map(str, TCX_RELEASE))}",)
    if not compiled.exists():
        return (f"{compiled.name} is not built: run scripts/build-ebpf",)
    held = held_capabilities()
    if not {Capability.NET_ADMIN, Capability.BPF} & set(held):
        return ("not permitted: it takes root, or CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON",)
    if Capability.PERFMON not in held:
        return ("CAP_PERFMON is missing: without it the kernel refuses programs of this size",)
    try:
        library()
        create_array("billpay_probe", value_size=8, max_entries=1).close()
    except EnvironmentFault as fault:
        return (str(fault),)
    return ()
