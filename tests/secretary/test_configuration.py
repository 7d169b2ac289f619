"""The secretary's TOML file: defaults, and each mistake is one line with the key in it."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from billpay.errors import ConfigurationError
from secretary.configuration import Configuration, load
from secretary.settings import flow_rules_of

HEAD = '[secretary]\nname = "a"\nstate_directory = "/var/lib/a"\n'
RULE = '[[rules]]\nname = "web"\n'
FIXED = f"{RULE}amount_nanodollars = 20\n"
BULK = f'{RULE}strategy = "bulk"\nwillingness_nanodollars = 200\ntarget_bit_s = 1000\n'
TIMELY = f'{RULE}strategy = "timely"\nwillingness_nanodollars = 200\n'


def loaded(directory: Path, text: str) -> Configuration:
    path = directory / "secretary.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def test_little_is_required_and_nothing_is_paid_for_by_default(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, HEAD)
    assert configuration.socket == Path("/var/lib/a/secretary.sock")
    assert configuration.budget.day_nanodollars == 10**9
    assert configuration.returns.float_nanodollars == 1_000_000
    assert flow_rules_of(configuration) == ()


def test_the_socket_can_be_elsewhere(tmp_path: Path) -> None:
    assert loaded(tmp_path, HEAD + 'socket = "/run/a/s.sock"\n').socket == Path("/run/a/s.sock")


def test_rules_keep_their_order_and_a_fixed_amount_is_what_it_is_worth(tmp_path: Path) -> None:
    text = HEAD + FIXED + 'destination = ["10.0.0.0/8", "fd00::1"]\nports = [80, 443]\n' + BULK.replace("web", "bulk")
    web, bulk = flow_rules_of(loaded(tmp_path, text))
    assert (web.name, web.amount_nanodollars, web.willingness_nanodollars) == ("web", 20, 20)
    assert web.destinations == (ip_network("10.0.0.0/8"), ip_network("fd00::1"))
    assert web.ports == frozenset({80, 443})
    assert (bulk.strategy, bulk.amount_nanodollars, bulk.willingness_nanodollars) == ("bulk", 0, 200)
    assert (bulk.protocol, bulk.target_bit_s) == (0, 1000)


BAD = {
    "no such table": (HEAD + "[bugdet]\n", "bugdet", "did you mean budget?"),
    "no such key": (HEAD + "[budget]\nday = 5\n", "budget.day", "day_nanodollars"),
    "no state directory": ('[secretary]\nname = "a"\n', "secretary.state_directory", "missing"),
    "a name with a blank": (HEAD.replace('"a"', '"a b"'), "secretary.name", "a b"),
    "dollars": (HEAD + "[budget]\nday_nanodollars = 1.5\n", "budget.day_nanodollars", "1.5"),
    "less than nothing": (HEAD + "[budget]\nday_nanodollars = -1\n", "budget.day_nanodollars", "-1"),
    "more than a packet holds": (
        HEAD + f"{RULE}amount_nanodollars = {2**24}\n",
        "rules[0].amount_nanodollars",
        "16777",
    ),
    "a protocol": (HEAD + FIXED + 'protocol = "sctp"\n', "rules[0].protocol", "sctp"),
    "a strategy": (HEAD + FIXED + 'strategy = "learn"\n', "rules[0].strategy", "learn"),
    "a port": (HEAD + FIXED + "ports = [443, 70000]\n", "rules[0].ports", "70000"),
    "a host name": (HEAD + FIXED + 'destination = ["::/0", "example.org"]\n', "rules[0].destination[1]", "example.org"),
    "host bits": (HEAD + FIXED + 'destination = ["10.0.0.1/8"]\n', "rules[0].destination[0]", "10.0.0.1/8"),
    "a moment": (HEAD + FIXED + "lifetime_s = 5\n", "rules[0].lifetime_s", "5"),
    "twice the same": (HEAD + FIXED + FIXED, "rules[1].name", "twice"),
    "fixed at nothing": (HEAD + RULE, "rules[0].amount_nanodollars", "is 0"),
    "bulk for nothing": (HEAD + BULK.replace("200", "0"), "rules[0].willingness_nanodollars", "is 0"),
    "bulk without an aim": (HEAD + BULK.replace("1000", "0"), "rules[0].target_bit_s", "is 0"),
    "probes that nothing sends": (HEAD + FIXED + "probes_nanodollars = 9\n", "rules[0].probes_nanodollars", "'timely'"),
    "probes below one": (HEAD + TIMELY + "probes_nanodollars = 199\n", "rules[0].probes_nanodollars", "is 199: less"),
    "timely for nothing": (HEAD + TIMELY.replace("200", "0"), "rules[0].willingness_nanodollars", "is 0"),
    "a grant below a packet": (HEAD + FIXED + "grant_nanodollars = 19\n", "rules[0].grant_nanodollars", "19"),
    "a burst below a packet": (HEAD + BULK + "burst_nanodollars = 199\n", "rules[0].burst_nanodollars", "199"),
    "not TOML": (HEAD + "[budget\n", "", "not TOML"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, case: str) -> None:
    text, key, named = BAD[case]
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'secretary.toml'}: {key}")
    assert caught.value.key.startswith(key)
    assert named in line
    assert len(line.splitlines()) == 1
