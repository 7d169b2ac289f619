"""Runs an experiment of the simulator on real packets: namespaces, the product's daemons, unmodified programs.

Decides: when each program starts and ends, when what is read. Refuses to know: what should come out (`with_theory`
says it beside). Traffic goes to addresses inside its namespaces only.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault, RemoteProtocolError
from gateway.admin import GatewayStatus, change_mark_price, read_status
from hostagent import api
from hostagent.client import LocalClient, Unreachable
from lab.bridge.files import ANNOUNCED_MS, more_of
from lab.bridge.layout import FIRST_PORT, Hop, Layout, Place, layout_of
from lab.bridge.programs import Programs
from lab.bridge.readings import FlowCount, LinkCount, Prices, Sample
from lab.bridge.reckoning import results_of
from lab.bridge.refusing import refuse, worth_after
from lab.configurations import Places
from lab.daemons import Daemons
from lab.dph.sharing import Arrivals
from lab.namespaces import Network, gain_privilege
from lab.plan import make_plan
from lab.priority import before_others, put_sessions_first, waited_ns
from lab.simulator.experiment import Event, Experiment, Overrides, ReactorKind, load
from lab.simulator.results import Results
from lab.wiring import start_wires

SAMPLE_S: Final = 0.25
_SESSIONS_EVERY: Final = 4
"""Samples: what a payer believes to owe is asked for once a second."""

_PRICE_KNOWN_S: Final = 1.2
"""A gateway says its price each second: by then every agent has heard it."""

_LAST_MARKS_S: Final = 0.7
_FRAME_BYTES: Final = 14
_FAMILY: Final = 4

Progress = Callable[[str], None]
Action = tuple[float, Callable[[], None]]


def run_file(
    path: Path | str,
    *,
    overrides: Overrides | None = None,
    series: bool = False,
    progress: Progress = lambda _line: None,
) -> Results:
    """Raises ConfigurationError with one line for what cannot be run so, EnvironmentFault where this machine cannot."""
    experiment = load(path, overrides)
    refuse(experiment, path)
    gain_privilege()
    return run_experiment(experiment, series=series, progress=progress, file=path)


def run_experiment(
    experiment: Experiment,
    *,
    series: bool = False,
    progress: Progress = lambda _line: None,
    file: Path | str = "experiment",
) -> Results:
    """As root. Without `series` only the numbers."""
    refuse(experiment, file)
    with (
        tempfile.TemporaryDirectory(prefix="hostagent-lab-") as directory,
        Bridge(experiment, Path(directory), progress) as bridge,
    ):
        found = bridge.run()
    return found if series else msgspec.structs.replace(found, series=None)


class Bridge:
    """The network of an experiment, with its daemons and programs; a context manager."""

    def __init__(self, experiment: Experiment, directory: Path, progress: Progress) -> None:
        self.layout: Layout = layout_of(experiment)
        self._experiment = experiment
        self._directory = directory
        self._places = Places(directory=directory)
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._prices = {
            hop.link.name: Prices(first_nanodollars=experiment.price_of(hop.link)) for hop in self.layout.hops
        }
        self._booked: dict[str, int] = {}  # by session
        self.network: Network
        self.daemons: Daemons

    def __enter__(self) -> Bridge:
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        self._stack.enter_context(before_others())
        plan = make_plan(self.layout.scenario)
        self.network = self._stack.enter_context(Network(plan))
        log = self._stack.enter_context((self._directory / "traffic.log").open("wb"))
        wires = start_wires(self.network, seed=self._experiment.seed, errors=log)
        if wires is not None:
            self._stack.callback(wires.close)
        self.daemons = Daemons(
            self.network,
            family=_FAMILY,
            directory=self._directory,
            progress=self._progress,
            more=more_of(self.layout, plan, self._directory, family=_FAMILY),
        )
        self._stack.callback(self.daemons.close)
        self.daemons.start(lambda: None)
        self._programs = Programs(self.layout, self.network, log, family=_FAMILY)
        self._stack.callback(self._programs.close)
        self._programs.serve()
        put_sessions_first()
        self._arrivals = [
            Arrivals(self.network[name], [place.port for place in self.layout.places if place.receiver == name])
            for name in self.layout.receivers()
        ]

    # --- what happens -----------------------------------------------------------------------------------------------

    def run(self) -> Results:
        seconds = self._experiment.seconds
        time.sleep(_PRICE_KNOWN_S)
        self._progress(f"{len(self.layout.places)} programs over {len(self.layout.hops)} links for {seconds:g} s")
        waited_before, begun_s = self._waited_ns(), time.monotonic()
        samples = self._until(seconds, begun_s)
        took_ns = (time.monotonic() - begun_s) * 1e9
        waited = max(now - before for before, now in zip(waited_before, self._waited_ns(), strict=True)) / took_ns
        for place in self.layout.places:
            self._programs.stop(place.flow.name)
        time.sleep(_LAST_MARKS_S)  # what was on its way is still counted and charged
        self._ask_payers()
        samples.append(self._look(begun_s))
        return results_of(self.layout, samples, booked_nanodollars=sum(self._booked.values()), waited_share=waited)

    def _waited_ns(self) -> list[int]:
        """Of each gateway."""
        return [waited_ns(self.daemons.main_pid(hop.gateway)) for hop in self.layout.hops]

    def _until(self, seconds: float, begun_s: float) -> list[Sample]:
        actions = sorted(self._actions(), key=lambda action: action[0])
        samples = [self._look(begun_s)]
        while samples[-1].at_s < seconds:
            now_s = time.monotonic() - begun_s
            if actions and actions[0][0] <= now_s:
                while actions and actions[0][0] <= now_s:
                    actions.pop(0)[1]()
                put_sessions_first()
            due_s = len(samples) * SAMPLE_S
            if time.monotonic() - begun_s >= min(due_s, seconds):
                samples.append(self._look(begun_s))
                if len(samples) % _SESSIONS_EVERY == 0:
                    self._ask_payers()
                continue
            next_s = min(due_s, seconds, actions[0][0] if actions else seconds)
            time.sleep(max(0.0, begun_s + next_s - time.monotonic()))
        return samples

    def _actions(self) -> list[Action]:
        actions: list[Action] = []
        for place in self.layout.places:
            actions.append((place.flow.start_s, lambda place=place: self._programs.start(place)))  # type: ignore[misc]
            if place.flow.stop_s is not None:
                name = place.flow.name
                actions.append((place.flow.stop_s, lambda name=name: self._programs.stop(name)))  # type: ignore[misc]
        for event in self._experiment.events:
            is_price = event.price_nanodollars_per_mark is not None or event.price_factor is not None
            early_s = ANNOUNCED_MS / 1000 if is_price else 0.0  # it holds when it was announced for so long
            actions.append((max(0.0, event.at_s - early_s), lambda event=event: self._happen(event)))  # type: ignore[misc]
        return actions

    def _happen(self, event: Event) -> None:
        for hop in self.layout.hops if event.flow is None else ():
            if event.link in (None, hop.link.name):
                self._reprice(hop, event)
        for place in self.layout.places if event.link is None else ():
            if event.flow in (None, place.flow.name):
                self._change_flow(place, event)

    def _reprice(self, hop: Hop, event: Event) -> None:
        price = event.price_nanodollars_per_mark
        if event.price_factor is not None:
            price = round(self._prices[hop.link.name].newest * event.price_factor)
        if price is not None:
            said = asyncio.run(change_mark_price(self._places.admin_socket(hop.gateway), price))
            self._prices[hop.link.name].hear(said.valid_from_unix_ms, said.nanodollars_per_mark)

    def _change_flow(self, place: Place, event: Event) -> None:
        if place.flow.reactor.kind is ReactorKind.UNRESPONSIVE and event.rate_bit_s is not None:
            if self._programs.is_running(place.flow.name):
                self._programs.stop(place.flow.name)
                if event.rate_bit_s:
                    self._programs.start(place, rate_bit_s=event.rate_bit_s)
        elif place.has_session and (event.weight is not None or event.willingness_nanodollars_per_s is not None):
            asyncio.run(self._revalue(place, worth_after(event, place.flow)))

    async def _revalue(self, place: Place, worth_ppm: int) -> None:
        async with LocalClient(self.daemons.socket_of(place.sender)) as client:
            for session in await client.sessions():
                if _port_of(session) == place.port:
                    await client.set_session_worth(api.SessionWorth(session=session.session, worth_ppm=worth_ppm))

    # --- what is read -----------------------------------------------------------------------------------------------

    def _look(self, begun_s: float) -> Sample:
        sockets = [self._places.admin_socket(hop.gateway) for hop in self.layout.hops]
        statuses = asyncio.run(_statuses(sockets))
        links = {hop.link.name: self._link(hop, status) for hop, status in zip(self.layout.hops, statuses, strict=True)}
        at_s = time.monotonic() - begun_s
        flows = {port: counts for arrivals in self._arrivals for port, counts in arrivals.read().items()}
        return Sample(
            at_s=at_s,
            flows={port: FlowCount(bytes=b, packets=p, marks=m) for port, (b, p, m) in flows.items()},
            links=links,
        )

    def _link(self, hop: Hop, status: GatewayStatus) -> LinkCount:
        link = next(each for each in status.links if each.name == hop.onwards)
        prices = self._prices[hop.link.name]
        if status.mark_price is not None:
            prices.hear(status.mark_price.valid_from_unix_ms, status.mark_price.nanodollars_per_mark)
        frames, sent_bytes = _sent(self.network[hop.gateway].pid, hop.interface)
        return LinkCount(
            sent_bytes=sent_bytes - frames * _FRAME_BYTES,
            sent_packets=frames,
            marked_packets=link.marked_packets,
            dropped_packets=link.dropped_packets,
            backlog_bytes=link.backlog_bytes,
            price_nanodollars=prices.at(time.time_ns() // 1_000_000),
        )

    def _ask_payers(self) -> None:
        sockets = [self.daemons.socket_of(name) for name in self.layout.payers()]
        try:
            found = asyncio.run(_sessions(sockets))
        except (Unreachable, RemoteProtocolError) as error:
            raise EnvironmentFault("ask the agents of", "the payers", error, "see their logs") from error
        for session in found:
            if _port_of(session):
                self._booked[session.session] = session.spent_nanodollars


async def _statuses(sockets: Sequence[Path]) -> list[GatewayStatus]:
    return list(await asyncio.gather(*map(read_status, sockets)))


async def _sessions(sockets: Sequence[Path]) -> list[api.Session]:
    async def of(socket: Path) -> tuple[api.Session, ...]:
        async with LocalClient(socket) as client:
            return await client.sessions()

    return [session for each in await asyncio.gather(*map(of, sockets)) for session in each]


def _sent(pid: int, interface: str) -> tuple[int, int]:
    """Frames and bytes, by the kernel's counters of the namespace that a process is in."""
    for line in Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines():
        name, colon, counts = line.partition(":")
        if colon and name.strip() == interface:
            words = counts.split()
            return int(words[9]), int(words[8])
    raise EnvironmentFault("count what leaves by", interface, "there is no such interface")


def _port_of(session: api.Session) -> int:
    port = int(session.flow.rpartition(":")[2])
    return port if FIRST_PORT <= port < FIRST_PORT + 100 else 0
