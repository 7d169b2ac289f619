"""A week of a laptop's owner, on a clock that we turn: where it is, what runs, what is said, and what goes wrong.

`Week.run` goes look by look through a timetable and checks after each one what must hold at any time; the first thing
that does not hold ends it.  Two looks are `step_s` apart; whatever the agent does every so many seconds it does every
so many looks here, so that a day in steps of ten seconds meets everything that a day in seconds does.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from virtual_account import GatewayAccount
from virtual_home import VirtualClock, network
from virtual_laptop import INDEXES, OWN_ADDRESS, Laptop, Looks
from virtual_person import Person

from hostagent.books import BOOK_EVERY_S
from hostagent.configuration import Configuration, NetworkSection, TariffSection, default_configuration
from hostagent.desk import HistoryQuery
from hostagent.history.store import FLUSH_S
from hostagent.networks.known import KnownNetwork
from hostagent.networks.situation import ActiveNetwork, Change, ChangeKind, NetworkKind, Situation, Tunnel

RATE_BIT_S = 20_000_000
CAFE_BIT_S = 8_000_000
"""Which nobody configured."""
BUNDLE_BYTES = 10**9
NANODOLLARS_PER_BYTE_BEYOND = 5
PHONE = "phone"
ALL_TIMES = HistoryQuery(since_unix_s=0, until_unix_s=2**40, step="all", by=("program", "kind", "network"), limit=10**6)
BETWEEN_CHECKS_S = 3600
AGAIN_S = 120
"""A plan that comes back so soon, and nothing had happened outside, oscillates."""


@dataclass(frozen=True, slots=True)
class App:
    """What a program wants, in bytes a second; it sends in some seconds only."""

    executable: str
    sent: int
    received: int
    busy_percent: int = 100


APPS = {
    "call": App("/usr/bin/zoom", 180_000, 180_000),
    "web": App("/usr/bin/firefox", 20_000, 400_000, 30),
    "mail": App("/usr/bin/thunderbird", 5_000, 20_000, 5),
    "update": App("/usr/lib/packagekitd", 4_000, 1_500_000),
    "backup": App("/usr/bin/restic", 3_000_000, 30_000),
    "game": App("/usr/bin/minetest", 12_000, 30_000),
    "film": App("/usr/bin/vlc", 10_000, 700_000),
}
VPN = App("/usr/sbin/openvpn", 0, 0)

HOME = network("home", interface="eth0", index=INDEXES["eth0"], title="cable home")
HOME_WIFI = network(
    "home-wifi", interface="wlan0", index=INDEXES["wlan0"], title="Wi-Fi home", kind=NetworkKind.WIFI, is_primary=False
)
CAFE = network(
    "cafe",
    interface="wlan0",
    index=INDEXES["wlan0"],
    title="Wi-Fi cafe",
    kind=NetworkKind.WIFI,
    addresses=(str(ip_address(OWN_ADDRESS)),),
)
HOTSPOT = network(
    PHONE, interface="wlan0", index=INDEXES["wlan0"], title="Wi-Fi phone", kind=NetworkKind.HOTSPOT, metered=True
)
TUNNEL = Tunnel(interface="tun0", kind="tun", underlay="eth0", families=(4,))
PLACES: dict[str, tuple[ActiveNetwork, ...]] = {
    "home": (HOME,),
    "two networks": (HOME, HOME_WIFI),
    "cafe": (CAFE,),
    "phone": (HOTSPOT,),
    "train": (),
}

DAY = """
07:00 run web; 07:00 run mail; 07:02 say web forever; 07:10 act; 07:30 run backup; 08:20 quit backup; 08:40 restart
08:45 go train; 09:00 go phone; 09:10 run call; 09:18 kill; 09:25 quit call; 09:26 go train; 09:35 measure
09:40 go cafe
10:00 observe; 10:05 try 300; 10:20 act; 10:25 run backup; 10:30 kill; 10:45 quit backup; 10:50 clock 95
11:05 say backup ten minutes; 11:20 say mail one hour; 11:30 reload; 11:55 run update
12:00 go phone; 12:10 run call; 12:15 reload; 12:20 kill; 12:30 run backup; 12:50 quit call; 12:58 quit backup
13:00 go home; 13:00 reload; 13:01 go two networks; 13:02 run backup; 13:09 go home; 13:30 quit update; 13:35 measure
13:40 run game; 13:45 say game until quit; 13:55 quit game; 13:58 quit backup; 14:00 vpn up; 14:10 run call
14:40 try 240; 14:41 kill; 14:45 act; 15:00 quit call; 15:05 run film; 16:00 vpn down
17:10 quit web; 17:12 run web; 17:15 quit film; 17:20 say backup until quit; 17:30 crash of the gateway
18:00 go train; 18:20 go phone; 18:32 kill; 18:40 go train; 19:00 go home; 19:05 run call; 19:30 run backup
19:50 say call forever; 20:10 forget call; 20:30 engine; 20:55 clock -120; 21:00 quit call; 21:05 run game
21:10 run film
21:30 run update; 22:00 quit update; 22:30 say film today; 22:35 measure; 22:40 quit backup; 23:00 quit game
23:20 quit film
"""
MEASURED_EACH_DAY = 3
FULL_DISK = """
15:30 disk full; 15:40 say mail one hour; 15:50 forget web; 16:10 kill; 16:20 restart; 16:30 observe; 16:40 act
17:00 disk has room; 17:06 kill
"""
BROKEN_HISTORY = "18:36 kill and break history"
SHORT_EVENING = "23:29 try 120; 23:30 sleep; 31:00 wake"
LONG_EVENING = """
23:40 go phone; 23:45 run call; 24:15 quit call; 24:20 go home; 25:30 run film; 27:30 kill
27:50 quit film; 27:59 try 120; 28:00 sleep; 31:00 wake
"""
"""After 24:00 comes the next day."""


def parsed(text: str) -> Iterator[tuple[int, str]]:
    """Minutes after midnight, and what happens."""
    for part in text.replace("\n", ";").split(";"):
        if part.strip():
            time, _, what = part.strip().partition(" ")
            hour, minute = time.split(":")
            yield int(hour) * 60 + int(minute), what


def timetable(first: date, days: int, zone: ZoneInfo, random_: random.Random) -> list[tuple[int, str]]:
    """By true time, somewhen in its minute. Every second evening is long; on one day the disk is full, and after it
    the history's file breaks.
    """
    found = []
    for number in range(days + 1):
        day = first + timedelta(days=number)
        text = DAY + (LONG_EVENING if number % 2 == 0 else SHORT_EVENING)
        text += FULL_DISK if number == days // 2 else ""
        text += BROKEN_HISTORY if number == min(days - 1, days // 2 + 1) else ""
        for minutes, what in parsed(text):
            on = day + timedelta(days=minutes // 1440)
            at = datetime(on.year, on.month, on.day, minutes % 1440 // 60, minutes % 60, tzinfo=zone)
            found.append((int(at.timestamp()) + random_.randrange(60), what))
    return sorted(found, key=lambda event: event[0])


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds on to."""

    blocks: int
    objects: Counter[str]
    descriptors: int

    @classmethod
    def now(cls) -> Footprint:
        gc.collect()
        objects = Counter(type(each).__qualname__ for each in gc.get_objects())
        return cls(sys.getallocatedblocks(), objects, len(os.listdir("/proc/self/fd")))

    def growth(self, later: Footprint) -> str:
        """What there is more of, most first, for whoever has to look for a leak."""
        more = {name: count - self.objects[name] for name, count in later.objects.items()}
        most = sorted(more.items(), key=lambda each: -each[1])[:12]
        return ", ".join(f"{count:+} {name}" for name, count in most if count)


class Week:
    """`start`: a local date; it begins at noon. `reset_day`: of the phone's plan."""

    def __init__(
        self,
        directory: Path,
        *,
        seed: int,
        zone: ZoneInfo,
        start: date,
        days: int,
        step_s: int,
        reset_day: int,
        looks: Looks,
        pay_every_s: int = 10,
    ) -> None:
        self.random = random.Random(seed)
        self._zone, self._step_s, self._reset_day, self._pay_every_s = zone, step_s, reset_day, pay_every_s
        self._timetable = deque(timetable(start, days, zone, self.random))
        noon = int(datetime(start.year, start.month, start.day, 12, tzinfo=zone).timestamp())
        self.true_s, self._end_s = noon, noon + days * 86_400
        self._timetable.extendleft(reversed([(noon, each) for each in ("go home", "run web", "run mail", "act")]))
        while self._timetable[4][0] < noon:
            del self._timetable[4]
        clock = VirtualClock(now_unix_s=noon, here=zone)
        self.laptop = Laptop(
            directory,
            _configuration(directory, reset_day),
            clock,
            looks,
            metered=PHONE,
            next_reset=lambda unix_s: _next_reset(unix_s, reset_day, zone),
        )
        self.account = GatewayAccount(directory / "gateway", self.random)
        self.person = Person(self.laptop, step_s)
        self._first_unix_s = noon
        self._vpn = False
        self._sleeps = False
        self._apps: set[str] = set()
        self._online = False
        self._arrivals: set[str] = set()
        self._next_payment_s = self._next_check_s = noon
        self._recent: deque[int] = deque(maxlen=FLUSH_S + BOOK_EVERY_S)
        self._disk_recovers_at_look = 0
        self.looks_made = 0
        self.happened: Counter[str] = Counter()
        self.notices: Counter[tuple[str, str]] = Counter()
        self._notices_seen = (0, 0)
        self.plans_by_day: Counter[str] = Counter()
        self.quiet_plans_by_day: Counter[str] = Counter()
        self._plan_history: deque[tuple[int, bytes]] = deque(maxlen=3)
        self.footprints: list[Footprint] = []
        self.paid = 0

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        await self.laptop.start()
        while self.true_s < self._end_s:
            outside = await self._events()
            if self._sleeps:
                continue
            self._traffic()
            self._pay()
            await self.laptop.look(self._step_s)
            self.true_s += self._step_s
            self.looks_made += 1
            self._check_look(outside=outside)
            if self.true_s >= self._next_check_s:
                self._next_check_s = self.true_s + BETWEEN_CHECKS_S
                await self._check_books()
        await self._check_books()
        await self._check_statements()
        await self.laptop.agent.end()
        self.account.settle(self.laptop.clock.unix_s())
        self.account.sides.close()

    async def _events(self) -> bool:
        """All that are due. Whether any was."""
        due = False
        while self._timetable and self._timetable[0][0] <= self.true_s:
            _, what = self._timetable.popleft()
            due = True
            self.happened[what] += 1
            await self._happen(what)
        if self._sleeps:
            asleep = min(self._timetable[0][0] if self._timetable else self._end_s, self._end_s) - self.true_s
            self.laptop.clock.pass_s(asleep, asleep=True)
            self.true_s += asleep
        return due

    async def _happen(self, what: str) -> None:
        verb, _, rest = what.partition(" ")
        match verb:
            case "go":
                self._go(rest)
            case "run" | "quit":
                self._run_or_quit(verb, rest)
            case "say" | "forget" | "act" | "observe" | "try":
                app, _, term = rest.partition(" ")
                program = APPS[app].executable.rpartition("/")[2] if app in APPS else rest
                await self.person.does(verb, program, term)
            case "vpn":
                self._vpn = rest == "up"
                self._arrive(
                    self.laptop.next_situation.networks, ChangeKind.TUNNEL_UP if self._vpn else ChangeKind.TUNNEL_DOWN
                )
            case "sleep" | "wake":
                self._sleeps = verb == "sleep"
            case "clock":
                self.laptop.clock.now_unix_s += int(rest)
            case "disk":
                self.laptop.disk_is_full = rest == "full"
                self._disk_recovers_at_look = self.looks_made + FLUSH_S + BOOK_EVERY_S
            case "reload":
                steering = self.laptop.agent.steering
                steering.reload(self.laptop.configuration_now, self.laptop.directory / "hostagent.toml")
                await steering.replan()
            case "engine":
                self.laptop.restart_engine()
            case "restart":
                await self.laptop.restart()
                self.person.agent_began()
            case "kill":
                await self._kill(break_history=bool(rest))
            case "measure":
                self.footprints.append(Footprint.now())
            case "crash":
                self.account.sides.restart(self.account.sides.answerer)
            case _:
                raise AssertionError(what)

    async def _kill(self, *, break_history: bool) -> None:
        if break_history:
            await self.laptop.kill(_break_history)
            self.laptop.history_is_gone()
        else:
            await self.laptop.kill()
        self.account.sides.restart(self.account.sides.caller)
        self.person.agent_began()

    def _go(self, place: str) -> None:
        self._arrive(PLACES[place], ChangeKind.ARRIVED if PLACES[place] else ChangeKind.OFFLINE)
        if self._online and place not in ("home", "two networks"):
            self.account.leave()
        self._online = place in ("home", "two networks")

    def _arrive(self, networks: tuple[ActiveNetwork, ...], kind: ChangeKind) -> None:
        title = networks[0].title if networks else "no network"
        change = Change(kind=kind, message=f"{kind.value}: {title}")
        vpn = self._vpn and HOME in networks
        self.laptop.next_situation = Situation(networks=networks, tunnels=(TUNNEL,) if vpn else (), changes=(change,))

    def _run_or_quit(self, verb: str, name: str) -> None:
        if verb == "run":
            self._apps.add(name)
            self.laptop.running.add(APPS[name].executable)
        elif name in self._apps:
            self._apps.discard(name)
            self._move(APPS[name], 1)
            self.laptop.quit(APPS[name].executable)

    # --- traffic and payments ---------------------------------------------------------------------------------------

    def _traffic(self) -> None:
        """Since the last look. What is worth less gets what the others leave of the line, or of what we shape to."""
        links, networks = self.laptop.agent.plan.links, self.laptop.situation.networks
        shaped = next(
            (link.egress_bit_s for link in links if networks and link.interface == networks[0].interface), None
        )
        line = CAFE_BIT_S if CAFE in networks else RATE_BIT_S
        left = room = min(line, shaped or line) // 8 * self._step_s
        for name in APPS:
            if name in self._apps and self.random.randrange(100) < APPS[name].busy_percent:
                left -= self._move(APPS[name], self._step_s, left)
        self.laptop.line_is_full = room - left >= line // 8 * self._step_s * 98 // 100

    def _move(self, app: App, seconds: int, room: int = 10**12) -> int:
        """What went over the line of home."""
        situation = self.laptop.situation
        if not situation.networks:
            return 0
        last = situation.networks[-1]
        vpn = bool(situation.tunnels) and app is not APPS["game"]
        interface = "tun0" if vpn else last.interface if app is APPS["backup"] else situation.networks[0].interface
        cap = self._cap_of(app)
        sent, received = (
            min(self.random.randrange(rate // 2, rate + 1), cap) * seconds for rate in (app.sent, app.received)
        )
        sent, received = min(sent, max(0, room)), min(received, RATE_BIT_S // 8 * 93 // 100 * seconds)
        if self.random.random() < seconds / 300 or app.executable not in self.laptop.remotes:
            self.laptop.remotes[app.executable] = bytes((192, 0, 2, self.random.randrange(1, 30)))
        self.laptop.move(app.executable, interface, self.laptop.remotes[app.executable], sent, received)
        if vpn:
            self.laptop.move(VPN.executable, "eth0", bytes((198, 51, 100, 1)), sent * 105 // 100, received * 105 // 100)
        return sent

    def _cap_of(self, app: App) -> int:
        """Bytes a second: of the class that holds the program back now."""
        agent = self.laptop.agent
        kind = self.laptop.kinds_seen.get(app.executable, "default")
        caps = [each.cap_bit_s for each in agent.plan.classes if each.name == kind and each.cap_bit_s is not None]
        return min(caps) // 8 if caps else 10**9

    def _pay(self) -> None:
        """A call at home pays its gateway."""
        if self._online and "call" in self._apps:
            amount = self.random.randrange(1, 20_000)
            self.account.pay(amount)
            self.laptop.pay("zoom", amount)
            self.paid += amount
        if self.true_s >= self._next_payment_s:
            self._next_payment_s = self.true_s + self._pay_every_s
            self.account.interval(
                self.laptop.clock.unix_s(), online=self._online, host_disk_is_full=self.laptop.disk_is_full
            )

    # --- what must hold ---------------------------------------------------------------------------------------------

    def _check_look(self, *, outside: bool) -> None:
        self.person.check()
        self._recent.append(self.laptop.bytes_of_look)
        if not self.laptop.disk_is_full and self.looks_made > self._disk_recovers_at_look:
            history, plan = self.laptop.only_in_memory
            assert max(history, plan) <= sum(self._recent), "a kill would take more than is said"
        self._check_plans(outside=outside)
        self._see_notices()

    def _check_plans(self, *, outside: bool) -> None:
        day = datetime.fromtimestamp(self.true_s, self._zone).date().isoformat()
        for plan in self.laptop.told:
            self.plans_by_day[day] += 1
            encoded = msgspec.json.encode(plan)
            quiet = not (outside or self.person.something_ended)
            self.quiet_plans_by_day[day] += quiet
            if quiet and len(self._plan_history) == 3:
                at, before = self._plan_history[-2]
                assert encoded != before or self.true_s - at > AGAIN_S, "the plan goes to and fro"
            self._plan_history.append((self.true_s, encoded))
        assert len(self.laptop.told) <= 2 + outside
        self.laptop.told.clear()
        if outside:
            self._plan_history.clear()

    def _see_notices(self) -> None:
        life, number = self._notices_seen
        if life != self.laptop.life_number:
            life, number = self.laptop.life_number, 0
        for notice in self.laptop.agent.notices.all():
            if notice.number > number:
                self.notices[notice.code, notice.message.replace(str(self.laptop.directory), "…")] += 1
                number = notice.number
        self._notices_seen = (life, number)

    async def _check_books(self) -> None:
        """History by program and kind, by link, and the data plan, against what was sent; money too."""
        laptop, books = self.laptop, self.laptop.agent.books
        rows = await books.history(ALL_TIMES, ())
        laptop.asked()
        ledger = laptop.ledger
        found = {(row.program, row.kind, row.network): (row.sent_bytes, row.received_bytes) for row in rows}
        wrong = {
            place: (found.get(place), ledger.moved.get(place))
            for place in found.keys() | ledger.moved.keys()
            if found.get(place, (0, 0)) != ledger.moved.get(place, (0, 0))
        }
        assert not wrong, f"{self._now()}: history says, and it was: {wrong}"
        assert sum(row.priced_nanodollars for row in rows) == ledger.priced_nanodollars
        assert sum(row.spent_nanodollars for row in rows) == ledger.spent
        assert books._history is not None
        for key, moved in ledger.by_network().items():
            counts = await books._history.moved(key, 0, 2**40)
            assert (counts.sent_bytes, counts.received_bytes) == moved
        book = books._books.get(PHONE)
        if book is not None:
            used = book.usage(laptop.clock.unix_s()).used_bytes
            assert used == laptop.plan.bytes, f"{self._now()}: the data plan says {used}, it was {laptop.plan.bytes}"
        self.account.check()

    def _now(self) -> str:
        at = datetime.fromtimestamp(self.true_s, self._zone)
        return f"{at}, look {self.laptop.looks_in_life} of life {self.laptop.life_number}"

    async def _check_statements(self) -> None:
        """Each month's sums, and that a month begins with what the one before it left."""
        months = sorted(
            {datetime.fromtimestamp(at, self._zone).strftime("%Y-%m") for at in (self._first_unix_s, self.true_s)}
        )
        known = [
            KnownNetwork(key=each.key, title=each.title, kind="wifi", first_seen_unix_s=0, last_seen_unix_s=0)
            for each in (HOME, HOME_WIFI, CAFE, HOTSPOT)
        ]
        closing = 0
        moved = spent = 0
        for month in months:
            found = await self.laptop.agent.books.statement(month, known)
            assert found.opening_nanodollars == closing
            closing = found.closing_nanodollars
            assert closing == (
                found.opening_nanodollars
                + found.topped_up_nanodollars
                - found.spent_nanodollars
                - found.fees_nanodollars
            )
            assert sum(line.nanodollars for line in found.lines) == found.spent_nanodollars
            assert sum(line.bytes for line in found.lines) == found.bytes
            moved += found.bytes
            spent += found.spent_nanodollars
        assert moved == self.laptop.ledger.bytes
        usage = sum(
            max(0, count - BUNDLE_BYTES) * NANODOLLARS_PER_BYTE_BEYOND for count in self.laptop.ledger.metered.values()
        )
        assert spent == usage + self.laptop.ledger.spent


def _configuration(directory: Path, reset_day: int) -> Configuration:
    tariff = TariffSection(
        bundle_gb=BUNDLE_BYTES / 10**9, price_per_gb=NANODOLLARS_PER_BYTE_BEYOND, monthly_fee=10, reset_day=reset_day
    )
    return msgspec.structs.replace(
        default_configuration(directory, directory / "socket"),
        networks=(
            NetworkSection(match="cable home", egress_bit_s=RATE_BIT_S, ingress_bit_s=RATE_BIT_S),
            NetworkSection(match="Wi-Fi phone", tariff=tariff),
        ),
    )


def _next_reset(unix_s: int, reset_day: int, zone: ZoneInfo) -> int:
    """The first midnight of such a day after now."""
    day = datetime.fromtimestamp(unix_s, zone).date() + timedelta(days=1)
    while day.day != reset_day:
        day += timedelta(days=1)
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def _break_history(directory: Path) -> None:
    path = directory / "history.sqlite"
    for companion in ("-wal", "-shm"):
        path.with_name(path.name + companion).unlink(missing_ok=True)
    path.write_bytes(b"not a database" * 1000)
