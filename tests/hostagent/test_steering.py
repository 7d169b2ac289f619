"""What steers an agent, second by second, in a home that is made of values."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from virtual_home import VirtualHome, network

from dataplane.shaping.plan import ShapingPlan
from hostagent import api
from hostagent.configuration import NetworkSection, TariffSection, default_configuration
from hostagent.desk import HistoryQuery, Refused
from hostagent.networks.situation import Situation
from hostagent.sharing.policy import counting_only

USD_PER_GB = 1_000_000
RATE = 20_000_000


@pytest.fixture
def home(tmp_path: Path) -> VirtualHome:
    """A line of 20 Mbit/s each way, as the configuration says."""
    configuration = default_configuration(tmp_path, tmp_path / "socket")
    line = NetworkSection(match="cable home", egress_bit_s=RATE, ingress_bit_s=RATE)
    return VirtualHome(tmp_path, msgspec.structs.replace(configuration, networks=(line,)))


async def act(home: VirtualHome) -> None:
    await home.steering.set_mode(api.ModeChange(mode=api.Mode.ACT))


def weight_of(plan: ShapingPlan, name: str) -> int:
    return next(each.weight for each in plan.classes if each.name == name)


@pytest.mark.expectation(22)
async def test_observing_changes_nothing_and_says_what_it_would_do(home: VirtualHome) -> None:
    assert home.plan == counting_only(home.plan)
    for _ in range(3):
        home.send("/usr/bin/restic", RATE // 8)
        await home.second()
    assert home.plans == []
    decision = next(kind.reason for kind in home.steering.view_kinds() if kind.name == "backup")
    assert decision == "would be: the line is full: its part by worth, weight 2"


async def test_acting_shapes_a_little_below_the_line(home: VirtualHome) -> None:
    await act(home)
    link = home.plan.links[0]
    assert (link.egress_bit_s, link.ingress_bit_s) == (RATE * 97 // 100, RATE * 93 // 100)


@pytest.mark.expectation(22)
async def test_a_trial_goes_back_and_only_what_was_confirmed_is_kept(home: VirtualHome, tmp_path: Path) -> None:
    await home.steering.set_mode(api.ModeChange(mode=api.Mode.ACT, trial_s=60))
    assert home.plan.links[0].egress_bit_s
    assert VirtualHome(tmp_path, home.configuration).steering.said.mode.mode is api.Mode.OBSERVE
    await home.second(seconds=61)
    assert home.plan == counting_only(home.plan)
    assert "nobody confirmed" in home.notices.all()[-1].message
    await act(home)
    assert VirtualHome(tmp_path, home.configuration).steering.said.mode.mode is api.Mode.ACT


@pytest.mark.row("UD-09")
async def test_worths_of_two_programs_swap_their_weights(home: VirtualHome) -> None:
    await act(home)
    for program, worth in (("a", 8), ("b", 2)):
        change = api.WorthChange(program=program, nanodollars_per_mb=worth * USD_PER_GB)
        await home.steering.set_worth(change)
    assert weight_of(home.plan, "word:a") == 4 * weight_of(home.plan, "word:b")
    for program, worth in (("a", 2), ("b", 8)):
        await home.steering.set_worth(api.WorthChange(program=program, nanodollars_per_mb=worth * USD_PER_GB))
    assert 4 * weight_of(home.plan, "word:a") == weight_of(home.plan, "word:b")


async def test_a_word_about_a_kind_moves_the_program_there_until_it_ends(home: VirtualHome) -> None:
    await act(home)
    change = api.WorthChange(program="rsync", kind="call", term=api.Term.TEN_MINUTES)
    await home.steering.set_worth(change)
    home.send("/usr/bin/rsync", 50_000)
    await home.second()
    flow = home.reading().flows[0]  # type: ignore[index]
    assert home.plan.classes[flow.traffic_class].name == "call"
    rules = [rule for rule in home.steering.rules.view() if rule.flows]
    assert [(rule.source, rule.condition, rule.kind) for rule in rules] == [("word", "program rsync", "call")]
    await home.second(seconds=601)
    flow = home.reading().flows[0]  # type: ignore[index]
    assert home.plan.classes[flow.traffic_class].name == "backup"


async def test_a_word_lasts_over_a_restart(home: VirtualHome, tmp_path: Path) -> None:
    await home.steering.set_worth(api.WorthChange(program="rsync", kind="call"))
    again = VirtualHome(tmp_path, home.configuration)
    assert [(word.program, word.kind) for word in again.steering.said.view()] == [("rsync", "call")]


async def test_a_word_holds_until_the_program_has_quit(home: VirtualHome) -> None:
    home.running = frozenset({"/usr/bin/rsync"})
    await home.steering.set_worth(api.WorthChange(program="rsync", kind="call", term=api.Term.UNTIL_QUIT))
    for _ in range(6):
        await home.second()
    assert len(home.steering.said.view()) == 1
    home.running = frozenset()
    for _ in range(6):
        await home.second()
    assert home.steering.said.view() == ()


async def test_a_kind_that_is_not_there_is_refused(home: VirtualHome) -> None:
    with pytest.raises(Refused, match="there are control, default"):
        await home.steering.set_worth(api.WorthChange(program="rsync", kind="nonsense"))


@pytest.mark.row("MV-45")
async def test_the_price_of_a_full_link_is_seen_within_a_second(home: VirtualHome) -> None:
    """The backup fills the line; the call beside it pays what the backup would have given."""
    await act(home)
    for _ in range(4):
        home.send("/usr/bin/restic", RATE // 8)
        home.send("/usr/bin/zoom", 40_000)
        await home.second()
    out = next(price for price in home.steering.view_prices() if price.direction == "out")
    assert out.nanodollars_per_mb == USD_PER_GB // 10
    kinds = {kind.name: kind for kind in home.steering.view_kinds()}
    assert kinds["backup"].spent_nanodollars > kinds["call"].spent_nanodollars > 0


async def test_what_nobody_configured_or_measured_is_not_shaped(tmp_path: Path) -> None:
    home = VirtualHome(tmp_path)
    await act(home)
    assert home.plan.links[0].egress_bit_s is None
    home.send("/usr/bin/restic", RATE)
    await home.second()
    assert all(price.nanodollars_per_mb == 0 for price in home.steering.view_prices())


@pytest.mark.expectation(20)
async def test_links_follow_the_networks(home: VirtualHome) -> None:
    await act(home)
    home.situation = Situation()
    await home.second()
    assert home.plan.links == ()
    home.situation = Situation(networks=(network("cafe", title="Wi-Fi cafe"),))
    await home.second()
    assert [link.egress_bit_s for link in home.plan.links] == [None], "a new network: its rate is not known"
    home.situation = Situation(networks=(network(),))
    await home.second()
    assert home.plan.links[0].egress_bit_s == RATE * 97 // 100


async def test_a_limit_that_somebody_else_has_set_is_taken_over(tmp_path: Path) -> None:
    """Our qdisc stands where his stood: without a rate of ours the line would be wide open."""
    home = VirtualHome(tmp_path)
    home.limits["lo"] = 20_000_000
    home.situation = Situation()
    await home.second()
    home.situation = Situation(networks=(network(),))
    await home.second()
    await act(home)
    assert home.plan.links[0].egress_bit_s == 20_000_000 * 97 // 100


async def test_a_plan_that_stays_is_not_told_again(home: VirtualHome) -> None:
    await act(home)
    told = len(home.plans)
    for _ in range(5):
        await home.second()
    assert len(home.plans) == told


async def test_history_gets_every_byte_of_the_link(home: VirtualHome) -> None:
    async with home.books.running():
        for _ in range(3):
            home.send("/usr/bin/restic", 10_000, received=70)
            home.send("/usr/bin/zoom", 999)
            await home.second()
        query = HistoryQuery(since_unix_s=0, until_unix_s=2**40, by=("program", "kind"))
        rows = await home.books.history(query, ())
    assert [(row.program, row.kind, row.sent_bytes, row.received_bytes) for row in rows] == [
        ("restic", "backup", 30_000, 210),
        ("zoom", "call", 2_997, 0),
    ]


async def test_what_cannot_be_written_holds_and_is_said(home: VirtualHome, tmp_path: Path) -> None:
    (tmp_path / "said.new").mkdir()
    await home.steering.set_worth(api.WorthChange(program="rsync", kind="call"))
    assert len(home.steering.said.view()) == 1
    assert "until the agent ends" in home.notices.all()[-1].message


def test_a_broken_file_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "said.json").write_text("{")
    home = VirtualHome(tmp_path)
    assert "put aside" in home.notices.all()[-1].message
    assert (tmp_path / "said.broken").read_text() == "{"


METERED = TariffSection(bundle_gb=1, monthly_fee=10, currency="EUR")


@pytest.mark.expectation(14)
async def test_a_metered_network_spends_its_plan_like_money(tmp_path: Path) -> None:
    """The backup waits when its share of the day is gone; the call goes on; what was used outlives a restart."""
    section = NetworkSection(match="cable home", egress_bit_s=RATE, metered=True, tariff=METERED)
    configuration = default_configuration(tmp_path, tmp_path / "socket")
    configuration = msgspec.structs.replace(configuration, networks=(section,))
    home = VirtualHome(tmp_path, configuration)
    await act(home)
    async with home.books.running():
        for _ in range(20):
            home.send("/usr/bin/restic", 2_000_000)
            home.send("/usr/bin/zoom", 50_000)
            await home.second()
        kinds = {kind.name: kind for kind in home.steering.view_kinds()}
        assert kinds["backup"].state is api.KindState.WAITS
        assert kinds["backup"].cap_bit_s is not None
        assert kinds["call"].state is api.KindState.RUNS
        assert kinds["call"].cap_bit_s is None
    (budget,) = home.books.view_budgets()
    assert (budget.used, budget.limit, budget.currency) == (20 * 2_050_000, 10**9, "EUR")
    again = VirtualHome(tmp_path, configuration)
    for _ in range(5):
        await again.second()
    assert again.books.view_budgets()[0].used == budget.used
