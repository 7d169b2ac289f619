"""Terms that change while a gateway runs: what is taken in, what needs a restart, and what packets meet afterwards."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_network import TO_B, Gateway, X, fixed, grant_for, header_of, paying, plain, plan_x, to_gateway

from billpay.errors import ConfigurationError, LocalProtocolError
from billpay.header import ISP_WRITTEN, Slot, user_oad
from billpay.tolls import TollSchedule
from dataplane.command import MESSAGE_LIMIT_BYTES
from gateway import configuration as c
from gateway.commands import AskReport, Done, Report, RouteTerms, SetTerms, TollTerms
from gateway.publishing import descriptions_of, tariff_of
from gateway.terms import ROUTES_A_COMMAND, changes, commands_for
from lab.configurations import to_toml

SECOND_NS = 1_000_000_000
SMALL: dict[str, Any] = {
    "gateway": {"name": "X", "as_number": 64512, "state_directory": "/var/lib/x"},
    "links": [
        {"name": "toA", "interface": "a0", "peer": "host", "peer_certificate": "a.pem"},
        {"name": "toY", "interface": "y0", "peer": "legacy"},
        {"name": "out", "interface": "o0", "peer": "legacy"},
    ],
    "routes": [
        {"prefix": "10.0.2.0/24", "alternatives": [{"number": 1, "link": "toY"}, {"number": 2, "link": "out"}]},
        {"prefix": "fd00:2::/64", "alternatives": [{"number": 1, "link": "toY", "via": "fe80::1"}]},
    ],
}


def loaded(directory: Path, tables: dict[str, Any]) -> c.Configuration:
    path = directory / "gateway.toml"
    path.write_text(to_toml(tables), encoding="utf-8")
    return c.load(path)


def changed(**routes_or_links: Any) -> dict[str, Any]:
    tables = copy.deepcopy(SMALL)
    tables["links"][1]["toll"] = {"fixed_nanodollars_per_packet": 2}
    tables["routes"][0]["default"] = 2
    tables["routes"][0]["alternatives"][0] |= {"title": "dear", "delay_ms": 3, "toll_nanodollars": 1}
    tables["gateway"]["preference"] = "ignore"
    return tables | routes_or_links


def test_what_has_changed_is_named(tmp_path: Path) -> None:
    before = loaded(tmp_path, SMALL)
    assert changes(before, before) == ()
    after = loaded(tmp_path, changed())
    assert changes(before, after) == ("gateway.preference", "links.toY.toll", "routes.10.0.2.0/24")
    tables = copy.deepcopy(SMALL)
    tables["gateway"]["engine"] = "nfqueue"
    assert changes(before, loaded(tmp_path, tables)) == ("gateway.engine",)


@pytest.mark.parametrize("section", ["gateway", "links", "routes", "settlement"])
def test_what_needs_a_restart_is_refused_by_name(section: str, tmp_path: Path) -> None:
    tables = changed()
    if section == "gateway":
        tables["gateway"]["name"] = "Q"
    elif section == "links":
        tables["links"][2]["rate_bit_s"] = 10_000_000
    elif section == "routes":
        tables["routes"][0]["alternatives"].reverse()
    else:
        tables["settlement"] = {"interval_s": 3}
    with pytest.raises(LocalProtocolError, match=f"{section}: .* restart"):
        changes(loaded(tmp_path, SMALL), loaded(tmp_path, tables))


def test_a_default_must_be_there_and_one_alternative_available(tmp_path: Path) -> None:
    tables = copy.deepcopy(SMALL)
    tables["routes"][0]["default"] = 3
    with pytest.raises(ConfigurationError, match=r"routes\[0\].default: no alternative 3"):
        loaded(tmp_path, tables)
    tables = copy.deepcopy(SMALL)
    for alternative in tables["routes"][0]["alternatives"]:
        alternative["available"] = False
    with pytest.raises(ConfigurationError, match="all are withdrawn"):
        loaded(tmp_path, tables)


def test_commands_stay_small_however_many_routes_there_are(tmp_path: Path) -> None:
    tables = copy.deepcopy(SMALL)
    two = [{"number": 1, "link": "toY"}, {"number": 2, "link": "out"}]
    count = ROUTES_A_COMMAND + 3
    tables["routes"] = [{"prefix": f"2001:db8:{k:x}:ffff::/64", "alternatives": two} for k in range(count)]
    commands = list(commands_for(loaded(tmp_path, tables)))
    assert sum(len(command.routes) for command in commands) == count
    assert [len(command.tolls) for command in commands] == [3, 0]
    assert all(len(msgspec.json.encode(command)) < MESSAGE_LIMIT_BYTES // 2 for command in commands)


@pytest.mark.row("BP-22")
def test_both_documents_say_what_the_file_promises_not_what_is_true(tmp_path: Path) -> None:
    configuration = loaded(tmp_path, changed())
    about: dict[str, Any] = {"issuer": "0" * 64, "serial": 7, "now_unix_s": 1_790_000_000, "congestion": {}}
    tolls = {toll.link: toll.fixed_nanodollars_per_packet for toll in tariff_of(configuration, **about).tolls}
    assert tolls == {"toA": 0, "toY": 2, "out": 0}
    (description,) = descriptions_of(configuration, **about)
    one, other = description.alternatives
    assert (one.title, one.delay_ns, one.toll_nanodollars, one.available) == ("dear", 3_000_000, 1, True)
    assert (other.delay_ns, other.toll_nanodollars) == (None, 0)


def test_a_withdrawn_alternative_is_published_as_such(tmp_path: Path) -> None:
    tables = copy.deepcopy(SMALL)
    tables["routes"][0]["alternatives"][1]["available"] = False
    (description,) = descriptions_of(
        loaded(tmp_path, tables), issuer="0" * 64, serial=7, now_unix_s=1_790_000_000, congestion={}
    )
    assert [item.available for item in description.alternatives] == [True, False]


# --- the packet core --------------------------------------------------------------------------------------------------


def gateway_x() -> Gateway:
    gateway = Gateway(plan_x())
    gateway.agree()
    packet = plain()
    gateway.open("toA", grant_for(packet))
    return gateway


def terms(
    fixed_nanodollars: int = 1, *, default: int = 0, withdrawn: tuple[int, ...] = (), honours: bool = True
) -> SetTerms:
    toll = TollTerms(link="toY", schedule=fixed(fixed_nanodollars), congestion=False, target_utilisation_ppm=950_000)
    routes = tuple(RouteTerms(prefix=prefix, default=default, withdrawn=withdrawn) for prefix in TO_B)
    return SetTerms(honours_preferences=honours, tolls=(toll,), routes=routes)


def sent(gateway: Gateway, *slots: Slot) -> tuple[int, tuple[Slot, ...]]:
    """Of a packet with 20 n$: what it carries on, and what the ISP wrote."""
    (out,) = gateway.deliver("toA", paying(plain(), 20, *slots))
    header = header_of(out.payload)
    assert header is not None
    return header.amount, header.slots


def test_a_toll_holds_from_the_next_packet_on_and_nothing_is_lost() -> None:
    gateway = gateway_x()
    assert sent(gateway)[0] == 19
    assert gateway.ask(terms(6)) == Done()
    assert sent(gateway)[0] == 14
    assert gateway.link_count("toY", "retained_nanodollars") == 7
    gateway.assert_conserved()


def test_what_was_carried_over_stays_owed() -> None:
    gateway = gateway_x()
    half = dataclasses.replace(fixed(0), fixed_picodollars_per_byte=4)  # 128 bytes: 512 picodollars
    toll = TollTerms(link="toY", schedule=half, congestion=False, target_utilisation_ppm=950_000)
    assert gateway.ask(SetTerms(honours_preferences=True, tolls=(toll,))) == Done()
    assert sent(gateway)[0] == 20
    assert gateway.ask(SetTerms(honours_preferences=True, tolls=(toll,))) == Done()
    assert sent(gateway)[0] == 19, "twice a half is a whole"


def test_another_default_takes_unpaid_packets_too() -> None:
    gateway = gateway_x()
    (before,) = gateway.deliver("toA", plain())
    assert gateway.egress_of(before) == "toY"
    gateway.ask(terms(default=2))
    (after,) = gateway.deliver("toA", plain())
    assert gateway.egress_of(after) == "toZ"
    assert sent(gateway, user_oad(X))[1] == (Slot(X, ISP_WRITTEN | 0b11, 2),)
    gateway.ask(terms())
    assert sent(gateway, user_oad(X))[1] == (Slot(X, ISP_WRITTEN | 0b11, 1),)


@pytest.mark.row("BP-22", "BP-25")
def test_a_withdrawn_alternative_is_in_no_bitmap_and_wishing_for_it_changes_nothing() -> None:
    gateway = gateway_x()
    gateway.ask(terms(withdrawn=(2,)))
    assert sent(gateway, user_oad(X, choice=2))[1] == (Slot(X, ISP_WRITTEN | 0b01, 1),)
    gateway.ask(terms(withdrawn=(1,)))
    assert sent(gateway, user_oad(X))[1] == (Slot(X, ISP_WRITTEN | 0b10, 2),)


@pytest.mark.row("BP-26")
def test_an_isp_may_stop_to_follow_wishes_and_start_again() -> None:
    gateway = gateway_x()
    gateway.ask(terms(honours=False))
    assert sent(gateway, user_oad(X, choice=2))[1][0].choice == 1
    gateway.ask(terms())
    assert sent(gateway, user_oad(X, choice=2))[1][0].choice == 2


def test_what_waits_in_a_queue_leaves_as_it_was_decided_and_a_congestion_toll_goes_on() -> None:
    plan = plan_x()
    slow = to_gateway("toY", 2, 64513, toll=fixed(1), rate_bit_s=100_000, limit_bytes=100_000, congestion=True)
    gateway = Gateway(dataclasses.replace(plan, links=(plan.links[0], slow, plan.links[2])))
    gateway.agree()
    gateway.open("toA", grant_for(plain(), cap=10**9, burst=10**9))
    gateway.deliver("toA", *(paying(plain(), 20) for _ in range(60)))
    waiting = gateway.sums().waiting
    assert waiting
    toll = TollTerms(link="toY", schedule=TollSchedule(), congestion=True, target_utilisation_ppm=500_000)
    gateway.ask(SetTerms(honours_preferences=True, tolls=(toll,)))
    assert gateway.sums().waiting == waiting
    gateway.plane.advance(5 * SECOND_NS)
    assert gateway.sums().waiting == 0
    gateway.assert_conserved()
    gateway.core.links["toY"].toll.congestion_picodollars = 5000
    off = TollTerms(link="toY", schedule=fixed(3), congestion=False, target_utilisation_ppm=950_000)
    gateway.ask(SetTerms(honours_preferences=True, tolls=(toll,)))
    report = gateway.ask(AskReport())
    assert isinstance(report, Report)
    assert {link.name: link.congestion_picodollars for link in report.links}["toY"] == 5000
    gateway.ask(SetTerms(honours_preferences=True, tolls=(off,)))
    report = gateway.ask(AskReport())
    assert isinstance(report, Report)
    assert {link.name: link.congestion_picodollars for link in report.links}["toY"] == 0
