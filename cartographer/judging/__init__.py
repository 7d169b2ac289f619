"""Which ISP is greedy: it keeps payments and drops, fakes congestion, lies in its descriptions, or ignores wishes.

`Judge` takes facts and says what is found; `docs/explanation/greed.md` says from what evidence, how surely, and what
cannot be known.
"""

from __future__ import annotations

from cartographer.judging.accusations import RememberedAccusation
from cartographer.judging.judge import Judge
from cartographer.judging.terms import ANY_ALTERNATIVE, Finding, JudgingTerms, Kind

__all__ = ["ANY_ALTERNATIVE", "Finding", "Judge", "JudgingTerms", "Kind", "RememberedAccusation"]
