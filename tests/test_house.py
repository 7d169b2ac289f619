"""House rules that a linter does not know: sizes of files and functions, no unfinished marks, a docstring in every
module.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "billpay",
    "dataplane",
    "neighbour",
    "secretary",
    "cartographer",
    "pricereactor",
    "market",
    "hostagent",
    "gateway",
    "tui",
    "lab",
    "cli",
    "bench",
)
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 70
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_is_documented_finished_and_of_readable_size(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= MAX_FILE_LINES, f"{path.name} is longer than {MAX_FILE_LINES} lines"
    assert not UNFINISHED.search(text), f"{path.name} has an unfinished mark"
    if text.strip():
        assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{path.name}:{node.lineno} {node.name} has {lines} lines"


def test_a_clock_that_is_set_cannot_change_what_the_data_plane_does() -> None:
    """Rates, holds and time-outs are on the monotonic clock; only grants have a date, which the reader hands on."""
    wall_clock = re.compile(r"\btime\.time(_ns)?\b|\bdatetime\b|CLOCK_REALTIME|ktime_get_(real|tai)")
    sources = [
        *(ROOT / "dataplane").rglob("*.py"),
        *(ROOT / "dataplane").rglob("*.bpf.c"),
        ROOT / "hostagent/traffic.py",
    ]
    found = {str(path.relative_to(ROOT)) for path in sources if wall_clock.search(path.read_text(encoding="utf-8"))}
    assert found == {"dataplane/reader_process.py"}
    shapers = [path for path in (ROOT / "dataplane" / "shaping").glob("*.py") if "unix_s" in path.read_text("utf-8")]
    assert [path.name for path in shapers] == ["shaper.py"]  # it passes the date on to the paying core, and no more
