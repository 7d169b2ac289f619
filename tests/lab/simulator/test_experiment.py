"""Experiment files: what people write is understood, what cannot be is one exact line, and the reference is whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from billpay.errors import ConfigurationError
from lab.simulator import results as outcome
from lab.simulator.equilibrium import equilibrium
from lab.simulator.examples import DIRECTORY
from lab.simulator.experiment import (
    MARKING_DEFAULTS,
    REACTOR_PARAMETERS,
    Event,
    Experiment,
    Flow,
    Link,
    Marking,
    MarkingKind,
    Mode,
    Overrides,
    PathPrice,
    Pattern,
    Reactor,
    ReactorKind,
    decode,
    load,
)
from lab.simulator.running import run_file

REFERENCE = Path(__file__).parents[3] / "docs" / "spec" / "experiment.md"
EXAMPLES = sorted(path.name for path in DIRECTORY.iterdir() if path.suffix in (".toml", ".json"))

SMALL = """
[[links]]
name = "link"
rate_bit_s = 10_000_000
[[flows]]
name = "one"
path = ["link"]
"""


def with_flow(line: str) -> str:
    return SMALL + line + "\n"


def complaint(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        decode(text, file="x.toml")
    said = str(caught.value)
    assert "\n" not in said
    return said


# -- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rate",
    [
        "rate_bit_s = 10_000_000",
        "capacity_bit_s = 10_000_000",
        "capacity = 10",
        'rate = "10 Mbit/s"',
        'capacity = "10000 kbps"',
        "rate_mbit_s = 10",
        "bandwidth_kbit_s = 10_000",
        'rate_bit_s = "0.01 Gbit/s"',
    ],
)
def test_a_rate_is_understood_in_the_ways_that_people_write_it(rate: str) -> None:
    assert decode(f'links = [{{name = "l", {rate}}}]\n[[flows]]').links[0].rate_bit_s == pytest.approx(10_000_000)


@pytest.mark.parametrize("rtt", ["rtt_ms = 80", "rtt_s = 0.08", 'rtt = "80 ms"', 'rtt_ms = "0.08 s"'])
def test_a_round_trip_likewise(rtt: str) -> None:
    assert decode(with_flow(rtt)).flows[0].rtt_ms == pytest.approx(80)
    assert decode(rtt + SMALL).flows[0].rtt_ms == pytest.approx(80)


@pytest.mark.parametrize(
    "marking",
    ['"virtual_queue"', '"virtual-queue"', '"Virtual Queue"', '"vq"', '{kind = "virtual_queue", theta = 0.95}'],
)
def test_a_marking_is_a_name_or_a_table_for_one_link_or_all(marking: str) -> None:
    expected = Marking(kind=MarkingKind.VIRTUAL_QUEUE, theta=0.95)
    assert decode(f"marking = {marking}\n{SMALL}").links[0].marking == expected
    beside = SMALL.replace("[[flows]]", f"marking = {marking}\n[[flows]]")
    assert decode(beside).links[0].marking == expected


def test_parameters_may_stand_in_the_link_and_in_the_flow() -> None:
    text = SMALL.replace("[[flows]]", 'marking = "power"\nB = 10\n[[flows]]') + "gain_of_bound = 0.9\n"
    found = decode(text)
    assert found.links[0].marking.exponent == 10
    assert found.flows[0].reactor == Reactor(kind=ReactorKind.ELASTIC, gain_of_bound=0.9)


def test_json_tables_by_name_and_a_path_of_one_word_mean_the_same() -> None:
    table = {
        "links": {"link": {"capacity": 10}},
        "flows": {"one": {"path": "link", "w": 1}},
    }
    by_name = decode(json.dumps(table), file="x.json")
    assert by_name.links == decode(SMALL).links
    assert by_name.flows == decode(SMALL).flows


def test_many_alike_are_drawn_by_the_seed() -> None:
    text = """
    links = {name = "l", count = 5, capacity = 10}
    flows = {name = "f", count = 50, hops = [1, 3], weight = [0.1, 0.2], rtt_ms = [20, 200]}
    """
    first, again, other = decode(text), decode(text), decode("seed = 2\n" + text)
    assert first == again
    assert first.flows != other.flows
    assert [link.name for link in first.links] == ["l-1", "l-2", "l-3", "l-4", "l-5"]
    assert {len(flow.path) for flow in first.flows} == {1, 2, 3}
    assert all(20 <= flow.rtt_ms <= 200 and 0.1 <= flow.weight <= 0.2 for flow in first.flows)


def test_money_and_weight_say_the_same() -> None:
    weighted = decode(with_flow("weight = 0.4")).flows[0]
    paid = decode(with_flow("willingness_nanodollars_per_s = 50_000")).flows[0]
    assert weighted.willingness_nanodollars_per_s == pytest.approx(50_000)  # 0.4 Mbit/s: 50 packets of 8,000 bits
    assert paid.weight == pytest.approx(0.4)


def test_weights_that_no_link_can_mark_are_shares() -> None:
    found = decode(with_flow("weight = 300\n[[flows]]\nweight = 100"))
    assert found.weight_mbit_s == pytest.approx(0.1 * 10 / 400)
    assert [flow.weight for flow in found.flows] == [300, 100]
    assert "weights would mark 4000% of link link" in found.notes[0]


def test_a_round_trip_follows_from_delays() -> None:
    text = (
        'links = [{name="a", capacity=1, delay_ms=10}, {name="b", capacity=1, delay_ms=5}]\n[[flows]]\npath=["a","b"]'
    )
    assert decode(text).flows[0].rtt_ms == 30
    assert decode(SMALL).flows[0].rtt_ms == 40


def test_what_a_run_is_to_do_otherwise() -> None:
    text = "seconds = 60\nwarm_up_s = 20\n" + SMALL + "[[events]]\nat_s = 30\nprice_factor = 2\n"
    found = decode(text, overrides=Overrides(seconds=10, seed=9, mode="packets"))
    assert (found.seconds, found.seed, found.mode, found.events) == (10, 9, Mode.PACKETS, ())
    assert found.measured_from_s == 5


# -- complaints ----------------------------------------------------------------------------------------------------

COMPLAINTS = {
    "rate_bits = 3": "x.toml: flows[0].rate_bits: unknown key (did you mean rate_bit_s?)",
    'path = ["lonk"]': "",
    "count = 0": "x.toml: flows[0].count: is 0 (a whole number from 1 to 100000)",
    'reactor = "elastc"': 'x.toml: flows[0].reactor.kind: is "elastc": there is no such kind (did you mean elastic?)',
    "reactor = 3": 'x.toml: flows[0].reactor: is 3 (write reactor = "elastic" or a table with a kind)',
    'reactor = {kind = "reno", gain_per_s = 1}': (
        "x.toml: flows[0].reactor.gain_per_s: is no parameter of reno (it has max_bit_s)"
    ),
    "gain_per_s = 1\ngain_of_bound = 1": (
        "x.toml: flows[0].reactor.gain_per_s: gain_of_bound is given too (write only one of them)"
    ),
    "weight = -1": "x.toml: flows[0].weight: is -1: expected `float` >= 0.0 (correct the value)",
    'rtt = "80 parsec"': 'x.toml: flows[0].rtt: is "80 parsec" (a number and one of us, µs, ms, s, min, h)',
    "weight = 1\nwillingness_nanodollars_per_s = 1": (
        "x.toml: flows[0].weight: willingness_nanodollars_per_s is given too (write only one of them)"
    ),
    'reactor = "streaming"': (
        "x.toml: flows.one.reactor.ladder_bit_s: is no ladder (the rates of its encodings, each above the last)"
    ),
    'reactor = "transfer"': "x.toml: flows.one.reactor: says not how much by when (add size_bytes and deadline_s)",
    'reactor = "cbr"': "x.toml: flows.one.rate_bit_s: missing (say how fast it sends)",
    "start_s = 5\nstop_s = 5": "x.toml: flows.one.stop_s: is not after start_s, which is 5 (make it later)",
    "hops = 2": "x.toml: flows[0].hops: path is given too (write only one of them)",
    "[[events]]\nat_s = 3": (
        "x.toml: events[0]: changes nothing (one of price_nanodollars_per_mark, price_factor, weight, "
        "willingness_nanodollars_per_s, rate_bit_s each)"
    ),
    '[[events]]\nat_s = 3\nlink = "l"\nprice_factor = 2': (
        "x.toml: events[0].link: there is no link 'l' (name what changes)"
    ),
    "[[events]]\nat_s = 99\nprice_factor = 2": (
        "x.toml: events[0].at_s: is after the end (less than seconds, which is 60)"
    ),
    "[[links]]\ncapacity = 10_000_000": (
        "x.toml: links[1].capacity: is 10000000, in Mbit/s (write rate_bit_s for a number of bit/s)"
    ),
    '[[links]]\nname = "link"\ncapacity = 1': "x.toml: links: 'link' is there twice (give each a name of its own)",
    "[[links]]": "x.toml: links[1].rate_bit_s: missing (add it; it has no default)",
}


@pytest.mark.parametrize("line", [line for line, said in COMPLAINTS.items() if said])
def test_what_is_wrong_is_one_exact_line(line: str) -> None:
    assert complaint(with_flow(line)) == COMPLAINTS[line]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seconds = ", "x.toml: not TOML: "),
        ('{"links": ', "x.toml: not JSON: "),
        ("", "x.toml: links: missing (write [[links]] for each)"),
        ('links = ["a"]', "x.toml: links: is no list of tables (write [[links]] for each)"),
        ("secnods = 3" + SMALL, "x.toml: secnods: unknown key (did you mean seconds?)"),
        ("seconds = 5\nwarm_up_s = 5" + SMALL, "x.toml: warm_up_s: nothing is left to measure"),
        (SMALL.replace('["link"]', '["lonk"]'), "x.toml: flows.one.path: there is no link 'lonk' (there are link)"),
        (
            'marking = {kind = "rem", theta = 1}' + SMALL,
            "x.toml: links[0].marking.theta: is no parameter of rem (it has gain, alpha, phi, reference_packets,",
        ),
    ],
)
def test_so_are_mistakes_of_the_whole_file(text: str, said: str) -> None:
    assert complaint(text).startswith(said)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8 at byte 0"):
        load(tmp_path / "bytes.toml")


# -- the reference -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs_and_is_in_the_reference(name: str) -> None:
    found = run_file(DIRECTORY / name, overrides=Overrides(seconds=5))
    assert found.name == Path(name).stem
    assert found.title
    assert len(found.flows) == len(load(DIRECTORY / name).flows)
    assert all(flow.rate_bit_s > 0 for flow in found.flows if flow.name != "cross")
    assert f"`{name}`" in REFERENCE.read_text(encoding="utf-8")


def test_the_reference_names_every_key_and_every_kind() -> None:
    said = set(re.findall(r"`([a-z0-9_]+)`", REFERENCE.read_text(encoding="utf-8")))
    inputs = [Experiment, Link, Marking, Flow, Reactor, Event]
    outputs = [
        *(outcome.Results, outcome.FlowResult, outcome.LinkResult, outcome.Phase, outcome.PhaseFlow),
        *(outcome.PhaseLink, outcome.Series),
    ]
    keys = {field for struct in (*inputs, *outputs) for field in struct.__struct_fields__}
    kinds = {kind.value for words in (MarkingKind, ReactorKind, Mode, PathPrice, Pattern) for kind in words}
    assert sorted((keys | kinds) - said) == []


def test_the_reference_has_every_default_of_a_marking() -> None:
    rows = REFERENCE.read_text(encoding="utf-8").splitlines()
    for kind, defaults in MARKING_DEFAULTS.items():
        (row,) = [line for line in rows if line.startswith(f"| `{kind.value}` |")][:1]
        for name, value in defaults.items():
            shown = "1/512" if name == "average_weight" else f"{value:g}"
            assert f"`{name}` {shown}" in row, (kind, name)


def test_every_parameter_is_of_some_kind() -> None:
    of_markings = {name for defaults in MARKING_DEFAULTS.values() for name in defaults}
    assert of_markings == set(Marking.__struct_fields__) - {"kind"}
    assert {name for names in REACTOR_PARAMETERS.values() for name in names} == set(Reactor.__struct_fields__) - {
        "kind"
    }


def test_the_reference_begins_with_an_experiment_that_runs() -> None:
    text = REFERENCE.read_text(encoding="utf-8").split("```toml\n", 1)[1].split("```", 1)[0]
    expected = equilibrium(decode(text))
    assert expected is not None
    assert expected.rates_bit_s.tolist() == pytest.approx([2_500_000, 7_500_000], rel=1e-6)
