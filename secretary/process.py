"""The secretary as a process: its journal, key, rules' files and doors around the one deciding part.

Decides nothing: `secretary.secretary` does. A decision is journalled and synced before it is answered. What takes
longer than an answer may (the learners' computing, a forest's growing) is done beside the loop. Refuses to know what
an answer is used for. Source: docs/spec/secretary-protocol.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Final, NoReturn, assert_never

import msgspec

from billpay.errors import EnvironmentFault, RemoteProtocolError
from billpay.messages import Grant, Signed
from dataplane import journal
from dataplane.hardening import harden
from dataplane.service import locked, report_fault, until_told_to_stop
from secretary import settings
from secretary.archive import JournalArchive
from secretary.asking import Asker, Role
from secretary.central.courier import Courier
from secretary.central.policy import sign_document
from secretary.clock import Clock, SystemClock
from secretary.configuration import Configuration, load
from secretary.guard.forest import Forest
from secretary.guard.watching import Guard
from secretary.keys.keeper import Keeper
from secretary.listening import Listener
from secretary.messages import (
    AgentQuestion,
    Answer,
    AskBudget,
    AskGrant,
    AskReturn,
    AskStatus,
    AskSuccessions,
    CloseGrant,
    Done,
    ExtendGrant,
    Question,
    Reread,
    Rotated,
    RotateKey,
    SecretaryStatus,
    Successions,
    TellQuit,
)
from secretary.people import People
from secretary.ruling.rulefiles import RuleFiles
from secretary.secretary import Entry, Secretary
from secretary.states import RULES, restore, states_of
from secretary.store import JOURNAL_FILE, Journal
from secretary.transfers import Moment

LOG: Final = logging.getLogger("secretary")
SECOND_S: Final = 1.0
KEEP_STATES_S: Final = 60
KEEP_WHOLE_S: Final = 3600
LOOK_AT_RULES_S: Final = 2
GROW_FOREST_S: Final = 3600
FOREST_TIMEOUT_S: Final = 300
CLOCK_WRONG_S: Final = 86_400
NS_PER_S: Final = 1_000_000_000


async def run(config_path: Path) -> None:
    """Until SIGTERM or SIGINT. Raises ConfigurationError or EnvironmentFault, also when the journal breaks later."""
    harden()
    configuration = load(config_path)
    with locked(configuration.state_directory):
        journal.set_up(sys.stderr, configuration.state_directory)
        process = SecretaryProcess(configuration, config_path)
        try:
            await process.listen()
            await until_told_to_stop(process.work())
        finally:
            await process.close()


class SecretaryProcess:
    """One for a host."""

    def __init__(self, configuration: Configuration, config_path: Path, *, clock: Clock | None = None) -> None:
        self._configuration = configuration
        self._config_path = config_path
        self._clock = clock or SystemClock()
        directory = configuration.state_directory
        self._keeper = Keeper(
            directory,
            name=configuration.secretary.name,
            store=configuration.keys.store,
            seal_directory=Path(configuration.keys.directory) if configuration.keys.directory else None,
        )
        self._doors = settings.doors_of(configuration, config_path)
        self._fault: EnvironmentFault | None = None
        self._failed = asyncio.Event()
        self._seconds = 0
        self._computing: asyncio.Task[None] | None = None
        self._journal = Journal(directory / JOURNAL_FILE)
        try:
            self._begin()
        except BaseException:
            self._journal.close()
            raise
        self._listener = Listener(self.answer, on_fault=self._fail)

    def _begin(self) -> None:
        configuration, now = self._configuration, self._clock.moment()
        states = self._journal.states()
        directory = configuration.rules_directory(self._config_path)
        self._rule_files = RuleFiles(directory, good=settings.rule_texts_of(states, RULES))
        found = self._rule_files.poll(now.unix_s * NS_PER_S)
        rules = found.rules if found is not None else ()
        self._settings = settings.settings_of(configuration, rules)
        self.secretary = Secretary(
            self._settings, begun=now, draw=secrets.token_bytes, sign=self._sign, keep=self._keep
        )
        restore(self.secretary, states)
        for entry in self._journal.entries():
            self.secretary.apply(entry)
        self.secretary.announcements.clear()
        self.people = People(self.secretary, JournalArchive(self._journal, self._fresh))
        self.people.rule_faults = self._rule_files.faults

    def _fresh(self, only: tuple[date, date]) -> Secretary:
        quiet = replace(self._settings, guards=False)
        return Secretary(
            quiet, begun=self._clock.moment(), draw=secrets.token_bytes, sign=self._sign, keep=_nobody, only=only
        )

    def _sign(self, grant: Grant) -> Signed:
        return self._keeper.identity.sign(grant)

    def _keep(self, entry: Entry) -> None:
        self._journal.append(entry)
        self.secretary.apply(entry)

    def _fail(self, fault: EnvironmentFault) -> None:
        self._fault = fault
        self._failed.set()

    # --- start and stop ---------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Raises EnvironmentFault; a socket that nobody serves is replaced."""
        configuration = self._configuration
        await self._listener.listen_here(configuration.socket, self._doors)
        if configuration.remote is not None:
            certificates, doors = settings.remote_doors_of(configuration.remote)
            address, port = configuration.remote.address
            transport = settings.transport_of(configuration)
            await self._listener.listen_remotely(address, port, transport, certificates, doors)
        if self._doors.warning:
            LOG.warning("%s", self._doors.warning)

    async def close(self) -> None:
        """Ends every conversation: a client that is connected sees its end."""
        await self._listener.close()
        if self._fault is None:
            with contextlib.suppress(EnvironmentFault):
                self._keep_states()
        self._journal.close()

    async def work(self) -> None:
        """Until cancelled. Raises EnvironmentFault once the journal is broken: a fresh start reads what is in it."""
        LOG.info("%s is up", self._configuration.secretary.name)  # and can be told to stop
        async with self._corresponding():
            while self._fault is None:
                self._second()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._failed.wait(), SECOND_S)
        raise self._fault

    def _second(self) -> None:
        now = self._clock.moment()
        self._seconds += 1
        try:
            self.secretary.on_time(now)
            self.secretary.on_minute(now)
            if self._seconds % LOOK_AT_RULES_S == 0:
                self._look_at_rules()
            if self._seconds % KEEP_STATES_S == 0:
                self._keep_states(whole=self._seconds % KEEP_WHOLE_S == 0)
        except EnvironmentFault as fault:
            self._fail(fault)
            return
        for line in self.secretary.announcements:
            LOG.info("%s", line)
        self.secretary.announcements.clear()
        if self._computing is None or self._computing.done():
            self._computing = asyncio.get_running_loop().create_task(self._compute())
            self._computing.add_done_callback(report_fault)

    def _keep_states(self, *, whole: bool = True) -> None:
        self._journal.put_states(states_of(self.secretary, self._rule_files.good_texts(), whole=whole))

    # --- beside the loop --------------------------------------------------------------------------------------------

    async def _compute(self) -> None:
        for learner in list(self.secretary.judge.learners.values()):
            if (work := learner.due_work()) is not None:
                learner.take(await asyncio.to_thread(work))
        if self._configuration.guard.forest and self._seconds % GROW_FOREST_S == 1:
            for guard in list(self.secretary.judge.guards.values()):
                await _grow_forest(guard)

    @contextlib.asynccontextmanager
    async def _corresponding(self) -> AsyncIterator[None]:
        """With the organisation's central secretary, where there is one."""
        central, section = self.secretary.central, self._configuration.central
        if central is None or section is None:
            yield
            return
        courier = Courier(
            settings.central_client_of(section, self._configuration),
            central,
            keep=self._keep,
            sign=lambda report: sign_document(self._keeper.identity.key, report),
            unix_s=self._clock.unix_s,
            tell=lambda line: LOG.info("%s", line),
            draw=random.random,
        )
        task = asyncio.get_running_loop().create_task(courier.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _look_at_rules(self) -> None:
        """What a person writes into the rules' files holds within seconds."""
        found = self._rule_files.poll(self._clock.unix_s() * NS_PER_S)
        if found is None:
            return
        for notice in found.notices:
            LOG.info("rules: %s", notice)
        self._settings = settings.settings_of(self._configuration, found.rules)
        self.secretary.reread(self._settings.policy, self._clock.moment())
        self.people.rule_faults = self._rule_files.faults
        if not self._rule_files.faults:
            self.secretary.forget_counts_of_other_rules()
        self._keep_states()

    # --- answers ----------------------------------------------------------------------------------------------------

    def answer(self, question: Question, asker: Asker) -> Answer:
        """Raises RemoteProtocolError or EnvironmentFault."""
        now = self._clock.moment()
        self.secretary.on_time(now)
        if isinstance(question, AgentQuestion):
            return self._answer_agent(question, now)
        match question:
            case AskStatus():
                return self._status(asker)
            case RotateKey():
                return self._rotated(asker)
            case Reread():
                self._look_at_rules()
                return Done(message="the rules' files were read; the rest of the configuration is read at the start")
        answer = self.people.answer(question, asker, now)
        assert answer is not None, question
        return answer

    def _answer_agent(self, question: AgentQuestion, now: Moment) -> Answer:
        secretary = self.secretary
        match question:
            case AskGrant():
                return secretary.ask_grant(question, now)
            case ExtendGrant():
                return secretary.extend(question, now)
            case CloseGrant():
                return secretary.close(question, now)
            case AskReturn():
                return secretary.ask_return(question, now)
            case AskBudget():
                return secretary.budget(question, now)
            case TellQuit():
                secretary.on_quit(question)
                return Done(message="their answers are over")
            case AskSuccessions():
                return Successions(signed=self._keeper.successions)
        assert_never(question)

    def _rotated(self, asker: Asker) -> Rotated:
        if Role.KEEPER not in asker.roles:
            raise RemoteProtocolError("not-permitted", "only a keeper rotates the key; see [access] keepers")
        succession = self._keeper.rotate(self._clock.unix_s())
        identity = self._keeper.identity
        return Rotated(fingerprint=identity.fingerprint, certificate=identity.certificate.pem, succession=succession)

    def _status(self, asker: Asker) -> SecretaryStatus:
        """What is others' is left out for whoever is no keeper."""
        secretary, now = self.secretary, self._clock.moment()
        central, keeps = secretary.central, Role.KEEPER in asker.roles
        return SecretaryStatus(
            name=self._configuration.secretary.name,
            fingerprint=self._keeper.identity.fingerprint,
            keys=self._keeper.describe(),
            open_grants=len(secretary.issuer.open_grants),
            reserved_nanodollars=secretary.treasury.purse.reserved_nanodollars if keeps else None,
            balance_nanodollars=secretary.treasury.purse.balance_nanodollars if keeps else None,
            left_nanodollars=secretary.treasury.purse.left_nanodollars(now.unix_s) if keeps else None,
            questions=len(secretary.inbox.questions(now, user=None if keeps else asker.user)),
            answers=secretary.answers,
            frozen=tuple(
                freeze.alarm.why
                for user, guard in secretary.judge.guards.items()
                if asker.speaks_for(user)
                for freeze in guard.freezes
            ),
            warnings=tuple(self._warnings()),
            organisation=central.state_text(now.unix_s) if central is not None else "",
            memory_bytes=_resident_bytes(),
        )

    def _warnings(self) -> Iterator[str]:
        if self._doors.warning:
            yield self._doors.warning
        yield from self._rule_files.faults
        ahead_s = self.secretary.treasury.budgets.ahead_s(self._clock.unix_s())
        if ahead_s > CLOCK_WRONG_S:
            days = ahead_s // CLOCK_WRONG_S
            yield f"the clock was {days} days ahead: budgets stay in that time until a keeper says that it is right"


def _nobody(_entry: Entry) -> NoReturn:
    raise AssertionError("what only reads keeps nothing")


async def _grow_forest(guard: Guard) -> None:
    """In a process of its own, whose memory ends with it; without scikit-learn there is none, and the guard goes on."""
    training = guard.training_set(seed=secrets.randbits(31))
    if training is None:
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "secretary.guard.training",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        async with asyncio.timeout(FOREST_TIMEOUT_S):
            grown, _ = await process.communicate(msgspec.msgpack.encode(training))
    except TimeoutError:
        process.kill()
        await process.wait()
        return
    if process.returncode == 0:
        guard.take_forest(msgspec.msgpack.decode(grown, type=Forest))


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
