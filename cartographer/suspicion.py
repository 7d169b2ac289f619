"""What the cartographer tells a judge of ISPs, and what it asks; and the judge of those who want none.

Nothing is decided here.  `cartographer.judging.judge.Judge` is one.  A `destination` is who received the packets and
wrote the echoes.  Source: Bill-Pay 2.1, 2.2.  Pure.
"""

from __future__ import annotations

from typing import Protocol

from cartographer.values import Way


class Judging(Protocol):
    """Facts in, objections out."""

    def on_promise(
        self,
        as_number: int,
        alternative: int,
        *,
        serial: int,
        delay_ns: int | None,
        toll_picodollars: int | None,
        now_ns: int,
        destination: str = "",
    ) -> None: ...

    def on_way_measured(
        self,
        way: Way,
        *,
        round_trip_ns: int | None,
        toll_picodollars: int | None,
        now_ns: int,
        destination: str = "",
        amount_nanodollars: int | None = None,
    ) -> None: ...

    def on_paid_packets(
        self,
        way: Way,
        *,
        sent: int,
        arrived: int,
        now_ns: int,
        destination: str = "",
        amount_nanodollars: int | None = None,
    ) -> None: ...

    def on_unpaid_packets(self, way: Way, *, sent: int, arrived: int, now_ns: int, destination: str = "") -> None: ...

    def on_marks(self, way: Way, *, marked: int, now_ns: int, destination: str = "") -> None: ...

    def on_wish(
        self,
        as_number: int,
        alternative: int,
        *,
        followed: bool,
        now_ns: int,
        destination: str = "",
        way: Way = "",
    ) -> None: ...

    def on_congestion_claimed(
        self, as_number: int, alternative: int, *, congestion_picodollars: int, now_ns: int, destination: str = ""
    ) -> None: ...

    def believes(self, as_number: int, now_ns: int, destination: str = "") -> bool: ...

    def objection(self, as_number: int, alternative: int, now_ns: int, destination: str = "") -> str: ...


class Unsuspecting:
    """Believes everybody."""

    def on_promise(
        self,
        as_number: int,
        alternative: int,
        *,
        serial: int,
        delay_ns: int | None,
        toll_picodollars: int | None,
        now_ns: int,
        destination: str = "",
    ) -> None:
        pass

    def on_way_measured(
        self,
        way: Way,
        *,
        round_trip_ns: int | None,
        toll_picodollars: int | None,
        now_ns: int,
        destination: str = "",
        amount_nanodollars: int | None = None,
    ) -> None:
        pass

    def on_paid_packets(
        self,
        way: Way,
        *,
        sent: int,
        arrived: int,
        now_ns: int,
        destination: str = "",
        amount_nanodollars: int | None = None,
    ) -> None:
        pass

    def on_unpaid_packets(self, way: Way, *, sent: int, arrived: int, now_ns: int, destination: str = "") -> None:
        pass

    def on_marks(self, way: Way, *, marked: int, now_ns: int, destination: str = "") -> None:
        pass

    def on_wish(
        self,
        as_number: int,
        alternative: int,
        *,
        followed: bool,
        now_ns: int,
        destination: str = "",
        way: Way = "",
    ) -> None:
        pass

    def on_congestion_claimed(
        self, as_number: int, alternative: int, *, congestion_picodollars: int, now_ns: int, destination: str = ""
    ) -> None:
        pass

    def believes(self, as_number: int, now_ns: int, destination: str = "") -> bool:  # noqa: ARG002
        return True

    def objection(self, as_number: int, alternative: int, now_ns: int, destination: str = "") -> str:  # noqa: ARG002
        return ""
