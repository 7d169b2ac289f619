"""Test-wide switches: feature-table rows, users' expectations, real-packet tests, deep runs.

`--rows` prints which rows of docs/rows.toml have a test, `--expectations` the same of docs/expectations.toml, and both
run none; `--deep` runs the long soaks too.  Tests marked `netns` need root and say loudly when they cannot run.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import tomllib
from collections import defaultdict
from pathlib import Path

import hypothesis
import pytest

ROWS_FILE = Path(__file__).parent.parent / "docs" / "rows.toml"
EXPECTATIONS_FILE = ROWS_FILE.with_name("expectations.toml")
LONGEST_FIRST = ("lab", "hostagent", "gateway", "cli")
"""Folders whose files take minutes: what is begun last ought to be short, else one worker ends long after the rest."""
NETNS_TOOLS = ("ip", "tc", "iptables", "ip6tables", "nft", "nsenter", "unshare", "ethtool")

hypothesis.settings.register_profile("fast", max_examples=60, deadline=None, derandomize=True)
hypothesis.settings.register_profile("deep", max_examples=3000, deadline=None)


def feature_rows() -> dict[str, str]:
    with ROWS_FILE.open("rb") as file:
        tables = tomllib.load(file)
    return {row: name for table in tables.values() for row, name in table.items()}


def expectations() -> dict[str, dict[str, str]]:
    """By number: `name`, and `instead` where there is no test."""
    with EXPECTATIONS_FILE.open("rb") as file:
        found: dict[str, dict[str, str]] = tomllib.load(file)["expectation"]
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", action="store_true", help="print which rows of the feature table have a test")
    parser.addoption("--expectations", action="store_true", help="print which of the users' expectations have a test")
    parser.addoption("--deep", action="store_true", help="also run long soaks and deep fuzzing")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("deep" if config.getoption("--deep") else "fast")
    if config.getoption("--rows") or config.getoption("--expectations"):
        config.option.collectonly = True


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files none of whose tests `-m` can choose are not even imported: each of the suite's processes would import all.

    Marks are written in the file itself. Only "X and not Y" is understood; of any other expression every file is read.
    """
    words = re.fullmatch(r"(?:not )?\w+(?: and (?:not )?\w+)*", config.getoption("markexpr") or "")
    if words is None or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    for term in words[0].split(" and "):
        if term.startswith("not "):
            left_out = re.search(rf"^pytestmark = \[?pytest\.mark\.{term[4:]}\b", text, re.MULTILINE) is not None
        else:
            left_out = f"pytest.mark.{term}" not in text
        if left_out:
            return True
    return None


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported and collected stays until the end: the collector need not look through it again and again.

    Without this it takes a fifth of the processors' time of the tests that need no network.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_begins)
    known = feature_rows()
    proofs: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for marker in item.iter_markers("row"):
            unknown = [row for row in marker.args if row not in known]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: rows {unknown} are not in {ROWS_FILE.name}")
            for row in marker.args:
                proofs[row].append(item.nodeid)
    met = _expectations_met(items)
    if config.getoption("--rows"):
        _print_rows(known, proofs)
        items.clear()
        return
    if config.getoption("--expectations"):
        _print_expectations(met)
        items.clear()
        return
    deselected = [item for item in items if item.get_closest_marker("deep") and not config.getoption("--deep")]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]
    reason = _no_netns_reason()
    if reason:
        for item in items:
            if item.get_closest_marker("netns"):
                item.add_marker(pytest.mark.skip(reason=reason))


def _begins(item: pytest.Item) -> int:
    folder = item.nodeid.split("/")[1] if item.nodeid.count("/") > 1 else ""
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


def _expectations_met(items: list[pytest.Item]) -> dict[str, list[str]]:
    known = expectations()
    met: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for marker in item.iter_markers("expectation"):
            for number in map(str, marker.args):
                if number not in known:
                    raise pytest.UsageError(f"{item.nodeid}: {EXPECTATIONS_FILE.name} has no {number}")
                met[number].append(item.nodeid)
    return met


def _print_expectations(met: dict[str, list[str]]) -> None:
    for number, about in expectations().items():
        tests = met.get(number, [])
        print(f"{number:>3} {len(tests):4}  {about['name']}")
        if not tests:
            print(f"           {about.get('instead', 'NO TEST')}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Whoever asked for a list got it: no tests were to run."""
    asked = session.config.getoption("--rows") or session.config.getoption("--expectations")
    if asked and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reason = _no_netns_reason()
    if reason and not (config.getoption("--rows") or config.getoption("--expectations")):
        terminalreporter.write_line(f"NO REAL PACKETS WERE SENT: {reason}", red=True, bold=True)


def _no_netns_reason() -> str | None:
    if os.geteuid() != 0:
        return "tests with network namespaces need root: run `sudo make test`"
    missing = [tool for tool in NETNS_TOOLS if shutil.which(tool) is None]
    return f"missing tools: {', '.join(missing)} (run `make setup`)" if missing else None


def _print_rows(known: dict[str, str], proofs: dict[str, list[str]]) -> None:
    for row, name in known.items():
        tests = proofs.get(row, [])
        print(f"{row:8} {len(tests):3} {'yes' if tests else ' - '}  {name}")
    print(f"\n{len(proofs)} of {len(known)} rows have a test")
