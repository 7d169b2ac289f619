"""What a judge of a transfer says: pay up to a limit, do not, or ask; and on what that rests.

Values only. The learner gives opinions, the rules give them too; `secretary.judging` makes one decision of them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Course(enum.Enum):
    PAY = "pay"
    DECLINE = "decline"
    ASK = "ask"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """`limit_nanodollars`: the most that this transfer may cost without a question, 0 for nothing.

    `otherwise`: PAY or DECLINE, what holds while a question waits, and if nobody answers it.
    `low_nanodollars` and `high_nanodollars`: the middle 80 % of what the transfer may be worth to the user.
    """

    course: Course
    otherwise: Course
    limit_nanodollars: int
    accept_ppm: int  # how probable it is that the user would accept this price
    low_nanodollars: int
    high_nanodollars: int
    answers: int  # of the user, on which this rests
    basis: str  # one line: "your 5 answers about firefox", "what people pay for calls"
    worth_of_asking_nanodollars: int = 0  # over the coming month, beyond the cost of interrupting if > 0 for ASK
