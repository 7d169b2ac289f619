"""The digital secretary in tests of the screens: what it says is scripted, what it is told is kept."""

from __future__ import annotations

import msgspec
from snapshots import DAY_S, NOW_UNIX_S, household

from billpay.errors import BillpayError
from hostagent import api
from tui.model.personal import (
    Inbox,
    Line,
    Purse,
    Question,
    Rule,
    Rules,
    Statement,
    Step,
    Trace,
    TracedGrant,
)

SOCKET = "/run/hostagent-secretary/secretary.sock"
WORTH = Question(
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
    why="your answer is worth 40 mUSD over the coming month beyond what interrupting you costs; a yes is 55 % likely, "
    "the worth 10 mUSD to 80 mUSD, by what people pay for web",
)
ALARM = Question(
    number=5,
    kind="alarm",
    state="waiting",
    user="ann",
    title="Was this you? backup.exe pays unknown.example",
    transfers=1,
    price_nanodollars=0,
    price="price not known yet",
    asked_unix_s=NOW_UNIX_S - DAY_S,
    lapses_unix_s=NOW_UNIX_S - DAY_S + 300,
    otherwise="it stays frozen",
    why="12 times as much as usual within 3 min",
)
MORE = Question(
    number=6,
    kind="budget",
    state="open",
    user="",
    title="May the budget day have 1 USD more for today?",
    transfers=1,
    price_nanodollars=10**9,
    price="1 USD",
    asked_unix_s=NOW_UNIX_S - 600,
    lapses_unix_s=NOW_UNIX_S + 3_000,
    otherwise="do not pay",
    why="80 % of it is spent, and at this pace it is used up at 17:40",
)
ANSWERED = Question(
    number=3,
    kind="worth",
    state="answered",
    user="ann",
    title="May steam (game) pay for cdn.example?",
    transfers=1,
    price_nanodollars=50_000_000,
    price="50 mUSD",
    asked_unix_s=NOW_UNIX_S - 7_200,
    lapses_unix_s=NOW_UNIX_S - 6_900,
    otherwise="do not pay",
    why="first contact: nothing is known of it",
    answer="yes, today",
)
RULES = Rules(
    rules=(
        Rule(source="ceiling", name="roaming", condition="", outcome="at most 2 mUSD a MB", hits=None),
        Rule(
            source="answer",
            name="question 3",
            condition="steam, game, cdn.example",
            outcome="up to 50 mUSD",
            hits=None,
            seconds_left=32_000,
        ),
        Rule(
            source="mine.toml",
            name="no-updates",
            condition="program *update*, network *phone*, 07:00-22:00",
            outcome="never",
            hits=41,
        ),
        Rule(source="organisation", name="calls", condition="kind call", outcome="up to 1 mUSD/MB", hits=0),
    ),
    faults=("mine.toml: rules[2].ports: not a list (write [443])",),
)
PURSE = Purse(
    balance_nanodollars=12_340_000_000,
    reserved_nanodollars=150_000_000,
    open_grants=2,
    answers=31,
    frozen=("backup.exe pays unknown.example 12 times as much as it used to",),
)
KEY = "2026-11-01/2026-11-30/program/0011223344556677"
NAMES = {
    "program": ("firefox", "restic", "backup.exe"),
    "destination": ("video.example", "198.51.100.9", "unknown.example"),
    "gateway": ("isp-x (3f9ac21b)", "campus (77e0aa55)", "isp-x (3f9ac21b)"),
    "network": ("Wi-Fi Home", "Hotspot Phone", ""),
    "day": ("2026-11-03", "2026-11-09", "2026-11-10"),
    "user": ("ann", "bob", "ann"),
}
AMOUNTS = (
    (KEY, 2_400_000_000, 12, 1_500_000_000, "confirmed"),
    (KEY.replace("0011", "0022"), 821_000_000, 3, 0, "as told"),
    (KEY.replace("0011", "0033"), 3, 1, 0, "assumed, disputed"),
)
TRACE = Trace(
    key=KEY,
    grants=(
        TracedGrant(
            grant="0123456789abcdef0123456789abcdef",
            flow="tcp 192.0.2.7:40000 > 203.0.113.7:443",
            gateway="isp-x (3f9ac21b)",
            because="your 3 answers about it",
            word="confirmed by the gateway",
            is_disputed=False,
            cap_nanodollars=2_500_000_000,
            steps=(
                Step(
                    from_unix_s=NOW_UNIX_S - 700,
                    until_unix_s=NOW_UNIX_S - 400,
                    nanodollars=1_000_000_000,
                    what="as told",
                ),
                Step(
                    from_unix_s=NOW_UNIX_S - 400,
                    until_unix_s=NOW_UNIX_S - 100,
                    nanodollars=1_400_000_000,
                    what="confirmed by the gateway",
                ),
            ),
        ),
    ),
)


def statement(first_day: str, last_day: str, by: str) -> Statement:
    lines = tuple(
        Line(
            key=key,
            what=what,
            user="ann",
            grants=grants,
            nanodollars=paid,
            of_vouchers_nanodollars=vouchers,
            state=state,
        )
        for what, (key, paid, grants, vouchers, state) in zip(NAMES[by], AMOUNTS, strict=True)
    )
    return Statement(
        first_day=first_day,
        last_day=last_day,
        zone="UTC",
        currency="USD",
        by=by,
        opening_nanodollars=1_000_000_007,
        topped_up_nanodollars=6_500_000_000,
        topped_up_parts=(("vouchers", 2 * 10**9), ("expired vouchers", -500_000_000)),
        spent_nanodollars=3_221_000_003,
        of_vouchers_nanodollars=1_500_000_000,
        fees_nanodollars=100,
        fee_lines=(("isp-x's fee", 100),),
        closing_nanodollars=4_278_999_904,
        lines=lines,
    )


class ScriptedSecretary:
    """Answers at once; `refuses` is what it says instead."""

    def __init__(self) -> None:
        self.questions: tuple[Question, ...] = (WORTH, MORE, ALARM)
        self.purse_now = PURSE
        self.told: list[tuple[object, ...]] = []
        self.asked: list[str] = []
        self.refuses: BillpayError | None = None

    def _asked(self, what: str) -> None:
        self.asked.append(what)
        if self.refuses is not None:
            raise self.refuses

    async def inbox(self, *, answered: bool) -> Inbox:
        self._asked("inbox")
        shown = (*self.questions, ANSWERED) if answered else self.questions
        return Inbox(questions=shown, asked_today=1, a_day=3, quiet="it is a quiet hour")

    async def answer(self, number: int, *, accept: bool, limit_nanodollars: int | None, term: api.Term) -> str:
        self.told.append(("answer", number, accept, limit_nanodollars, term))
        self._asked("answer")
        self.questions = tuple(question for question in self.questions if question.number != number)
        return f"question {number}: {'yes' if accept else 'no'} ({term.value}); undo takes it back"

    async def undo(self, number: int | None) -> str:
        self.told.append(("undo", number))
        self._asked("undo")
        return "the answer to question 3 was never given; the question waits again"

    async def rules(self) -> Rules:
        self._asked("rules")
        return RULES

    async def purse(self) -> Purse:
        self._asked("purse")
        return self.purse_now

    async def statement(self, first_day: str, last_day: str, by: str) -> Statement:
        self._asked(f"statement {first_day} {last_day} {by}")
        return statement(first_day, last_day, by)

    async def trace(self, key: str) -> Trace:
        self._asked(f"trace {key}")
        return Trace(key=key, grants=TRACE.grants if key == KEY else ())

    async def top_up(self, transfer: str, nanodollars: int) -> str:
        self.told.append(("top-up", transfer, nanodollars))
        self._asked("top-up")
        return "booked: the purse has 17.3 USD"


def with_secretary(shown: api.Snapshot, *, questions: int = 3, socket: str = SOCKET) -> api.Snapshot:
    """The same host, whose agent says where the secretary is, and that so many questions wait there."""
    status = msgspec.structs.replace(shown.status, secretary_socket=socket, secretary_questions=questions)
    return msgspec.structs.replace(shown, status=status)


def household_with_secretary(*, unix_s: int = NOW_UNIX_S, questions: int = 3) -> api.Snapshot:
    return with_secretary(household(unix_s=unix_s), questions=questions)
