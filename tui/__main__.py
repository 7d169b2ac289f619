"""`python -m tui SOCKET`: the screens in this terminal, or behind the web server that started this process."""

from __future__ import annotations

import sys
from pathlib import Path

from tui.app import run_tui

run_tui(Path(sys.argv[1]))
