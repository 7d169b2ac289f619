"""Snapshots of the local API as tests need them."""

from __future__ import annotations

from hostagent import api


def flow(name: str, *, rate: int = 0, amount: int = 0, active: bool = True, reason: str = "because") -> api.Flow:
    return api.Flow(
        flow=name,
        rule="rule" if amount else "",
        strategy="fixed" if amount else "unpaid",
        rate_bit_s=rate,
        packets=10,
        bytes=1000,
        amount_nanodollars=amount,
        toll_nanodollars=11 if amount else None,
        spent_nanodollars=amount * 10,
        returned_nanodollars=amount * 3,
        goodput_bit_s=rate if amount else None,
        marks=0,
        path="AS64512:1 AS64513:1" if amount else "",
        reason=reason,
        active=active,
    )


def link(neighbour: str = "X") -> api.LinkAccount:
    return api.LinkAccount(
        neighbour=neighbour,
        interface="to-X",
        state="agreed",
        fingerprint="0" * 64,
        sent_nanodollars=166_300,
        received_nanodollars=59_909,
        peer_received_nanodollars=166_300,
        peer_sent_nanodollars=59_909,
        lost_nanodollars=0,
        owed_nanodollars=6_391,
        settled_nanodollars=100_000,
        settlements=5,
        last_interval=12,
    )


def snapshot(
    *,
    flows: tuple[api.Flow, ...] = (),
    losses: tuple[api.LossLine, ...] = (),
    settlements: tuple[api.SettlementLine, ...] = (),
    warnings: tuple[api.Warning, ...] = (),
    sequence: int = 1,
) -> api.Snapshot:
    return api.Snapshot(
        sequence=sequence,
        unix_s=1_700_000_000,
        status=api.Status(
            name="A",
            version="0",
            health=api.Health.DEGRADED if warnings else api.Health.OK,
            engine="nfqueue",
            started_unix_s=1_700_000_000,
            warnings=warnings,
            secretary="connected",
            spent_today_nanodollars=166_300,
            budget_today_nanodollars=10**9,
        ),
        flows=flows,
        accounts=api.Accounts(links=(link(),), losses=losses, settlements=settlements, share_nanodollars=0),
        paths=api.Paths(),
    )


# --- a household, as screens show it ------------------------------------------------------------------------------

NOW_UNIX_S = 1_794_400_000  # 2026-11-11 15:06:40 in UTC
DAY_S = 86_400
FINGERPRINT = "3f9ac21b77e0485dbe6634a1907cd2f85b11e89a6f02d3c47788a5e9f1b06d42"


def sent(
    program: str,
    kind: str,
    destination: str,
    *,
    rate: int = 0,
    received: int = 0,
    worth: int | None = None,
    price: int | None = 1_200_000,
    task: str = "",
    reason: str = "",
    marks: int = 0,
    port: int = 443,
    amount: int = 0,
    active: bool = True,
) -> api.Flow:
    """A flow of a program on the household's laptop."""
    source = 40_000 + sum(map(ord, program + destination)) % 20_000
    return api.Flow(
        flow=f"{'udp' if port == 3478 else 'tcp'} 192.0.2.7:{source} → {destination}:{port}",
        rule="transfer" if amount else "",
        strategy="bulk" if amount else "unpaid",
        rate_bit_s=rate,
        packets=rate // 8_000,
        bytes=rate * 9,
        amount_nanodollars=amount,
        toll_nanodollars=amount * 55 // 100 if amount else None,
        spent_nanodollars=amount * 8_300,
        returned_nanodollars=amount * 2_990,
        goodput_bit_s=rate if amount else None,
        marks=marks,
        path="AS64512:1 AS64513:2" if amount else "",
        reason=reason,
        active=active,
        program=program,
        traffic_class=kind,
        received_bytes=received * 9,
        received_bit_s=received,
        task=task,
        destination=destination,
        worth_nanodollars_per_mb=worth,
        price_nanodollars_per_mb=price,
        network="Wi-Fi Home",
    )


FLOWS = (
    sent("zoom", "call", "203.0.113.20", rate=1_210_000, received=1_840_000, worth=20_000_000, port=3478,
         reason="worth more than the price: goes first, at least 256 kbit/s"),
    sent("restic", "backup", "198.51.100.9", rate=12_700_000, received=96_000, worth=100_000, task="photos", marks=412,
         reason="worth less than the price: takes what the others leave, 12.7 Mbit/s now"),
    sent("firefox", "web", "2001:db8:40::15", rate=84_000, received=6_310_000, worth=5_000_000, marks=3,
         reason="worth more than the price: its share of the link is 20 of 100"),
    sent("curl", "default", "203.0.113.77", rate=320_000, worth=1_000_000, amount=20, marks=1,
         reason="pays 20 n$ a packet: the other way of AS 64512 costs 10.9 n$ more"),
    sent("dnf", "update", "198.51.100.80", received=240_000, worth=200_000,
         reason="waits: the data plan is for worthier traffic until tomorrow"),
    sent("ssh", "control", "192.0.2.1", worth=50_000_000, port=22, active=False, reason="silent"),
)  # fmt: skip


def kind_of(
    name: str,
    title: str,
    worth: int,
    weight: int,
    *,
    out: int = 0,
    received: int = 0,
    cap: int | None = None,
    state: api.KindState = api.KindState.RUNS,
    minimum: int = 0,
    can_wait: bool = False,
    reason: str = "",
) -> api.Kind:
    return api.Kind(
        name=name,
        title=title,
        worth_nanodollars_per_mb=worth,
        weight=weight,
        minimum_bit_s=minimum,
        can_wait=can_wait,
        sent_bit_s=out,
        received_bit_s=received,
        sent_bytes=out * 300,
        received_bytes=received * 300,
        cap_bit_s=cap,
        state=state,
        spent_nanodollars=out // 8 * 300 * worth // 10**9,
        reason=reason,
    )


KINDS = (
    kind_of("control", "DNS, DHCP, time, shells", 50_000_000, 500, out=2_000, received=3_000, minimum=64_000),
    kind_of("call", "calls and meetings", 20_000_000, 200, out=1_210_000, received=1_840_000, minimum=256_000),
    kind_of("game", "games", 15_000_000, 150, minimum=128_000),
    kind_of("web", "web and mail", 5_000_000, 50, out=84_000, received=6_310_000, minimum=256_000),
    kind_of("default", "everything else", 1_000_000, 10, out=320_000),
    kind_of("update", "updates of programs", 200_000, 2, received=240_000, can_wait=True, cap=32_000,
            state=api.KindState.WAITS, reason="the data plan is for worthier traffic until tomorrow"),
    kind_of("backup", "backups and torrents", 100_000, 1, out=12_700_000, received=96_000, can_wait=True,
            cap=12_700_000, state=api.KindState.SLOWED, reason="takes what the others leave"),
)  # fmt: skip


def program(flow_: api.Flow, *, user_id: int = 1000) -> api.Program:
    return api.Program(
        name=flow_.program,
        kind="program",
        executable=f"/usr/bin/{flow_.program}",
        unit="user@1000.service",
        container="",
        task=flow_.task,
        user_id=user_id,
        sent_bytes=flow_.rate_bit_s * 300,
        received_bytes=flow_.received_bit_s * 300,
        sent_packets=flow_.rate_bit_s // 40,
        received_packets=flow_.received_bit_s // 40,
        sent_bit_s=flow_.rate_bit_s,
        received_bit_s=flow_.received_bit_s,
        received_ce_packets=flow_.marks,
        traffic_class=flow_.traffic_class,
        worth_nanodollars_per_mb=flow_.worth_nanodollars_per_mb,
        decision=flow_.reason,
    )


HOME = api.Network(
    key="wifi:home",
    title="Wi-Fi Home",
    kind="wifi",
    interface="wlan0",
    active=True,
    router="192.0.2.1",
    metered=False,
    metered_because="NetworkManager says so",
    connectivity="full",
    egress_bit_s=20_000_000,
    ingress_bit_s=100_000_000,
    rate_source="measured",
    tariff="flat, 29.90 USD a month",
    first_seen_unix_s=NOW_UNIX_S - 40 * DAY_S,
    last_seen_unix_s=NOW_UNIX_S,
    gateway=api.Gateway(kind="embedded", trust="own", state="agreed", since_unix_s=NOW_UNIX_S - 7_200),
)
PHONE = api.Network(
    key="hotspot:phone",
    title="Hotspot Phone",
    kind="hotspot",
    interface="wlan0",
    active=False,
    router="192.0.2.129",
    metered=True,
    metered_because="the phone's DHCP vendor option",
    connectivity="full",
    egress_bit_s=8_000_000,
    ingress_bit_s=None,
    rate_source="measured",
    tariff="1 GB a month, then 5 USD per GB",
    first_seen_unix_s=NOW_UNIX_S - 30 * DAY_S,
    last_seen_unix_s=NOW_UNIX_S - 2 * DAY_S,
)
CAMPUS = api.Network(
    key="cable:campus",
    title="cable on eth0 (router 198.51.100.1)",
    kind="cable",
    interface="eth0",
    active=False,
    router="198.51.100.1",
    connectivity="portal",
    tariff="20 n$ a packet when busy",
    first_seen_unix_s=NOW_UNIX_S - 3 * DAY_S,
    last_seen_unix_s=NOW_UNIX_S - DAY_S,
    gateway=api.Gateway(
        kind="found",
        name="gateway.campus.example",
        url="https://198.51.100.1:7414",
        fingerprint=FINGERPRINT,
        trust="new",
        how="named by DHCP",
        since_unix_s=NOW_UNIX_S - 3 * DAY_S,
        state="waits for your word",
    ),
)

BUDGETS = (
    api.Budget(
        name="payments",
        unit="nanodollars",
        period="day",
        limit=2 * 10**9,
        used=420_000_000,
        resets_unix_s=NOW_UNIX_S + 32_000,
        burn_per_day=670_000_000,
        forecast=668_000_000,
        flat_nanodollars_per_month=14_200_000_000,
    ),
    api.Budget(
        name="data plan of Hotspot Phone",
        unit="bytes",
        period="month",
        limit=10**9,
        used=520_000_000,
        resets_unix_s=NOW_UNIX_S + 19 * DAY_S + 32_000,
        hard=True,
        burn_per_day=47_300_000,
        forecast=1_430_000_000,
        noticed_percent=50,
        flat_nanodollars_per_month=7_150_000_000,
        reason="updates and backups wait",
    ),
)

ALTERNATIVES = tuple(
    api.PathAlternative(
        destination="203.0.113.77",
        as_name=as_name,
        alternative=alternative,
        chosen=chosen,
        toll_nanodollars=toll,
        delay_ns=delay,
        age_s=age,
        reason=reason,
    )
    for as_name, alternative, chosen, toll, delay, age, reason in (
        ("AS64512", 1, True, 11, 18_400_000, 4, "the cheapest that is quick enough"),
        ("AS64512", 2, False, 22, 17_900_000, 65, "costs 10.9 n$ a packet more"),
        ("AS64513", 1, False, None, None, None, "not measured yet"),
        ("AS64513", 2, True, 4, 6_100_000, 4, "the only one that answers"),
    )
)

NOTICES = (
    api.Notice(number=1, unix_s=NOW_UNIX_S - 7_200, code="network", message="on Wi-Fi Home, priced by our own gateway"),
    api.Notice(
        number=2, unix_s=NOW_UNIX_S - 900, code="budget", message="half of the data plan of Hotspot Phone is used"
    ),
)
QUESTIONS = (
    api.Question(number=7, flow="tcp 192.0.2.7:51100 → 203.0.113.5:6881", program="qbittorrent", traffic_class="backup",
                 seconds_left=24),
    api.Question(number=8, flow="udp 192.0.2.7:5353 → 198.51.100.44:27015", program="cs2", traffic_class="game",
                 seconds_left=9),
)  # fmt: skip

NOVEMBER = api.Statement(
    month="2026-11",
    currency="USD",
    opening_nanodollars=12 * 10**9,
    topped_up_nanodollars=5 * 10**9,
    spent_nanodollars=1_234_567_890,
    fees_nanodollars=12_300_000,
    closing_nanodollars=15_753_132_110,
    lines=(
        api.StatementLine(what="restic", bytes=8_210_000_000, nanodollars=821_000_000),
        api.StatementLine(what="firefox", bytes=3_470_000_000, nanodollars=347_000_890),
        api.StatementLine(what="zoom", bytes=912_000_000, nanodollars=66_567_000),
    ),
    fee_lines=(api.StatementLine(what="gateway.campus.example", bytes=0, nanodollars=12_300_000),),
    internal_nanodollars=402_118_000,
    bytes=12_592_000_000,
    flat_nanodollars_per_month=14_200_000_000,
)


SESSIONS = (
    api.Session(
        session="9d41c07be2a34f5f8be1c0a7735f6e02",
        number=212,
        flow=FLOWS[1].flow,
        program="restic",
        task="offsite",
        kind="elastic",
        sends=True,
        pays=True,
        adapts=False,
        verdict="go",
        target_bit_s=12_800_000,
        rate_bit_s=12_700_000,
        source="receiver marks",
        billed=True,
        nanodollars_per_mark=1_000,
        marked_ppm=39_700,
        price_nanodollars_per_mb=26_500,
        packets=318_000,
        marks=12_625,
        spent_nanodollars=12_625_000,
        spent_today_nanodollars=31_400_000,
        session_budget_nanodollars=50_000_000,
        day_budget_nanodollars=200_000_000,
        reason="a second may cost 42 µUSD, and does at this rate",
        since_unix_s=NOW_UNIX_S - 300,
    ),
    api.Session(
        session="27f05ce8a6d94b1c9e3d52f81b60a4d7",
        number=38,
        flow=FLOWS[3].flow,
        program="curl",
        task="delivery",
        kind="transfer",
        sends=True,
        pays=True,
        adapts=False,
        verdict="pause",
        target_bit_s=64_000,
        rate_bit_s=63_800,
        source="classic ECN",
        billed=False,
        nanodollars_per_mark=1_000,
        marked_ppm=612_000,
        price_nanodollars_per_mb=408_000,
        marks=511,
        spent_nanodollars=511_000,
        spent_today_nanodollars=511_000,
        session_budget_nanodollars=20_000_000,
        worth_ppm=1_500_000,
        reason="a megabyte costs 408 µUSD, more than the ceiling of 300 µUSD: the least rate until it is cheaper",
        since_unix_s=NOW_UNIX_S - 95,
    ),
)
"""A backup whose far end counts marks for us, and a transfer to somebody who does not."""


def household(
    *,
    mode: api.Mode = api.Mode.OBSERVE,
    trial_seconds_left: int | None = None,
    flows: tuple[api.Flow, ...] = FLOWS,
    questions: tuple[api.Question, ...] = QUESTIONS,
    warnings: tuple[api.Warning, ...] = (),
    unix_s: int = NOW_UNIX_S,
) -> api.Snapshot:
    """A laptop at home: a call, a backup, a page, an update that waits, a campus whose gateway is new."""
    return api.Snapshot(
        sequence=1,
        unix_s=unix_s,
        status=api.Status(
            name="laptop",
            version="0.1.0",
            health=api.Health.DEGRADED if warnings else api.Health.OK,
            engine="ebpf",
            started_unix_s=NOW_UNIX_S - 7_200,
            engine_reason="the kernel is 6.1 and lets us load programs",
            limits=(api.Limit(ability="incoming traffic is not slowed", cause="no ifb module in this kernel"),),
            warnings=warnings,
            secretary="connected",
            spent_today_nanodollars=420_000_000,
            budget_today_nanodollars=2 * 10**9,
            mode=mode,
            trial_seconds_left=trial_seconds_left,
            network="Wi-Fi Home",
            cpu_ppm=4_200,
            memory_bytes=46_000_000,
        ),
        flows=flows,
        accounts=api.Accounts(
            links=(link("gateway.campus.example"),),
            losses=(
                api.LossLine(
                    link="gateway.campus.example", direction="out", interval=7, nanodollars=20, kind="loss"
                ),
            ),
            settlements=(
                api.SettlementLine(
                    link="gateway.campus.example", number=1, debtor="us", nanodollars=100_000, reason="threshold"
                ),
            ),
            refunded_nanodollars=59_909,
        ),
        paths=api.Paths(alternatives=ALTERNATIVES),
        programs=tuple(program(flow_) for flow_ in flows[:100]),
        links=(
            api.Link(
                interface="wlan0",
                sent_bytes=4_294_000_000,
                received_bytes=2_540_000_000,
                sent_bit_s=14_310_000,
                received_bit_s=8_490_000,
                sent_packets=3_584_000,
                received_packets=2_122_000,
                interface_sent_packets=3_584_000,
                interface_received_packets=2_122_003,
                egress_bit_s=20_000_000,
                ingress_bit_s=100_000_000,
            ),
        ),
        questions=questions,
        kinds=KINDS,
        prices=(
            api.Price(interface="wlan0", direction="out", nanodollars_per_mb=1_200_000, source="embedded gateway",
                      used_ppm=716_000, reason="a backup fills the uplink"),
            api.Price(interface="wlan0", direction="in", nanodollars_per_mb=0, source="embedded gateway",
                      used_ppm=85_000, reason="nobody is in anybody's way"),
        ),
        networks=(HOME, PHONE, CAMPUS),
        budgets=BUDGETS,
        worths=(
            api.Worth(
                program="restic", kind="backup", nanodollars_per_mb=None, term=api.Term.TODAY, seconds_left=32_000
            ),
        ),
        notices=NOTICES,
        rules=(
            api.Rule(number=1, source="word", condition="program is restic", kind="backup", flows=1),
            api.Rule(number=2, source="kinds", condition="program is one of 14 for backups", kind="backup", flows=0),
            api.Rule(number=3, source="kinds", condition="program is one of 18 for the web", kind="web", flows=41),
        ),
        sessions=SESSIONS,
    )  # fmt: skip


def many_flows(count: int, turn: int) -> tuple[api.Flow, ...]:
    """`count` flows whose rates change with each turn."""
    return tuple(
        sent(
            f"program{number % 97}",
            KINDS[number % len(KINDS)].name,
            f"203.0.113.{number % 250}",
            rate=(number * 7_919 + turn * 104_729) % 20_000_000,
            received=(number * 6_271 + turn * 15_485) % 9_000_000,
            worth=1_000_000 * (number % 20),
            port=1_024 + number,
            marks=number + turn,
            reason=f"worth more than the price: its share of the link is {number % 50} of 100",
        )
        for number in range(count)
    )


def _figure(value: int, uncertainty: int, age_s: int | None = 4, source: str = "measured") -> api.Figure:
    return api.Figure(value=value, uncertainty=uncertainty, age_s=age_s, source=source)


WAYS = (
    api.Way(
        destination="203.0.113.20",
        way="AS64512:2 AS64514:1",
        wants="timely",
        chosen=True,
        share_ppm=900_000,
        delay_ns=_figure(21_000_000, 300_000),
        jitter_ns=_figure(400_000, 90_000),
        loss_ppm=_figure(1_200, 500),
        marks_ppm=_figure(0, 100),
        throughput_bit_s=_figure(8_000_000, 200_000, 9),
        forward_toll_picodollars=_figure(3_000, 0),
        return_toll_picodollars=_figure(2_000, 100, None, "campus"),
        cost_picodollars=24_000,
        reason="costs 12 n$ less than AS64512:1 AS64513:1",
    ),
    api.Way(
        destination="203.0.113.20",
        way="AS64512:1 AS64513:1",
        wants="timely",
        chosen=False,
        share_ppm=100_000,
        delay_ns=_figure(25_000_000, 0, None, "promised"),
        forward_toll_picodollars=_figure(11_000, 200, 130),
        cost_picodollars=36_000,
        reason="12 n$ dearer, ± 1 n$",
    ),
    api.Way(
        destination="2001:db8:4:5:6:7:8:9",
        way="",
        wants="default",
        chosen=True,
        share_ppm=1_000_000,
        delay_ns=_figure(9_400_000, 60_000, 1),
        cost_picodollars=9_400,
        reason="the only way that is known",
    ),
)
MAP = api.NetworkMap(
    network="Wi-Fi Home",
    nodes=(
        api.MapNode(name="here", kind="here"),
        api.MapNode(
            name="AS64512",
            kind="as",
            description="203.0.113.0/24, serial 7, until 14:00",
            alternatives=(
                api.MapAlternative(number=1, title="by Y", available=True, promised_delay_ns=25_000_000),
                api.MapAlternative(number=2, title="by Z", available=True, promised_delay_ns=5_000_000),
            ),
        ),
        api.MapNode(name="AS64513", kind="as", finding="promises 5 ms, measured 41 ms ± 0.4 ms in 60 probes"),
        api.MapNode(name="AS64514", kind="as"),
        api.MapNode(name="203.0.113.20", kind="destination"),
    ),
    links=(
        api.MapLink(source="here", target="AS64512", alternative=None, used=True, delay_ns=21_000_000, age_s=4),
        api.MapLink(source="AS64512", target="AS64513", alternative=1, used=False, toll_picodollars=11_000, age_s=130),
        api.MapLink(source="AS64512", target="AS64514", alternative=2, used=True, delay_ns=21_000_000, age_s=4),
        api.MapLink(source="AS64513", target="203.0.113.20", alternative=1, used=False, age_s=130),
        api.MapLink(source="AS64514", target="203.0.113.20", alternative=1, used=True, delay_ns=21_000_000, age_s=4),
    ),
)
QUALITY = tuple(
    api.QualityRow(
        from_unix_s=NOW_UNIX_S - NOW_UNIX_S % 300 - 300 * number,
        seconds=300,
        destination="203.0.113.20",
        way="AS64512:2 AS64514:1",
        samples=60,
        delay_ns=21_000_000 + number * 150_000,
        delay_spread_ns=900_000,
        loss_ppm=1_200,
        toll_picodollars=3_000,
    )
    for number in range(12)
)

# --- paths that are hard to show ----------------------------------------------------------------------------------

LONG_WAYS = (
    *WAYS,
    api.Way(
        destination="2001:db8:1234:5678:9abc:def0:1234:5678",
        way="AS4200000001:12 AS4200000002:3 AS4200000003:14 AS4200000004:2 AS4200000005:1",
        wants="default",
        chosen=True,
        share_ppm=4_000,
        delay_ns=_figure(184_300_000, 12_400_000, 86_400),
        loss_ppm=_figure(0, 900, 86_400),
        forward_toll_picodollars=_figure(1_234_567_890, 1_000_000),
        cost_picodollars=1_419_000_000,
        reason="takes 0.4 % to find out: nobody was there for a day, and it may be 31 n$ cheaper than the best known "
        "one, ± 44 n$; a probe of it costs 1.24 m$, which is more than is left of this hour's 1 m$",
    ),
    api.Way(
        destination="2001:db8:1234:5678:9abc:def0:1234:5678",
        way="AS4200000001:11 AS4200000009:1",
        wants="default",
        chosen=False,
        share_ppm=996_000,
        reason="",
    ),
)
"""IPv6, five ISPs with long numbers, long reasons, and a way of which nothing is known."""

LARGE_MAP = api.NetworkMap(
    network="cable on eth0 (router 2001:db8::1)",
    nodes=(
        api.MapNode(name="here", kind="here"),
        *(
            api.MapNode(
                name=f"AS{64_500 + number}",
                kind="as",
                alternatives=tuple(
                    api.MapAlternative(
                        number=choice, title=f"by <peer> {choice}", available=choice != 3, promised_delay_ns=7_000_000
                    )
                    for choice in range(1, number % 4 + 1)
                ),
                finding="fakes congestion: marks 40 % at 3 % load" if number == 7 else "",
            )
            for number in range(17)
        ),
        *(
            api.MapNode(name=f"2001:db8:{number:x}:5678:9abc:def0:1234:5678", kind="destination")
            for number in range(12)
        ),
    ),
    links=tuple(
        api.MapLink(
            source=source,
            target=target,
            alternative=choice,
            used=number % 3 == 0,
            delay_ns=None if number % 5 == 4 else 3_000_000 * (number + 1),
            toll_picodollars=None if number % 4 == 3 else 1_100 * number,
            age_s=number * 7,
        )
        for number, (source, target, choice) in enumerate(
            [
                ("here", "AS64500", None),
                ("here", "AS64501", None),
                *((f"AS{64_500 + near}", f"AS{64_500 + near * 2 + more}", more) for near in range(1, 8)
                  for more in (1, 2) if near * 2 + more < 17),
                *((f"AS{64_500 + near}", f"AS{64_500 + near + 1}", 3) for near in range(0, 15, 2)),
                ("AS64510", "AS64501", 4),  # a circle
                *((f"AS{64_505 + number % 11}", f"2001:db8:{number:x}:5678:9abc:def0:1234:5678", 1)
                  for number in range(12)),
                ("AS64500", "2001:db8:0:5678:9abc:def0:1234:5678", 2),  # past all layers
                ("AS64516", "2001:db8:1:5678:9abc:def0:1234:5678", 2),
                ("AS64514", "2001:db8:2:5678:9abc:def0:1234:5678", 2),
            ]
        )
    ),
)  # fmt: skip
"""30 nodes: a circle, links past layers, long names, one who is accused."""

HOUSEHOLD_WAYS = (
    api.Way(
        destination="203.0.113.77",
        way="AS64512:1 AS64513:2",
        wants="default",
        chosen=True,
        share_ppm=950_000,
        delay_ns=_figure(18_400_000, 300_000),
        jitter_ns=_figure(700_000, 60_000),
        loss_ppm=_figure(1_200, 500),
        marks_ppm=_figure(3_100, 900),
        throughput_bit_s=_figure(320_000, 12_000, 9),
        forward_toll_picodollars=_figure(11_000, 100),
        return_toll_picodollars=_figure(4_200, 300),
        cost_picodollars=33_600,
        reason="costs 10.5 n$ less than AS64512:2 AS64513:2",
    ),
    api.Way(
        destination="203.0.113.77",
        way="AS64512:2 AS64513:2",
        wants="default",
        chosen=False,
        share_ppm=50_000,
        delay_ns=_figure(17_900_000, 800_000, 65),
        forward_toll_picodollars=_figure(22_000, 1_100, 65),
        return_toll_picodollars=_figure(4_200, 0, None, "campus"),
        cost_picodollars=44_100,
        reason="10.5 n$ dearer, ± 1.2 n$; measured 65 s ago",
    ),
)
"""The ways that the household's alternatives make."""

HOUSEHOLD_MAP = api.NetworkMap(
    network="Wi-Fi Home",
    nodes=(
        api.MapNode(name="here", kind="here"),
        api.MapNode(
            name="AS64512",
            kind="as",
            description="203.0.113.0/24, serial 7, until 16:00",
            alternatives=(
                api.MapAlternative(number=1, title="by land", available=True, promised_delay_ns=12_000_000),
                api.MapAlternative(number=2, title="by sea", available=True, promised_delay_ns=11_000_000),
            ),
        ),
        api.MapNode(name="AS64513", kind="as", finding="fakes congestion: marks 40 % at 3 % load"),
        api.MapNode(name="203.0.113.77", kind="destination"),
    ),
    links=(
        api.MapLink(source="here", target="AS64512", alternative=None, used=True, delay_ns=18_400_000,
                    toll_picodollars=11_000, age_s=4),
        api.MapLink(source="AS64512", target="AS64513", alternative=1, used=True, delay_ns=18_400_000,
                    toll_picodollars=11_000, age_s=4),
        api.MapLink(source="AS64512", target="AS64513", alternative=2, used=True, delay_ns=17_900_000,
                    toll_picodollars=22_000, age_s=65),
        api.MapLink(source="AS64513", target="203.0.113.77", alternative=2, used=True, delay_ns=18_400_000,
                    toll_picodollars=11_000, age_s=4),
    ),
)  # fmt: skip
