"""TCP sockets get back the pace and the congestion control that they had before us.

Decides: nothing; the iterator in host.bpf.c knows a pace of ours by its low byte, also after the agent that set it was
killed. The congestion control that a socket had before is known only as long as that agent lives.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault
from dataplane.ebpf import layout
from dataplane.ebpf.libbpf import BpfObject

_SO_NETNS_COOKIE: Final = 71
HOST_OBJECT: Final = Path(__file__).parent / "host.bpf.o"


def namespace_cookie() -> int:
    """Of the network namespace of this thread."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
        return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)


def put_sockets_back(loaded: BpfObject) -> None:
    """Every TCP socket of this network namespace. Raises EnvironmentFault."""
    loaded.map("plan").update(layout.NUMBER.pack(0), layout.Settings(putting_back=1).pack())
    loaded.run_iterator("look_at_sockets")


def put_orphans_back() -> None:
    """After an agent that was killed. Nothing where eBPF does not work: then nobody set anything."""
    try:
        loaded = BpfObject(HOST_OBJECT)
    except EnvironmentFault:
        return
    try:
        put_sockets_back(loaded)
    finally:
        loaded.close()
