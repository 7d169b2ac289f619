"""What a person should know once: a bounded list, the latest last.

Decides: that the same thing is not said twice in a row of minutes. Refuses to know: what it means. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hostagent import api

NOTICES_MAX: Final = 100
SAME_S: Final = 600


class Notices:
    """Numbers grow by one and are not used again in one life of the agent."""

    def __init__(self) -> None:
        self._notices: deque[api.Notice] = deque(maxlen=NOTICES_MAX)
        self._number = 0
        self._said: dict[tuple[str, str], int] = {}

    def say(self, unix_s: int, code: str, message: str) -> bool:
        """Whether it is new."""
        last = self._said.get((code, message))
        if last is not None and 0 <= unix_s - last < SAME_S:
            return False
        self._said = {key: at for key, at in self._said.items() if 0 <= unix_s - at < SAME_S}
        self._said[code, message] = unix_s
        self._number += 1
        self._notices.append(api.Notice(number=self._number, unix_s=unix_s, code=code, message=message))
        return True

    def all(self) -> tuple[api.Notice, ...]:
        return tuple(self._notices)
