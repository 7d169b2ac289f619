"""A home in memory: networks that come and go, programs that send, a clock that we turn. For what steers an agent."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

from dataplane.metering import FlowKey, FlowMeter, Kind, LinkMeter, Program, ProgramMeter, Reading, Tally
from dataplane.shaping.matching import Matcher
from dataplane.shaping.plan import ShapingPlan
from hostagent.api import Mode
from hostagent.books import Books
from hostagent.configuration import Configuration, default_configuration
from hostagent.networks.known import KnownNetwork
from hostagent.networks.situation import ActiveNetwork, NetworkKind, Situation
from hostagent.notices import Notices
from hostagent.said import Said
from hostagent.sharing.links import Rates
from hostagent.steering import Measuring, Steering
from hostagent.traffic import Second
from secretary.transfers import Moment

S = 1_000_000_000
LO_INDEX = socket.if_nametoindex("lo")


@dataclass
class VirtualClock:
    """Turned by `pass_s`; asleep the monotonic clock stands still."""

    now_unix_s: int = 1_795_000_000
    now_monotonic_ns: int = 1_000 * S
    boot_ns: int = 1_000 * S
    boot: str = "b1"
    here: ZoneInfo = field(default_factory=lambda: ZoneInfo("Europe/Berlin"))

    def pass_s(self, seconds: float, *, asleep: bool = False) -> None:
        self.now_unix_s += int(seconds)
        self.boot_ns += int(seconds * S)
        if not asleep:
            self.now_monotonic_ns += int(seconds * S)

    def monotonic_ns(self) -> int:
        return self.now_monotonic_ns

    def unix_s(self) -> int:
        return self.now_unix_s

    def moment(self) -> Moment:
        return Moment(unix_s=self.now_unix_s, boot_ns=self.boot_ns, boot=self.boot, zone=self.here)

    def zone(self) -> ZoneInfo:
        return self.here


def network(key: str = "home", *, interface: str = "lo", **more: object) -> ActiveNetwork:
    values: dict[str, object] = {
        "key": key,
        "aliases": (key,),
        "is_settled": True,
        "title": f"cable {key}",
        "kind": NetworkKind.CABLE,
        "interface": interface,
        "index": LO_INDEX,
        "is_primary": True,
        "metrics": (100, None),
        "routers": (),
        "prefixes": (),
        "addresses": (),
    }
    return ActiveNetwork(**(values | more))  # type: ignore[arg-type]


class VirtualHome:
    """One host on `lo`, whose programs send what `send` says; the plan decides their class as an engine would."""

    def __init__(
        self,
        directory: Path,
        configuration: Configuration | None = None,
        *,
        clock: VirtualClock | None = None,
        books: type[Books] = Books,
        measuring: Measuring | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.notices = Notices()
        self.situation = Situation(networks=(network(),))
        self.plans: list[ShapingPlan] = []
        self.running: frozenset[str] = frozenset()
        self.limits: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.received: dict[str, int] = {}
        self.configuration = configuration or default_configuration(directory, directory / "socket")
        self.books = books(self.configuration, clock=self.clock, notices=self.notices)
        self.kept_rates: dict[str, Rates] = {}
        self.steering = Steering(
            configuration=self.configuration,
            config_path=directory / "hostagent.toml",
            clock=self.clock,
            looking=self,
            notices=self.notices,
            books=self.books,
            measuring=measuring,
            apply=self.apply,
            said=Said(
                directory,
                mode_at_first=Mode(self.configuration.agent.mode),
                clock=self.clock,
                notices=self.notices,
                running_programs=lambda: self.running,
            ),
            read_limit=self.limits.get,
        )
        self.plan = self.steering.first_plan()

    def look(self) -> Situation:
        return self.situation

    def remembered(self, key: str) -> KnownNetwork | None:
        """Every network is a new one."""
        return None

    def measured(self, key: str, rates: Rates) -> None:
        self.kept_rates[key] = rates

    async def apply(self, plan: ShapingPlan) -> None:
        self.plan = plan
        self.plans.append(plan)

    def send(self, executable: str, count: int, *, received: int = 0) -> None:
        self.sent[executable] = self.sent.get(executable, 0) + count
        self.received[executable] = self.received.get(executable, 0) + received

    async def second(self, *, seconds: float = 1) -> None:
        self.clock.pass_s(seconds)
        await self.steering.on_second(self.reading())

    def reading(self) -> Second:
        matcher = Matcher(self.plan)
        programs, flows = [], []
        for number, name in enumerate(self.sent, start=1):
            program = Program(kind=Kind.PROGRAM, executable=name)
            sent, received = _tally(self.sent[name]), _tally(self.received[name])
            programs.append(ProgramMeter(number=number, program=program, sent=sent, received=received))
            key = FlowKey(LO_INDEX, 6, bytes(4), 40_000 + number, bytes((192, 0, 2, number)), 443)
            flows.append(
                FlowMeter(
                    key=key,
                    program_number=number,
                    process_id=number,
                    traffic_class=matcher.class_of(program, 6, key.local_port, key.remote, 443, False),
                    sent=sent,
                    received=received,
                    first_ns=1,
                    last_ns=self.clock.now_monotonic_ns,
                )
            )
        link = LinkMeter(
            interface="lo",
            sent=_tally(sum(self.sent.values())),
            received=_tally(sum(self.received.values())),
            interface_sent_packets=0,
            interface_received_packets=0,
        )
        reading = Reading(
            now_ns=self.clock.now_monotonic_ns,
            programs=tuple(programs),
            links=(link,) if self.situation.networks else (),
            flows_tracked=len(flows),
        )
        return Second(reading=reading, flows=flows)


def _tally(count: int) -> Tally:
    return Tally(packets=-(-count // 1400), bytes=count)
