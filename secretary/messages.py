"""What a host's agent, and the people on it, say to the secretary: JSON lines on a socket.

Decides which questions and answers there are, and who may ask which: an agent's are about grants, a person's about
what was and is to be decided. Refuses to know what follows from them. Each `Request` gets one `Reply` with its number.
docs/spec/secretary-protocol.md has examples.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from billpay.messages import Amount, Count, FlowSelector, Name, Signed, Sum, UnixSeconds
from secretary.inbox.questions import Attention
from secretary.money.purse import Paid
from secretary.money.statements import Statement, Traced
from secretary.ruling.terms import Term
from secretary.transfers import Bytes, Nanodollars, Text, Transfer

LINE_BYTES_MAX = 64 * 1024
"""Of a question."""
ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""Of an answer: a statement has thousands of lines."""

GatewayFingerprint = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?$")]
DayText = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d$")]
VoucherName = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z0-9._:/-]*$")]
GrantId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$")]
ProbedGrant = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{32})?$")]


NO_TRANSFER = Transfer()


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base: the type's name travels with it."""


class AskGrant(_Tagged, frozen=True, kw_only=True):
    """What is this flow worth? The same question again gets the same open grant.

    `transfer`: what the agent knows of it. A size that it does not know is reckoned from what such transfers had, and
    a price from that and `price_nanodollars_per_mb` (0: not known). `probes_of`: the open grant of a timely flow; this
    one is the agent's own, with probes of that one's ways. `implied`: no header survives on the way to the gateway,
    so the grant has to say what a packet pays.
    """

    flow: FlowSelector
    gateway: GatewayFingerprint = ""  # where it will be opened, and nowhere else
    transfer: Transfer = NO_TRANSFER
    price_nanodollars_per_mb: Nanodollars = 0
    probes_of: ProbedGrant = ""
    implied: bool = False


class ExtendGrant(_Tagged, frozen=True, kw_only=True):
    """A later document for an open grant: more to spend, a later end."""

    grant: GrantId
    spent_nanodollars: Sum


class CloseGrant(_Tagged, frozen=True, kw_only=True):
    """The grant is not needed any more. What its gateway's `receipt` says was not spent is free again; without a
    receipt all of the grant counts as spent.
    """

    grant: GrantId
    spent_nanodollars: Sum
    size_bytes: Bytes = 0  # of the flow, for what such transfers have
    receipt: Signed | None = None
    gateway_key: Annotated[bytes, msgspec.Meta(max_length=32)] = b""  # public, of whoever signed the receipt


class AskReturn(_Tagged, frozen=True, kw_only=True):
    """Payments arrived with the opposite flow, cumulative: may they go back with this one?"""

    flow: FlowSelector
    gateway: GatewayFingerprint = ""
    received_nanodollars: Sum
    received_packets: Count


class AskBudget(_Tagged, frozen=True, kw_only=True):
    """How much is left today; and how many questions wait for a person."""


class AskSuccessions(_Tagged, frozen=True, kw_only=True):
    """How the signing key came to be the one that it is, for a gateway that knows an older one."""


class TellQuit(_Tagged, frozen=True, kw_only=True):
    """Of these programs nothing runs any more: answers that held until then are over."""

    programs: Annotated[tuple[Text, ...], msgspec.Meta(max_length=256)]


AgentQuestion = AskGrant | ExtendGrant | CloseGrant | AskReturn | AskBudget | AskSuccessions | TellQuit


# --- what a person asks -----------------------------------------------------------------------------------------------


class AskStatus(_Tagged, frozen=True, kw_only=True):
    pass


class AskInbox(_Tagged, frozen=True, kw_only=True):
    """Questions that wait, the latest first; with `answered` also those that do not wait any more."""

    answered: bool = False


class AnswerQuestion(_Tagged, frozen=True, kw_only=True):
    """`limit_nanodollars`: up to which price of such a transfer; None: the one that was asked about."""

    number: Count
    accept: bool
    limit_nanodollars: Nanodollars | None = None
    term: Term = Term.ONCE  # it teaches; any other also stands as a rule of its own for as long


class UndoAnswer(_Tagged, frozen=True, kw_only=True):
    """Unlearns it. None: the latest answer."""

    number: Count | None = None


class AskRules(_Tagged, frozen=True, kw_only=True):
    pass


class AskBudgets(_Tagged, frozen=True, kw_only=True):
    pass


class TopUpPurse(_Tagged, frozen=True, kw_only=True):
    """Money into the purse. The same `transfer` again changes nothing."""

    transfer: Name
    nanodollars: Paid
    voucher: VoucherName = ""  # a voucher of that name, which is spent first
    expires_unix_s: UnixSeconds = 0  # of a voucher; 0: never


class RaiseBudget(_Tagged, frozen=True, kw_only=True):
    """More for the period that runs."""

    budget: Text
    nanodollars: Paid
    who: Text = ""  # of a budget that each program, network or person has of its own


class SetClockRight(_Tagged, frozen=True, kw_only=True):
    """The clock was ahead, and is right now: budgets go back into the periods of now, and nothing is renewed by it."""


class AskStatement(_Tagged, frozen=True, kw_only=True):
    """Of the local days from the first to the last, both in it. `by`: columns of `secretary.money.statements`."""

    first_day: DayText
    last_day: DayText
    by: Annotated[tuple[Text, ...], msgspec.Meta(max_length=6)] = ("program",)


class AskTrace(_Tagged, frozen=True, kw_only=True):
    """What is behind one line of a statement: `key` is the line's."""

    key: Annotated[str, msgspec.Meta(max_length=2000)]


class DisputeGrant(_Tagged, frozen=True, kw_only=True):
    """Marks the lines in which a grant is; the gateway's operator is to be asked, with the trace in hand."""

    grant: GrantId
    note: Text = ""


class AskWhy(_Tagged, frozen=True, kw_only=True):
    """What would be decided about a transfer now, and why; nothing is promised, asked or learned by it.

    `flow`: for rules that name addresses, protocols or ports.
    """

    transfer: Transfer
    flow: FlowSelector | None = None


class TellAttention(_Tagged, frozen=True, kw_only=True):
    """From the person's session: whether a question would be in the way just now."""

    attention: Attention


class RotateKey(_Tagged, frozen=True, kw_only=True):
    """A new signing key; the answer is for the gateways."""


class Reread(_Tagged, frozen=True, kw_only=True):
    """The rules' files and the configuration, now."""


PersonQuestion = (
    AskStatus
    | AskInbox
    | AnswerQuestion
    | UndoAnswer
    | AskRules
    | AskBudgets
    | TopUpPurse
    | RaiseBudget
    | SetClockRight
    | AskStatement
    | AskTrace
    | DisputeGrant
    | AskWhy
    | TellAttention
    | RotateKey
    | Reread
)
Question = AgentQuestion | PersonQuestion


# --- answers ----------------------------------------------------------------------------------------------------------


class Granted(_Tagged, frozen=True, kw_only=True):
    """`amount_nanodollars`: of each packet ("fixed"), or the most of a returned one ("return").

    `probes_nanodollars`: what probes of a timely flow's ways may cost, besides the flow.
    """

    signed: Signed
    rule: str
    strategy: str  # "fixed", "bulk", "timely", "return"
    amount_nanodollars: Amount
    willingness_nanodollars: Amount
    target_bit_s: Count
    share_nanodollars: Amount
    probes_nanodollars: Sum = 0
    why: str = ""  # one line


class Unpaid(_Tagged, frozen=True, kw_only=True):
    """No: `code` is stable, `message` one line for a person. `question`: one that was asked about it, 0 for none."""

    code: str
    message: str
    question: Count = 0


class Closed(_Tagged, frozen=True, kw_only=True):
    """`spent_nanodollars`: what is booked."""

    spent_nanodollars: Sum = 0


class Successions(_Tagged, frozen=True, kw_only=True):
    """Each signed by the key before, the oldest first."""

    signed: tuple[Signed, ...]


class BudgetLine(_Tagged, frozen=True, kw_only=True):
    name: str
    scope: str  # "all", "program firefox", "network Home", "person ann"
    period: str
    hard: bool
    limit_nanodollars: Sum
    spent_nanodollars: Sum
    reserved_nanodollars: Sum
    resets_unix_s: UnixSeconds
    burn_nanodollars_per_day: Sum = 0
    forecast_nanodollars: Sum = 0
    noticed_percent: Count = 0
    reason: str = ""


class Budget(_Tagged, frozen=True, kw_only=True):
    """Of today. What open grants may still spend is reserved. `questions`: so many wait for a person."""

    day_nanodollars: Sum
    spent_today_nanodollars: Sum
    reserved_nanodollars: Sum
    questions: Count = 0
    answers: Count = 0  # so many were given or undone: when it grows, what was declined may be worth another question
    until_quit: tuple[str, ...] = ()  # programs whose answers hold until nothing of them runs
    lines: tuple[BudgetLine, ...] = ()


class Done(_Tagged, frozen=True, kw_only=True):
    """What was asked for is done and kept."""

    message: str


class SecretaryStatus(_Tagged, frozen=True, kw_only=True):
    name: str
    fingerprint: str
    keys: str  # where the signing key is, one line
    open_grants: Count
    reserved_nanodollars: Sum | None  # None: a keeper's to see
    balance_nanodollars: int | None  # of the purse
    left_nanodollars: Sum | None = None  # of it and its credit, for grants that are not open yet
    questions: Count
    answers: Count  # that the learner rests on
    frozen: tuple[str, ...] = ()  # streams that the guard stopped, one line each
    warnings: tuple[str, ...] = ()
    organisation: str = ""  # whose policy is over ours, one line; "" for nobody's
    memory_bytes: Count = 0


class QuestionView(_Tagged, frozen=True, kw_only=True):
    """A question as a person sees it. `state`: "open", "waiting" (its default holds), "answered", "undone"."""

    number: Count
    kind: str  # "worth", "alarm", "budget"
    state: str
    user: str
    title: str  # "firefox wants to pay up to 0.03 USD to download.example"
    transfers: Count  # that wait for it
    price_nanodollars: Nanodollars  # what a plain yes allows
    price: str  # of all transfers that wait, for a screen
    asked_unix_s: UnixSeconds
    lapses_unix_s: UnixSeconds
    otherwise: str  # what holds until, and if nobody answers: one line
    why: str  # why it is asked: one line
    answer: str = ""  # one line


class Inbox(_Tagged, frozen=True, kw_only=True):
    questions: tuple[QuestionView, ...]
    asked_today: Count = 0
    a_day: Count = 0
    quiet: str = ""  # why nothing would be asked just now, one line


class RuleView(_Tagged, frozen=True, kw_only=True):
    """In the order in which they are looked at. `source`: "answer", a file's name, "organisation", "ceiling"."""

    source: str
    name: str
    condition: str
    outcome: str
    hits: Count
    seconds_left: int | None = None  # of an answer that ends


class Rules(_Tagged, frozen=True, kw_only=True):
    rules: tuple[RuleView, ...]
    faults: tuple[str, ...] = ()  # in files: their last good rules hold


class Budgets(_Tagged, frozen=True, kw_only=True):
    budgets: tuple[BudgetLine, ...]


class StatementView(_Tagged, frozen=True, kw_only=True):
    """Adds up, to the nanodollar (`Statement.adds_up`)."""

    statement: Statement


class TraceView(_Tagged, frozen=True, kw_only=True):
    """The grants behind a line, their flows and intervals."""

    traced: Traced


class WhyView(_Tagged, frozen=True, kw_only=True):
    """`decision`: "pay", "decline" or "ask"."""

    decision: str
    limit_nanodollars: Nanodollars
    lines: tuple[str, ...]


class Rotated(_Tagged, frozen=True, kw_only=True):
    """`succession`: signed by the old key, for each gateway that knows it."""

    fingerprint: str
    certificate: str
    succession: Signed


class Refused(_Tagged, frozen=True, kw_only=True):
    """The line was no question, or the secretary could not take it; asking the same again gets the same."""

    code: str
    message: str


Answer = (
    Granted
    | Unpaid
    | Closed
    | Budget
    | Successions
    | Done
    | SecretaryStatus
    | Inbox
    | Rules
    | Budgets
    | StatementView
    | TraceView
    | WhyView
    | Rotated
    | Refused
)


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Count  # drawn by the asker: 1, 2, … on a connection
    question: Question


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: Count  # of the request; 0: its number could not be read
    answer: Answer
