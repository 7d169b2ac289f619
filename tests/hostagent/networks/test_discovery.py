"""Where a gateway is looked for, in which order, and how seldom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostagent.networks.discovery import (
    BACK_OFF_NS,
    JITTER_NS,
    AskLink,
    AskName,
    Endpoint,
    How,
    Rounds,
    Step,
    Try,
    endpoints_of,
    is_local,
    plan,
    well_known_endpoints,
)
from hostagent.networks.dns_messages import Record, RecordType
from hostagent.networks.leases import Lease
from hostagent.networks.situation import ActiveNetwork, Connectivity, NetworkKind, Router

SECOND = 1_000_000_000
NETWORK = ActiveNetwork(
    key="k",
    aliases=("k",),
    is_settled=True,
    title="cable on eth0",
    kind=NetworkKind.CABLE,
    interface="eth0",
    index=3,
    is_primary=True,
    metrics=(100, 1024),
    routers=(
        Router(family=4, address="192.0.2.1", mac="02:00:00:00:00:01"),
        Router(family=6, address="fe80::1", mac="02:00:00:00:00:01"),
    ),
    prefixes=("192.0.2.0/24", "2001:db8::/64"),
    addresses=("192.0.2.7", "2001:db8::7", "fe80::7"),
)
LEASE = Lease(
    source="dhclient",
    domains=("campus.example", "local"),
    name_servers=("9.9.9.9", "192.0.2.53"),
    gateway=("192.0.2.9", 7414),
)


def shown(steps: tuple[Step, ...]) -> list[str]:
    words = []
    for step in steps:
        match step:
            case Try(endpoint=endpoint):
                words.append(endpoint.url)
            case AskLink(families=families):
                words.append(f"link {families}")
            case AskName(domain=domain, server=server):
                words.append(f"{domain} at {server}")
    return words


@pytest.mark.expectation(20)
def test_the_order() -> None:
    steps = plan(replace(NETWORK, lease=LEASE), configured=[("198.51.100.5", 7414)]).steps
    assert shown(steps) == [
        "https://198.51.100.5:7414",
        "link (4, 6)",
        "https://192.0.2.9:7414",
        "campus.example at 192.0.2.53",  # 9.9.9.9 is not on the link
        "https://192.0.2.1:7414",
        "https://[fe80::1%eth0]:7414",
    ]


def test_a_network_of_one_family_is_asked_in_that_family() -> None:
    six = replace(NETWORK, addresses=("fe80::7",), routers=NETWORK.routers[1:], prefixes=())
    assert shown(plan(six).steps) == ["link (6,)", "https://[fe80::1%eth0]:7414"]


def test_nothing_is_sent_into_a_captive_portal() -> None:
    portal = plan(replace(NETWORK, connectivity=Connectivity.PORTAL), configured=[("192.0.2.5", 1)])
    assert portal.steps == ()
    assert "captive portal" in portal.because


def test_a_metered_network_gets_one_attempt() -> None:
    metered = replace(NETWORK, metered=True, metered_because="a mobile connection")
    found = plan(metered)
    assert shown(found.steps) == ["https://192.0.2.1:7414"]
    assert found.because == "metered (a mobile connection): one attempt only"
    assert shown(plan(replace(metered, lease=LEASE)).steps) == ["https://192.0.2.9:7414"]
    assert shown(plan(metered, configured=[("192.0.2.5", 7414)]).steps) == ["https://192.0.2.5:7414"]
    assert shown(plan(replace(metered, routers=())).steps) == ["link (4, 6)"]


def test_a_vpn_alone_is_not_searched() -> None:
    assert plan(replace(NETWORK, kind=NetworkKind.VPN)).steps == ()


@pytest.mark.parametrize("address", ["192.0.2.200", "2001:db8::99", "fe80::99", "fe80::99%eth0"])
def test_what_is_on_the_link(address: str) -> None:
    assert is_local(address, NETWORK)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "192.0.3.1", "2001:db8:1::1", "127.0.0.1", "::1", "224.0.0.251", "0.0.0.0", "127.0.0.53"]
)
def test_nobody_else_is_spoken_to(address: str) -> None:
    assert not is_local(address, NETWORK)


def record(name: str, text: str, kind: RecordType, port: int = 0, priority: int = 0) -> Record:
    return Record(name=name, type=kind, text=text, port=port, priority=priority)


def test_endpoints_of_an_announcement() -> None:
    records = [
        record("b._billpay._tcp.local", "r.local", RecordType.SRV, 7414, 5),
        record("a._billpay._tcp.local", "q.local", RecordType.SRV, 7415, 9),
        record("x._http._tcp.local", "r.local", RecordType.SRV, 80),
        record("r.local", "fe80::1", RecordType.AAAA),
        record("r.local", "192.0.2.1", RecordType.A),
        record("r.local", "203.0.113.1", RecordType.A),  # elsewhere
    ]
    found = endpoints_of(records, NETWORK, source="192.0.2.66", how=How.ANNOUNCED)
    assert [(each.name, each.url) for each in found] == [
        ("b", "https://192.0.2.1:7414"),
        ("b", "https://[fe80::1%eth0]:7414"),
        ("a", "https://192.0.2.66:7415"),  # no address: it is the one who says so
    ]


def test_an_answer_cannot_send_us_to_many_doors() -> None:
    records = [record("a._billpay._tcp.local", "r.local", RecordType.SRV, port) for port in range(1, 100)]
    found = endpoints_of(records, NETWORK, source="192.0.2.66", how=How.ANNOUNCED)
    assert len(found) == 4


def test_the_well_known_name() -> None:
    records = [
        record("billpay.campus.example", "192.0.2.9", RecordType.A),
        record("billpay.campus.example", "198.51.100.9", RecordType.A),
        record("other.campus.example", "192.0.2.10", RecordType.A),
    ]
    assert [each.url for each in well_known_endpoints(records, NETWORK, domain="campus.example")] == [
        "https://192.0.2.9:7414"
    ]


def test_a_url_for_each_kind_of_address() -> None:
    def url(address: str) -> str:
        return Endpoint(address=address, interface="eth0", how=How.ROUTER).url

    assert url("192.0.2.1") == "https://192.0.2.1:7414"
    assert url("2001:db8::1") == "https://[2001:db8::1]:7414"
    assert url("fe80::1") == "https://[fe80::1%eth0]:7414"


# -- when ------------------------------------------------------------------------------------------------------------


def test_an_arrival_is_searched_once_after_a_moment() -> None:
    rounds = Rounds(draw=lambda: 0.0)
    rounds.see(["k"], 0)
    assert rounds.start(JITTER_NS[0] - 1) == ()
    assert rounds.start(JITTER_NS[0]) == ("k",)
    assert rounds.start(JITTER_NS[0] + SECOND) == ()
    rounds.end("k", is_last=True, now_ns=2 * SECOND)
    rounds.see(["k"], 10**15)
    assert rounds.start(10**15) == ()


def test_a_search_without_a_find_is_repeated_more_and_more_seldom() -> None:
    rounds = Rounds(draw=lambda: 0.5)
    now_ns, waits = 0, []
    rounds.see(["k"], now_ns)
    now_ns = JITTER_NS[1]
    for _ in range(6):
        assert rounds.start(now_ns) == ("k",)
        rounds.end("k", is_last=False, now_ns=now_ns)
        step_ns = SECOND
        wait_ns = 0
        while not _would_start(rounds, now_ns + wait_ns):
            wait_ns += step_ns
        waits.append(wait_ns)
        now_ns += wait_ns
    assert waits == [*BACK_OFF_NS, BACK_OFF_NS[-1], BACK_OFF_NS[-1]]


def _would_start(rounds: Rounds, now_ns: int) -> bool:
    return any(each.is_here and each.is_waiting and each.due_ns <= now_ns for each in rounds._rounds.values())


def test_who_leaves_and_comes_back_does_not_ask_more_often() -> None:
    rounds = Rounds(draw=lambda: 0.0)
    rounds.see(["k"], 0)
    assert rounds.start(SECOND) == ("k",)
    rounds.end("k", is_last=False, now_ns=SECOND)
    for second in range(2, 40):
        rounds.see(["k"] if second % 2 else [], second * SECOND)
        assert rounds.start(second * SECOND) == ()
    rounds.see(["k"], 50 * SECOND)
    assert rounds.start(50 * SECOND) == ("k",)  # 60 s less a quarter after the last one


def test_a_return_after_a_find_is_searched_again() -> None:
    rounds = Rounds(draw=lambda: 0.0)
    rounds.see(["k"], 0)
    rounds.start(SECOND)
    rounds.end("k", is_last=True, now_ns=SECOND)
    rounds.see([], 3600 * SECOND)
    rounds.see(["k"], 7200 * SECOND)
    assert rounds.start(7200 * SECOND) == ()
    assert rounds.start(7201 * SECOND) == ("k",)


def test_a_person_asks_now() -> None:
    rounds = Rounds(draw=lambda: 0.0)
    rounds.see(["k"], 0)
    rounds.start(SECOND)
    rounds.end("k", is_last=True, now_ns=SECOND)
    rounds.again("k", 5 * SECOND)
    rounds.again("unknown", 5 * SECOND)
    assert rounds.start(5 * SECOND) == ("k",)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=400))
def test_a_host_that_travels_for_ever_remembers_little(visits: list[int]) -> None:
    rounds = Rounds(draw=lambda: 0.0)
    for second, visit in enumerate(visits):
        rounds.see([str(visit)], second * SECOND)
        for key in rounds.start(second * SECOND):
            rounds.end(key, is_last=False, now_ns=second * SECOND)
    assert len(rounds._rounds) <= 65
