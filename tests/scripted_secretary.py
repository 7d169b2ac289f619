"""Secretaries as the command line's tests need them, in a thread: one with scripted answers, and a real one that stands
still at one moment.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from zoneinfo import ZoneInfo

import msgspec

from billpay.errors import RemoteProtocolError
from billpay.messages import FlowSelector, Signed
from secretary import messages
from secretary.asking import Asker, Doors
from secretary.configuration import load
from secretary.listening import Listener
from secretary.money.spending import GrantContext, GrantCourse, Step, Word
from secretary.money.statements import FeeLine, Line, Statement, Traced, TracedGrant
from secretary.process import SecretaryProcess
from secretary.transfers import Moment, Transfer

START_S = 20
NOW_UNIX_S = 1_794_322_800  # 2026-11-10 15:00 in UTC
GRANT = "0123456789abcdef0123456789abcdef"
KEY = "2026-11-01/2026-11-30/program/0011223344556677"
FINGERPRINT = "3f9ac21b7700aa55" * 4


class _Threaded:
    """`begin` and `end` run in a loop of a thread of its own."""

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._error: BaseException | None = None

    async def begin(self) -> Callable[[], Awaitable[None]]:
        """Gives what ends it."""
        raise NotImplementedError

    def _run(self) -> None:
        async def live() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            try:
                end = await self.begin()
            except BaseException as error:
                self._error = error
                self._started.set()
                raise
            self._started.set()
            await self._stop.wait()
            await end()

        asyncio.run(live())

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(START_S)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive()


class ScriptedSecretary(_Threaded):
    """Answers each question with what is scripted for its type; what it was asked is kept in `asked`."""

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self.socket = socket
        self.answers: dict[type[messages.Question], messages.Answer] = scripted()
        self.asked: list[messages.Question] = []
        self.refusal: RemoteProtocolError | None = None
        self.doors = Doors()

    def answer(self, question: messages.Question, _asker: Asker) -> messages.Answer:
        self.asked.append(question)
        if self.refusal is not None:
            raise self.refusal
        return self.answers[type(question)]

    async def begin(self) -> Callable[[], Awaitable[None]]:
        listener = Listener(self.answer, on_fault=lambda fault: None)
        await listener.listen_here(self.socket, self.doors)
        return listener.close


class StandingClock:
    """A clock that is set by hand."""

    def __init__(self, unix_s: int = NOW_UNIX_S) -> None:
        self.now_unix_s = unix_s

    def monotonic_ns(self) -> int:
        return self.now_unix_s * 10**9

    def unix_s(self) -> int:
        return self.now_unix_s

    def moment(self) -> Moment:
        return Moment(unix_s=self.now_unix_s, boot_ns=self.now_unix_s * 10**9, boot="a boot", zone=self.zone())

    def zone(self) -> ZoneInfo:
        return ZoneInfo("UTC")


class StandingSecretary(_Threaded):
    """The whole process but its signals and its seconds, at a moment that the test sets."""

    def __init__(self, config: Path, clock: StandingClock) -> None:
        super().__init__()
        self.config = config
        self.clock = clock
        self.socket = load(config).socket
        self.process: SecretaryProcess | None = None

    async def begin(self) -> Callable[[], Awaitable[None]]:
        configuration = load(self.config)
        configuration.state_directory.mkdir(mode=0o700, exist_ok=True)
        process = self.process = SecretaryProcess(configuration, self.config, clock=self.clock)
        await process.listen()
        return process.close


# --- what is scripted -------------------------------------------------------------------------------------------------

FLOW = FlowSelector(source="10.0.1.1", destination="203.0.113.7", protocol=6, source_port=40_000, destination_port=443)


def scripted() -> dict[type[messages.Question], messages.Answer]:
    done = messages.Done(message="it is done; undo takes it back")
    return {
        messages.AskStatus: messages.SecretaryStatus(
            name="laptop",
            fingerprint=FINGERPRINT,
            keys="in the sealed file /var/lib/hostagent-secretary/keys",
            open_grants=2,
            reserved_nanodollars=150_000_000,
            balance_nanodollars=12_340_000_000,
            questions=2,
            answers=31,
            frozen=("backup.exe pays unknown.example 12 times as much as it used to",),
            warnings=("rules.d/mine.toml: rules[0].program: not a list",),
            organisation="Example Ltd, heard of 2 min ago",
            memory_bytes=96_000_000,
        ),
        messages.AskInbox: messages.Inbox(
            questions=(
                messages.QuestionView(
                    number=7,
                    kind="worth",
                    state="open",
                    user="ann",
                    title="May firefox (web) pay for video.example? (and 3 others)",
                    transfers=4,
                    price_nanodollars=30_000_000,
                    price="20 mUSD to 30 mUSD",
                    asked_unix_s=NOW_UNIX_S - 60,
                    lapses_unix_s=NOW_UNIX_S + 240,
                    otherwise="do not pay",
                    why="your answer is worth 40 mUSD over the coming month beyond what interrupting you costs; "
                    "a yes is 55 % likely, the worth 10 mUSD to 80 mUSD, by what people pay for web",
                ),
                messages.QuestionView(
                    number=5,
                    kind="alarm",
                    state="waiting",
                    user="ann",
                    title="Was this you? backup.exe pays unknown.example",
                    transfers=1,
                    price_nanodollars=0,
                    price="price not known yet",
                    asked_unix_s=NOW_UNIX_S - 90_000,
                    lapses_unix_s=NOW_UNIX_S - 86_400,
                    otherwise="it stays frozen",
                    why="12 times as much as usual within 3 min",
                ),
            ),
            asked_today=1,
            a_day=3,
            quiet="the last question was asked a moment ago",
        ),
        messages.AnswerQuestion: done,
        messages.UndoAnswer: done,
        messages.AskRules: messages.Rules(
            rules=(
                messages.RuleView(
                    source="ceiling", name="roaming", condition="", outcome="2000000 n$ a MB", hits=0, seconds_left=None
                ),
                messages.RuleView(
                    source="answer",
                    name="question 3",
                    condition="firefox, web, example.org",
                    outcome="up to 30 mUSD",
                    hits=0,
                    seconds_left=3540,
                ),
                messages.RuleView(
                    source="mine.toml",
                    name="no-updates",
                    condition="program *update*, network *phone*, 07:00-22:00",
                    outcome="never",
                    hits=41,
                ),
                messages.RuleView(source="organisation", name="calls", condition="", outcome="up to 1 mUSD/MB", hits=3),
            ),
            faults=("mine.toml: rules[2].ports: not a list (write [443])",),
        ),
        messages.AskBudgets: messages.Budgets(
            budgets=(
                _budget("day", "all", "day", spent=400_000_000, reserved=150_000_000, limit=1_000_000_000),
                messages.BudgetLine(
                    name="games",
                    scope="program quake",
                    period="month",
                    hard=False,
                    limit_nanodollars=5_000_000_000,
                    spent_nanodollars=4_100_000_000,
                    reserved_nanodollars=0,
                    resets_unix_s=NOW_UNIX_S + 20 * 86_400,
                    burn_nanodollars_per_day=410_000_000,
                    forecast_nanodollars=12_300_000_000,
                    noticed_percent=80,
                    reason="at this pace it is used up on Thursday",
                ),
            )
        ),
        messages.TopUpPurse: done,
        messages.RaiseBudget: done,
        messages.AskStatement: messages.StatementView(statement=STATEMENT),
        messages.AskTrace: messages.TraceView(traced=TRACED),
        messages.DisputeGrant: done,
        messages.AskWhy: messages.WhyView(
            decision="ask",
            limit_nanodollars=20_000_000,
            lines=("your 3 answers about firefox, and what people pay for web: 61 % sure", "you would be asked"),
        ),
        messages.TellAttention: messages.Done(message="heard"),
        messages.RotateKey: messages.Rotated(
            fingerprint=FINGERPRINT,
            certificate="-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            succession=Signed(kind="key-succession", document=b"{}", signer=FINGERPRINT, signature=b"\0" * 64),
        ),
        messages.Reread: done,
    }


def _budget(name: str, scope: str, period: str, *, spent: int, reserved: int, limit: int) -> messages.BudgetLine:
    return messages.BudgetLine(
        name=name,
        scope=scope,
        period=period,
        hard=True,
        limit_nanodollars=limit,
        spent_nanodollars=spent,
        reserved_nanodollars=reserved,
        resets_unix_s=NOW_UNIX_S + 9 * 3600,
    )


STATEMENT = Statement(
    first_day="2026-11-01",
    last_day="2026-11-30",
    zone="UTC",
    currency="USD",
    by=("program",),
    opening_nanodollars=1_000_000_007,
    top_ups_nanodollars=5_000_000_000,
    vouchers_nanodollars=2_000_000_000,
    refunds_nanodollars=0,
    expired_nanodollars=500_000_000,
    topped_up_nanodollars=6_500_000_000,
    spent_nanodollars=2_400_000_003,
    spent_of_vouchers_nanodollars=1_500_000_000,
    fees_nanodollars=100,
    fees_of_vouchers_nanodollars=0,
    closing_nanodollars=5_099_999_904,
    closing_vouchers_nanodollars=0,
    lines=(
        Line(
            key=KEY,
            program="firefox",
            grants=12,
            nanodollars=2_400_000_000,
            of_vouchers_nanodollars=1_500_000_000,
            told_nanodollars=0,
            assumed_nanodollars=0,
            disputed=False,
        ),
        Line(
            key="2026-11-01/2026-11-30/program/8899aabbccddeeff",
            program="=cmd|' /C calc'!A0",
            grants=1,
            nanodollars=3,
            of_vouchers_nanodollars=0,
            told_nanodollars=0,
            assumed_nanodollars=3,
            disputed=True,
        ),
    ),
    fee_lines=(FeeLine(what="ISP's fee", nanodollars=100),),
)

TRACED = Traced(
    line=STATEMENT.lines[1],
    grants=(
        TracedGrant(
            course=GrantCourse(
                grant=GRANT,
                context=GrantContext(
                    transfer=Transfer(user="ann", program="=cmd|' /C calc'!A0", destination="video.example"),
                    gateway=FINGERPRINT,
                    gateway_name="isp-x",
                    flow=FLOW,
                    rule="learned",
                    why="your 3 answers about it",
                ),
                cap_nanodollars=100,
                spent_nanodollars=3,
                word=Word.ASSUMED,
                is_disputed=True,
                steps=(),
            ),
            steps=(
                Step(
                    from_unix_s=NOW_UNIX_S - 700,
                    until_unix_s=NOW_UNIX_S - 100,
                    nanodollars=3,
                    what="assumed whole (no word)",
                ),
            ),
        ),
    ),
)
assert STATEMENT.adds_up
assert msgspec.json.encode(STATEMENT)
