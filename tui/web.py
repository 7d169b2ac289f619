"""The same screens in a browser on this machine.

Decides where they are served: on 127.0.0.1, under a secret path that is made anew each time.  What holds of that is
said in `tui.loopback`.  textual-serve is an extra, imported when somebody asks for it.
"""

from __future__ import annotations

import secrets
import shlex
import socket as sockets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from billpay.errors import EnvironmentFault

PORT: Final = 7480
HOST: Final = "127.0.0.1"
TOKEN_BYTES: Final = 24


def serve(
    socket: Path,
    port: int = PORT,
    *,
    title: str = "hostagent",
    say: Callable[[str], None] = print,
    command: Sequence[str] | None = None,
) -> None:
    """Until Ctrl-C or SIGTERM; `say` gets the address to open.  0 takes any free port.  Raises EnvironmentFault.

    `command`: shows the screens, one process for each browser's page; None: `python -m tui`.
    """
    try:
        from tui.loopback import LoopbackServer
    except ImportError as error:
        remedy = "pip install textual-serve"
        raise EnvironmentFault("show", "the screens in a browser", f"{error.name} is missing", remedy) from error
    shown = shlex.join(command or [sys.executable, "-m", "tui", str(socket.absolute())])
    with listening(port) as listener:
        LoopbackServer(shown, listener, token=secrets.token_urlsafe(TOKEN_BYTES), title=title, say=say).run()


def listening(port: int) -> sockets.socket:
    try:
        return sockets.create_server((HOST, port))
    except OSError as error:
        remedy = "name another port; 0 takes any free one"
        raise EnvironmentFault("listen on", f"{HOST}:{port}", error.strerror, remedy) from error
