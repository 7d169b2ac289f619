"""The metrics: true, named by Prometheus' conventions, bounded, and described in docs/metrics.md."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from desks import FakeDesk, example, full_snapshot
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from hostagent import api, metrics
from hostagent.metrics import (
    FAMILIES,
    LABEL_CHARACTERS_MAX,
    OTHER,
    PROCESS_FAMILIES,
    PROGRAMS_MAX,
    LoopLag,
    Metrics,
    ServerFacts,
    TopPrograms,
    samples,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
FACTS = ServerFacts(streams=3, connections=5, lag_s=0.25)
BASE_UNITS = {"bytes", "packets", "dollars", "seconds", "ratio", "dollars_per_byte", "bits_per_second", ""}


def program(name: str, sent: int, received: int = 0, *, kind: str = "program", user_id: int = 0) -> api.Program:
    return msgspec.structs.replace(
        example(api.Program), name=name, kind=kind, user_id=user_id, sent_bytes=sent, received_bytes=received
    )


def scraped(shown: api.Snapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, _ = Metrics(lambda: shown, lambda: FACTS).text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


# --- true -------------------------------------------------------------------------------------------------------------


@pytest.mark.expectation(23)
@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("hostagent_program_bytes_total", {"program": "rsync", "kind": "program", "direction": "out"}, 30_000_000),
        ("hostagent_program_packets_total", {"program": "rsync", "kind": "program", "direction": "in"}, 12_000),
        ("hostagent_program_marked_packets_total", {"program": "rsync", "kind": "program"}, 3),
        ("hostagent_link_bytes_total", {"interface": "eth0", "direction": "in"}, 950_000),
        ("hostagent_link_packets_total", {"interface": "eth0", "direction": "out"}, 20_500),
        ("hostagent_kind_cap_bits_per_second", {"kind": "backup"}, 4_000_000),
        ("hostagent_kind_spent_dollars_total", {"kind": "backup"}, 60_000e-9),
        (
            "hostagent_price_dollars_per_byte",
            {"interface": "eth0", "direction": "out", "source": "embedded gateway"},
            1500e-15,
        ),
        ("hostagent_link_used_ratio", {"interface": "eth0", "direction": "out"}, 0.93),
        ("hostagent_budget_used_bytes", {"budget": "Wi-Fi Home", "period": "month"}, 430_000_000),
        ("hostagent_spent_today_dollars", {}, 2280e-9),
        ("hostagent_account_owed_dollars", {"neighbour": "x"}, 1380e-9),
        ("hostagent_questions_open", {}, 1),
        ("hostagent_engine", {"name": "ebpf"}, 1),
        ("hostagent_health", {"state": "degraded"}, 1),
        ("hostagent_health", {"state": "ok"}, 0),
        ("hostagent_mode", {"state": "trial"}, 1),
        ("hostagent_warning", {"code": "no-agreement"}, 1),
        ("hostagent_history_trouble", {}, 0),
        ("hostagent_event_streams", {}, 3),
        ("hostagent_api_connections", {}, 5),
        ("hostagent_event_loop_lag_seconds", {}, 0.25),
        ("hostagent_build_info", {"version": "0.1.0"}, 1),
    ],
)
def test_a_number_is_what_the_snapshot_says(name: str, labels: dict[str, str], value: float) -> None:
    assert scraped(full_snapshot())[name, frozenset(labels.items())] == pytest.approx(value, rel=1e-12)


@pytest.mark.expectation(18)
def test_what_we_counted_stands_beside_what_the_interface_counted() -> None:
    found = scraped(full_snapshot())
    labels = frozenset({("interface", "eth0"), ("direction", "out")})
    assert found["hostagent_link_packets_total", labels] == 20_500
    assert found["hostagent_interface_packets_total", labels] == 1400


def test_trouble_with_the_history_is_seen() -> None:
    warning = api.Warning(code="history", message="No space left on device", since_unix_s=1)
    status = msgspec.structs.replace(example(api.Status), warnings=(warning, warning))
    found = scraped(msgspec.structs.replace(full_snapshot(), status=status))
    assert found["hostagent_history_trouble", frozenset()] == 1
    assert found["hostagent_warning", frozenset({("code", "history")})] == 1


def test_budgets_of_money_have_a_currency() -> None:
    budget = msgspec.structs.replace(
        example(api.Budget), unit="nanodollars", limit=5 * 10**9, used=10**9, currency="EUR"
    )
    found = scraped(msgspec.structs.replace(full_snapshot(), budgets=(budget,)))
    labels = frozenset({("budget", "Wi-Fi Home"), ("period", "month"), ("currency", "EUR")})
    assert found["hostagent_budget_limit_dollars", labels] == 5
    assert found["hostagent_budget_used_dollars", labels] == 1


def test_an_empty_agent_has_metrics_too() -> None:
    found = scraped(example(api.Snapshot))
    assert found["hostagent_flows_active", frozenset()] == 0
    assert not any(name.startswith("hostagent_program") for name, _ in found)


def test_names_that_others_chose_are_labels_and_nothing_else() -> None:
    evil = 'a"} 1\nhostagent_questions_open 99\n\\'
    found = scraped(msgspec.structs.replace(full_snapshot(), programs=(program(evil, 7), program("x" * 500, 8))))
    assert found["hostagent_questions_open", frozenset()] == 1
    labels = {"program": evil, "kind": "program", "direction": "out"}
    assert found["hostagent_program_bytes_total", frozenset(labels.items())] == 7
    labels["program"] = "x" * LABEL_CHARACTERS_MAX
    assert found["hostagent_program_bytes_total", frozenset(labels.items())] == 8


# --- bounded ----------------------------------------------------------------------------------------------------------


def test_fifty_programs_and_all_others_together() -> None:
    programs = tuple(program(f"p{n}", 1000 + n, n) for n in range(200))
    counted = TopPrograms().count(programs)
    assert len(counted) == PROGRAMS_MAX + 1
    assert ("p199", "program") in counted
    assert ("p149", "program") not in counted
    assert sum(counts[0] for counts in counted.values()) == sum(each.sent_bytes for each in programs)


def test_a_program_of_several_users_is_one() -> None:
    counted = TopPrograms().count((program("sh", 5, user_id=0), program("sh", 6, user_id=1)))
    assert {key: counts[0] for key, counts in counted.items()} == {("sh", "program"): 11}


names = st.sampled_from([f"p{n}" for n in range(6)])
steps = st.lists(st.dictionaries(names, st.integers(0, 1000), max_size=6), min_size=1, max_size=8)


@given(steps)
def test_no_counter_ever_falls_and_together_they_are_everything(growth: list[dict[str, int]]) -> None:
    """Programs come, grow, and go for good."""
    top = TopPrograms(places=2)
    total: dict[str, int] = {}
    gone: set[str] = set()
    before: dict[tuple[str, ...], tuple[int, ...]] = {}
    for each in growth:
        alive = {name: grown for name, grown in each.items() if name not in gone}
        gone |= total.keys() - alive.keys()
        total |= {name: total.get(name, 0) + grown for name, grown in alive.items()}
        now = top.count([program(name, total[name]) for name in alive])
        assert len(now) <= 3
        for key, counts in now.items():
            assert all(new >= old for new, old in zip(counts, before.get(key, (0,) * 5), strict=True))
        if not gone:
            assert sum(counts[0] for counts in now.values()) == sum(total.values())
        before = now


def test_a_counter_that_began_anew_counts_on() -> None:
    top = TopPrograms()
    top.count([program("a", 100)])
    assert top.count([program("a", 30)])["a", "program"][0] == 130


def test_who_takes_a_free_place_counts_from_there() -> None:
    top = TopPrograms(places=1)
    top.count([program("a", 100), program("b", 10)])
    counted = top.count([program("b", 15)])
    assert (counted["b", "program"][0], counted[OTHER][0]) == (5, 10)


# --- by the conventions -----------------------------------------------------------------------------------------------


def families(accept: str = "") -> list[Metric]:
    text, kind = Metrics(full_snapshot, lambda: FACTS).text(accept)
    read = openmetrics_families if accept else text_string_to_metric_families
    assert kind.startswith(accept or "text/plain; version=0.0.4")
    return list(read(text.decode()))


@pytest.mark.expectation(23)
def test_both_formats_are_read_by_prometheus_own_parsers() -> None:
    plain, strict = families(), families("application/openmetrics-text")
    assert {each.name for each in plain} >= {each.name for each in strict} - {"hostagent_build"}
    assert {each.name: each.unit for each in strict if each.unit} == {
        each.name: each.unit for each in FAMILIES if each.unit
    }


def test_an_accept_line_that_means_nothing_gets_the_plain_format() -> None:
    for accept in ("text/plain; version=abc", "*/*", "\xff", "a" * 5000):
        assert Metrics(full_snapshot, lambda: FACTS).text(accept)[1].startswith("text/plain")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_and_units_are_prometheus(family: metrics.Family) -> None:
    """https://prometheus.io/docs/practices/naming, and what promtool would find."""
    assert re.fullmatch(r"hostagent_[a-z]+(_[a-z]+)*", family.name)
    assert family.unit in BASE_UNITS
    assert family.name.endswith(family.unit)
    assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info"))
    assert not re.search(r"_(gauge|counter|milliseconds|kilobytes|megabytes|percent)(_|$)", family.name)
    assert all(re.fullmatch(r"[a-z]+", label) for label in family.labels)
    assert family.name.split("_")[-1] not in family.labels
    assert family.help.endswith(".")
    assert "total" not in family.labels


def test_every_family_has_samples_with_all_its_labels() -> None:
    money = msgspec.structs.replace(example(api.Budget), unit="nanodollars")
    shown = full_snapshot()
    shown = msgspec.structs.replace(shown, budgets=(*shown.budgets, money))
    found = {name: labels for name, labels, _ in samples(shown, TopPrograms().count(shown.programs), FACTS)}
    assert {name: len(labels) for name, labels in found.items()} == {each.name: len(each.labels) for each in FAMILIES}


def test_the_document_lists_them_all() -> None:
    said = re.findall(r"^\| `(hostagent_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", DOCUMENT, re.MULTILINE)
    listed = [(each.shown, each.kind, ", ".join(f"`{label}`" for label in each.labels), each.help) for each in FAMILIES]
    assert said == listed
    assert tuple(re.findall(r"^\| `(process_\w+)` \|$", DOCUMENT, re.MULTILINE)) == PROCESS_FAMILIES
    assert f"Programs are {PROGRAMS_MAX} at most" in DOCUMENT
    assert f"{LABEL_CHARACTERS_MAX} characters" in DOCUMENT


def test_the_processes_own_metrics_are_there() -> None:
    assert {name for name, _ in scraped(full_snapshot()) if name.startswith("process_")} == set(PROCESS_FAMILIES)


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_an_agent_that_nobody_scrapes_never_loads_the_library() -> None:
    program = "import sys, hostagent.server; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_scrape_asks_for_one_snapshot() -> None:
    desk = FakeDesk()
    made = Metrics(desk.snapshot, lambda: FACTS)
    made.text()
    made.text()
    assert desk.asked == 2


async def test_a_loop_that_was_held_up_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LAG_EVERY_S", 0.001)
    loop = asyncio.get_running_loop()
    now_s = 0.0
    monkeypatch.setattr(loop, "time", lambda: now_s)

    async def late(_seconds: float) -> None:
        nonlocal now_s
        now_s += 0.501
        if now_s > 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", late)
    lag = LoopLag()
    assert lag.longest_s == 0
    with contextlib.suppress(asyncio.CancelledError):
        await lag.work()
    assert lag.longest_s == pytest.approx(0.5)
