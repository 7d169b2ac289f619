"""What is kept of traffic and money: history on disk, and the data plans that are spent by the same bytes.

Decides: the order in which a byte is booked: history's increments of five seconds are what plans are spent by, so both
have the same sums. Refuses to know: how either reckons (`hostagent.history`, `hostagent.sharing.planbook`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

import msgspec

from billpay.errors import EnvironmentFault
from hostagent import api
from hostagent.configuration import Configuration, NetworkSection
from hostagent.desk import HistoryQuery, Refused
from hostagent.history.accumulator import Accumulator, Surroundings
from hostagent.history.database import Retention
from hostagent.history.statement import Contract
from hostagent.history.store import History
from hostagent.history.values import HOUR_S, SLOT_S, Increments, Payment
from hostagent.keeping import put_aside, write_whole
from hostagent.networks.known import KnownNetwork
from hostagent.notices import Notices
from hostagent.sharing.contracts import contract_of, plan_of
from hostagent.sharing.dataplan import Judgement, PlanKind
from hostagent.sharing.links import OnNetwork, said_of
from hostagent.sharing.planbook import BookState, PlanBook
from hostagent.sharing.policy import KindTerms, Verdict
from hostagent.traffic import Second, name_of
from secretary.clock import Clock

LOG = logging.getLogger("hostagent")
HISTORY_NAME: Final = "history.sqlite"
PLANS_NAME: Final = "plans.json"
BOOK_EVERY_S: Final = 5
KEEP_EVERY_S: Final = 10


class _PlansFile(msgspec.Struct, frozen=True, kw_only=True):
    version: int = 1
    books: dict[str, BookState] = {}  # by network key


class Books:
    """One for an agent. `on_second` books, `judgement` says what a network's plan allows now."""

    def __init__(self, configuration: Configuration, *, clock: Clock, notices: Notices) -> None:
        self._configuration = configuration
        self._clock = clock
        self._notices = notices
        self._accumulator = Accumulator(name_of)
        self._history: History | None = None
        self._plans_path = configuration.state_directory / PLANS_NAME
        self._kept = self._read_plans()
        self._books: dict[str, PlanBook] = {}
        self._titles: dict[str, str] = {}
        self._judgements: dict[str, Judgement] = {}
        self._seconds = 0
        self._looked_unix_s = clock.unix_s()  # whatever is not booked yet was counted by then
        self._plans_written = b""
        self._plans_trouble = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        section = self._configuration.history
        self._history = await History.open(
            self._configuration.state_directory / HISTORY_NAME,
            Retention(
                hours=section.hours_kept_days, destinations=section.destinations_kept_days, days=section.days_kept_days
            ),
            zone=self._clock.zone(),
            unix_s=self._clock.unix_s,
        )
        try:
            yield
        finally:
            self._book(self._accumulator.take())
            self._keep_plans()
            await self._history.close()

    async def work(self) -> None:
        """Until cancelled."""
        assert self._history is not None, "it is opened first"
        await self._history.work()

    def reload(self, configuration: Configuration) -> None:
        """Other tariffs: what was booked stays booked."""
        self._book(self._accumulator.take())
        self._kept |= {network: book.state for network, book in self._books.items()}
        self._configuration = configuration
        self._books.clear()

    # --- once a second ----------------------------------------------------------------------------------------------

    def on_second(self, second: Second, surroundings: Surroundings, payments: Sequence[Payment] = ()) -> None:
        self._seconds += 1
        unix_s = self._clock.unix_s()
        self._book_what_was_before(unix_s)
        self._looked_unix_s = unix_s
        self._accumulator.on_second(unix_s, second.reading, second.flows, surroundings, payments=payments)
        if self._seconds % BOOK_EVERY_S == 0:
            self._book(self._accumulator.take())
        if self._seconds % KEEP_EVERY_S == 0:
            self._keep_plans()
        if self._history is not None:
            for message in self._history.take_notices():
                self._notices.say(unix_s, "history", message)

    def _book_what_was_before(self, unix_s: int) -> None:
        """Days and billing periods end where slots do: what was counted before goes to the one that ends."""
        if unix_s // SLOT_S != self._looked_unix_s // SLOT_S:
            self._book(self._accumulator.take())

    def _book(self, increments: Increments) -> None:
        if self._history is not None:
            self._history.add(increments)
        moved: dict[str, dict[str, tuple[int, int]]] = {}
        for key, amounts in increments.traffic.items():
            kinds = moved.setdefault(key.network, {})
            sent, received = kinds.get(key.kind, (0, 0))
            kinds[key.kind] = (sent + amounts.sent_bytes, received + amounts.received_bytes)
        for network, kinds in moved.items():
            if (book := self._books.get(network)) is not None:
                book.add(kinds, unix_s=self._looked_unix_s)

    # --- data plans -------------------------------------------------------------------------------------------------

    def judge(
        self, networks: Sequence[OnNetwork], metered: Mapping[str, bool | None], kinds: Sequence[KindTerms]
    ) -> Mapping[str, Verdict]:
        """What the plan of the primary network, the first, lets each kind have; the others' are for their screens."""
        self._book_what_was_before(self._clock.unix_s())
        terms = [PlanKind.of(kind) for kind in kinds]
        self._judgements = {network: judged for network, judged in self._judgements.items() if network in self._books}
        for network in networks:
            section = said_of(self._configuration.networks, network)
            if (book := self._book_of(network, section, metered.get(network.key), terms)) is None:
                continue
            judged = self._judgements[network.key] = book.judge(self._clock.unix_s())
            for each in judged.announcements:
                self._notices.say(self._clock.unix_s(), each.code, each.message)
        primary = self._judgements.get(networks[0].key) if networks else None
        return primary.verdicts if primary is not None else {}

    def _book_of(
        self, network: OnNetwork, section: NetworkSection | None, metered: bool | None, kinds: list[PlanKind]
    ) -> PlanBook | None:
        plan = plan_of(network.key, section, metered=metered)
        if plan is None:
            if (book := self._books.pop(network.key, None)) is not None:
                self._kept[network.key] = book.state
            self._judgements.pop(network.key, None)
            return None
        self._titles[network.key] = network.title
        if (book := self._books.get(network.key)) is None:
            state = self._kept.get(network.key)
            book = PlanBook(plan, kinds, self._clock.zone(), unix_s=self._clock.unix_s(), state=state)
            self._books[network.key] = book
        else:
            book.change(plan=plan, kinds=kinds)
        return book

    def judgement(self, network: str) -> Judgement | None:
        return self._judgements.get(network)

    def view_budgets(self) -> tuple[api.Budget, ...]:
        return tuple(
            msgspec.structs.replace(judged.budget, name=f"data plan of {self._titles.get(network, network)}")
            for network, judged in self._judgements.items()
        )

    def _read_plans(self) -> dict[str, BookState]:
        try:
            return dict(msgspec.json.decode(self._plans_path.read_bytes(), type=_PlansFile).books)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            message = f"{put_aside(self._plans_path, error)}; data plans begin anew"
            self._notices.say(self._clock.unix_s(), "plans", message)
            return {}

    def _keep_plans(self) -> None:
        self._kept |= {network: book.state for network, book in self._books.items()}
        data = msgspec.json.encode(_PlansFile(books=self._kept))
        if not self._kept or data == self._plans_written:
            return
        try:
            write_whole(self._plans_path, data)
        except EnvironmentFault as fault:
            if not self._plans_trouble:  # it is tried again and again, and said once
                self._notices.say(self._clock.unix_s(), "plans", f"what data plans have used is not kept: {fault}")
            self._plans_trouble = str(fault)
        else:
            self._plans_written, self._plans_trouble = data, ""

    # --- what people ask --------------------------------------------------------------------------------------------

    @property
    def trouble(self) -> str:
        return self._history.trouble if self._history is not None else ""

    async def history(self, query: HistoryQuery, known: Sequence[KnownNetwork]) -> tuple[api.HistoryRow, ...]:
        """With networks' titles for their keys. Raises Refused."""
        query = msgspec.structs.replace(query, until_unix_s=self._whole(query.until_unix_s, HOUR_S))
        history = await self._up_to_date()
        tariffs = {contract.network: contract.tariff for contract in self._contracts(known)}
        try:
            rows = await history.rows(query, self._clock.zone(), tariffs)
        except ValueError as error:
            raise Refused("malformed", str(error)) from error
        titles = {each.key: each.name or each.title for each in known}
        return tuple(msgspec.structs.replace(row, network=titles.get(row.network, row.network)) for row in rows)

    async def statement(self, month: str, known: Sequence[KnownNetwork]) -> api.Statement:
        history = await self._up_to_date()
        currency = self._configuration.agent.currency
        try:
            return await history.statement(month, self._clock.zone(), self._contracts(known), currency=currency)
        except ValueError as error:
            raise Refused("malformed", str(error)) from error

    async def replay(self, since_unix_s: int, until_unix_s: int) -> tuple[api.ReplayLine, ...]:
        history = await self._up_to_date()
        return await history.replay(since_unix_s, self._whole(until_unix_s, SLOT_S), self._clock.zone())

    def _whole(self, until_unix_s: int, step_s: int) -> int:
        """Until now means with the hour, or the five minutes, that have begun."""
        now = self._clock.unix_s()
        return until_unix_s if until_unix_s < now else max(until_unix_s, now // step_s * step_s + step_s)

    async def forget(self, what: api.Forget, known: Sequence[KnownNetwork]) -> None:
        """Raises Refused for a network that is not known, EnvironmentFault when it cannot be deleted now."""
        history = await self._up_to_date()
        network = what.network
        if network is not None:
            keys = [each.key for each in known if network in (each.key, each.title, each.name)]
            if not keys:
                raise Refused("unknown-network", f"no network is called {network!r}: `hostagent networks` lists them")
            network = keys[0]
        await history.forget(program=what.program, destination=what.destination, network=network, all=what.everything)

    async def _up_to_date(self) -> History:
        if self._history is None:
            raise Refused("no-history", "nothing is kept")
        self._book(self._accumulator.take())
        await self._history.flush()
        return self._history

    def _contracts(self, known: Sequence[KnownNetwork]) -> tuple[Contract, ...]:
        found = []
        for network in known:
            section = said_of(self._configuration.networks, _Known(network))
            if section is not None and (contract := contract_of(network.key, network.title, section)) is not None:
                found.append(contract)
        return tuple(found)


class _Known:
    """A remembered network, as one to look a table up for; its interface is not remembered."""

    interface = ""

    def __init__(self, network: KnownNetwork) -> None:
        self.key, self.title = network.key, network.name or network.title
