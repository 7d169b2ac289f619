"""The gateway's TOML file: the sample loads, and each mistake is one line with the key in it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from billpay.errors import ConfigurationError, EnvironmentFault
from gateway import configuration as c
from gateway.plan import Ceiling, HostRole, MarkingRule, Peer

SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "gateway.toml"

ACME: dict[str, Any] = {"name": "acme", "ceiling": {"packet_nanodollars": 50, "grant_nanodollars": 7}}
SMALL: dict[str, Any] = {
    "gateway": {"name": "X", "as_number": 64512, "state_directory": "/var/lib/x"},
    "links": [
        {"name": "toA", "interface": "a0", "peer": "host", "peer_certificate": "a.pem"},
        {
            "name": "toY",
            "interface": "y0",
            "peer": "gateway",
            "peer_as": 64513,
            "peer_certificate": "y.pem",
            "control_url": "https://10.0.0.2:7414",
        },
        {"name": "out", "interface": "o0", "peer": "legacy"},
    ],
    "routes": [
        {"prefix": "10.0.2.0/24", "alternatives": [{"number": 1, "link": "toY"}, {"number": 2, "link": "out"}]},
        {"prefix": "fd00:2::/64", "alternatives": [{"number": 1, "link": "toY", "via": "fe80::1"}]},
    ],
}


def written(tables: dict[str, Any], directory: Path) -> Path:
    path = directory / "gateway.toml"
    path.write_text(toml(tables), encoding="utf-8")
    return path


def toml(tables: dict[str, Any], prefix: str = "") -> str:
    """Enough of a TOML writer for this file: tables, arrays of tables, strings, numbers, booleans, lists."""
    values = {key: value for key, value in tables.items() if not isinstance(value, dict) and not is_tables(value)}
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in values.items()]
    for key, value in tables.items():
        if isinstance(value, dict):
            lines.append(f"\n[{prefix}{key}]\n{toml(value, f'{prefix}{key}.')}")
        elif is_tables(value):
            lines += [f"\n[[{prefix}{key}]]\n{toml(item, f'{prefix}{key}.')}" for item in value]
    return "\n".join(lines)


def is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def problem(change: Callable[[dict[str, Any]], object], directory: Path) -> str:
    """The one line that a user sees for a file with that change."""
    tables = copy.deepcopy(SMALL)
    change(tables)
    path = written(tables, directory)
    with pytest.raises(ConfigurationError) as raised:
        c.load(path)
    line = str(raised.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_a_small_file_loads_with_defaults(tmp_path: Path) -> None:
    loaded = c.load(written(SMALL, tmp_path))
    assert loaded.gateway.preference == "honour"
    assert loaded.admin_socket == Path("/var/lib/x/admin.sock")
    host = loaded.links[0]
    assert (host.header, host.rate_bit_s, host.marking, host.secretary_certificate) == (True, 0, MarkingRule.NONE, "")
    assert host.tunnel_mtu_bytes == 1500
    assert [item.number for item in loaded.routes[0].alternatives] == [1, 2]


def test_the_sample_loads() -> None:
    loaded = c.load(SAMPLE)
    assert {Peer(link.peer) for link in loaded.links} >= {Peer.HOST, Peer.GATEWAY}
    assert any(link.tunnel_remote for link in loaded.links)
    assert any(len(route.alternatives) > 1 for route in loaded.routes)


def put(*way: Any) -> Callable[[dict[str, Any]], object]:
    """Sets the value at the end of the way."""

    def change(tables: dict[str, Any]) -> None:
        *steps, key, value = way
        at: Any = tables
        for step in steps:
            at = at[step]
        at[key] = value

    return change


def without(*way: Any) -> Callable[[dict[str, Any]], object]:
    def change(tables: dict[str, Any]) -> None:
        *steps, key = way
        at: Any = tables
        for step in steps:
            at = at[step]
        del at[key]

    return change


def both(*changes: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    return lambda tables: [change(tables) for change in changes]


TUNNEL = both(put("links", 1, "tunnel_local", "192.0.2.1"), put("links", 1, "tunnel_remote", "192.0.2.2"))

MISTAKES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    # what the types say
    ("gateway: missing", without("gateway")),
    ("gateway.name: missing", without("gateway", "name")),
    ("gateway.as_number: is 65536", put("gateway", "as_number", 65536)),
    ("gateway.as_number: is 'X'", put("gateway", "as_number", "X")),
    ("gateway.preference: is 'maybe'", put("gateway", "preference", "maybe")),
    ("gateway.currency: is 'dollars'", put("gateway", "currency", "dollars")),
    ("gateway.stat_directory: unknown key", put("gateway", "stat_directory", "/x")),
    ("settlement.interval_s: is 0", put("settlement", {"interval_s": 0})),
    ("tariff.reset_day: is 31", put("tariff", {"reset_day": 31})),
    ("links: missing", without("links")),
    ("links[0].peer: is 'friend'", put("links", 0, "peer", "friend")),
    ("links[0].interface: is ''", put("links", 0, "interface", "")),
    ("links[1].max_amount_nanodollars: is 16777216", put("links", 1, "max_amount_nanodollars", 2**24)),
    (
        "links[1].toll.fixed_nanodollars_per_packet: is -1",
        put("links", 1, "toll", {"fixed_nanodollars_per_packet": -1}),
    ),
    ("links[1].toll.cap: unknown key", put("links", 1, "toll", {"cap": 1})),
    ("links[1].marking: is 'red'", put("links", 1, "marking", "red")),
    ("links[1].tunnel_mtu_bytes: is 100", put("links", 1, "tunnel_mtu_bytes", 100)),
    ("routes[0].alternatives[0].number: is 12", put("routes", 0, "alternatives", 0, "number", 12)),
    ("routes[0].alternatives[0].link: missing", without("routes", 0, "alternatives", 0, "link")),
    # what one key says of another
    ("links[1]: 'toA' is used twice", put("links", 1, "name", "toA")),
    ("links[2]: 'a0' is used twice", put("links", 2, "interface", "a0")),
    ("links[0].peer_certificate: missing", without("links", 0, "peer_certificate")),
    ("links[1].peer_as: missing", without("links", 1, "peer_as")),
    ("links[1].peer_as: 64512 is our own", put("links", 1, "peer_as", 64512)),
    ("links[1].control_url: missing", without("links", 1, "control_url")),
    ("links[1].rate_bit_s: is 0 where toll.congestion is on", put("links", 1, "toll", {"congestion": True})),
    ("links[1].rate_bit_s: is 0 where marking is on", put("links", 1, "marking", "avq")),
    ("links[1].rate_bit_s: is 100", put("links", 1, "rate_bit_s", 100)),
    (
        "links[1].limit_bytes: is 100",
        both(put("links", 1, "rate_bit_s", 10**6), put("links", 1, "limit_bytes", 100)),
    ),
    ("links[0].peer_addresses: 'host a'", put("links", 0, "peer_addresses", ["host a"])),
    ("links[1].tunnel_remote: missing", put("links", 1, "tunnel_local", "192.0.2.1")),
    ("links[1].tunnel_local: missing", put("links", 1, "tunnel_remote", "192.0.2.1")),
    ("links[1].tunnel_remote: 'Y'", both(TUNNEL, put("links", 1, "tunnel_remote", "Y"))),
    ("links[1].tunnel_remote: is IPv6", both(TUNNEL, put("links", 1, "tunnel_remote", "2001:db8::1"))),
    (
        "links[2].tunnel_remote: on a legacy link",
        both(put("links", 2, "tunnel_local", "192.0.2.1"), put("links", 2, "tunnel_remote", "192.0.2.2")),
    ),
    ("links[1].role: on a gateway link", put("links", 1, "role", "never")),
    ("links[2].ceiling: on a legacy link", put("links", 2, "ceiling", {"packet_nanodollars": 1})),
    ("links[0].organisation: no organisation 'acme'", put("links", 0, "organisation", "acme")),
    ("organisations.name: 'acme' is used twice", put("organisations", [ACME, ACME])),
    (
        "links[1].organisation: on a gateway link",
        both(put("organisations", [ACME]), put("links", 1, "organisation", "acme")),
    ),
    ("routes[0].prefix: '10.0.2.0/33'", put("routes", 0, "prefix", "10.0.2.0/33")),
    ("routes[0].prefix: 10.0.2.1/24 has host bits set", put("routes", 0, "prefix", "10.0.2.1/24")),
    ("routes[1].prefix: 10.0.2.0/24 is given twice", put("routes", 1, "prefix", "10.0.2.0/24")),
    ("routes[0].alternatives: a number is used twice", put("routes", 0, "alternatives", 1, "number", 1)),
    ("routes[0].alternatives.link: no link 'toQ'", put("routes", 0, "alternatives", 0, "link", "toQ")),
    ("routes[0].alternatives.via: 'Y'", put("routes", 0, "alternatives", 0, "via", "Y")),
    ("routes[0].alternatives.via: fe80::1 is not IPv4", put("routes", 0, "alternatives", 0, "via", "fe80::1")),
    ("control.listen: '7414'", put("control", {"listen": ["7414"]})),
    ("control.listen: '10.0.0.1:http'", put("control", {"listen": ["10.0.0.1:http"]})),
    ("control.listen: '10.0.0.1:70000'", put("control", {"listen": ["10.0.0.1:70000"]})),
    ("control.listen: 'localhost:7414'", put("control", {"listen": ["localhost:7414"]})),
    ("control.listen: 'fd00::1:7414'", put("control", {"listen": ["fd00::1:7414"]})),
]


@pytest.mark.parametrize(("expected", "change"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_each_mistake_is_one_line_with_its_key(
    expected: str, change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    line = problem(change, tmp_path)
    assert line.startswith(expected), line
    assert re.search(r"\(.+\)$", line), f"it says what to do: {line}"


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        c.load(tmp_path / "gateway.toml")
    (tmp_path / "gateway.toml").write_text("[gateway\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="not TOML"):
        c.load(tmp_path / "gateway.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:7414", ("10.0.0.1", 7414)),
        ("[fd00::1]:7414", ("fd00::1", 7414)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_addresses_to_listen_on(text: str, expected: tuple[str, int]) -> None:
    assert c.listen_address(text) == expected


def test_the_plan_is_what_the_file_says(tmp_path: Path) -> None:
    """On the loopback interface, which is everywhere."""
    tables = copy.deepcopy(SMALL)
    TUNNEL(tables)
    tables["gateway"]["preference"] = "ignore"
    tables["links"] = [tables["links"][1] | {"interface": "lo", "tunnel_mtu_bytes": 1400, "rate_bit_s": 10**6}]
    tables["links"][0] |= {"toll": {"fixed_nanodollars_per_packet": 3, "cap_nanodollars": 9, "congestion": True}}
    tables["routes"] = [{"prefix": "10.0.2.0/24", "alternatives": [{"number": 4, "link": "toY"}]}]
    plan = c.plan_of(c.load(written(tables, tmp_path)))
    (link,) = plan.links
    assert (plan.as_number, plan.honours_preferences) == (64512, False)
    assert (link.name, link.interface_index, link.peer, link.peer_as) == ("toY", 1, Peer.GATEWAY, 64513)
    assert link.tunnel == (bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2)))
    assert (link.tunnel_mtu_bytes, link.rate_bit_s, link.congestion) == (1400, 10**6, True)
    assert (link.toll.fixed_nanodollars_per_packet, link.toll.cap_nanodollars) == (3, 9)
    (route,) = plan.routes
    assert route.prefix == ip_network("10.0.2.0/24")
    assert [(item.number, item.link) for item in route.alternatives] == [(4, "toY")]


@pytest.mark.row("MV-07")
def test_of_a_hosts_ceiling_and_its_organisations_the_lower_one_holds(tmp_path: Path) -> None:
    tables = copy.deepcopy(SMALL)
    tables["organisations"] = [ACME, {"name": "other", "ceiling": {"packet_nanodollars": 1}}]
    own = {"packet_nanodollars": 90, "grant_nanodollars": 3, "grant_nanodollars_per_s": 5}
    tables["links"] = [tables["links"][0] | {"interface": "lo", "organisation": "acme", "ceiling": own}]
    tables["links"][0]["role"] = "mirror"
    tables["routes"] = []
    (link,) = c.plan_of(c.load(written(tables, tmp_path))).links
    assert link.role is HostRole.MIRROR
    assert link.ceiling == Ceiling(packet_nanodollars=50, grant_nanodollars=3, grant_nanodollars_per_s=5)


def test_an_unknown_interface_is_the_environments_fault(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="a0"):
        c.plan_of(c.load(written(SMALL, tmp_path)))
