"""Probes of a timely flow's ways: with its whole willingness, by its own budget, and a lost one tells something too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from gateway_network import A_V4, B_V4, X, Y, grant_for, plain
from one_host import echo_of, flow_of, report_of

from billpay.header import ISP_WRITTEN
from billpay.messages import ECHO_PORT, FlowSelector, OadAlternative, OadDescription, OadObservation, ProbeReply
from hostagent.configuration import Configuration
from hostagent.payments.commands import Answer, Command, Done, Oads, PayFlow
from hostagent.payments.flowbook import FlowBook, path_text
from hostagent.payments.flows import Flow
from hostagent.payments.measuring import LOST_NS, Measuring
from hostagent.payments.probing import Probe, decode_probe
from neighbour.identity import NodeIdentity
from pricereactor.reactor import reactor_for

S = 10**9
PACKET = plain()
FLOW = flow_of(PACKET)
PROBES = msgspec.structs.replace(FLOW, source_port=50_000, destination_port=ECHO_PORT)
WILLING = 40
BY_1: Oads = ((X, ISP_WRITTEN | 3, 1), (Y, ISP_WRITTEN | 1, 1))
BY_2: Oads = ((X, ISP_WRITTEN | 3, 2), (Y, ISP_WRITTEN | 1, 1))


class Wire:
    """A socket, as far as probes need one."""

    def __init__(self) -> None:
        self.sent: list[Probe] = []

    def getsockname(self) -> tuple[str, int]:
        return A_V4, PROBES.source_port

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        assert address == (B_V4, ECHO_PORT)
        probe = decode_probe(data)
        assert probe is not None
        self.sent.append(probe)


class Prober:
    """A flow that pays, its probes' flow, and whoever sends them."""

    def __init__(self, directory: Path, *, strategy: str = "timely", probes_nanodollars: int = 10 * WILLING) -> None:
        identity = NodeIdentity.load_or_create(directory, name="a")
        peer = SimpleNamespace(name="b", addresses=(B_V4,), certificate=str(directory / "node.pem"))
        settings = SimpleNamespace(peers=[peer], paths=SimpleNamespace(probe=True))
        self.book = FlowBook(delay_value_nanodollars_per_ms=0)
        self.told: list[PayFlow] = []
        self.measuring = Measuring(
            cast("Configuration", settings), identity=identity, flows=self.book, session="0" * 32, tell=self._tell
        )
        self.wire = Wire()
        self.measuring._probe_sockets = cast("Any", {4: self.wire})
        self.now_ns = 0
        self._describe()
        self.flow = self._flow(FLOW)
        self.flow.react_by(
            reactor_for(
                strategy,
                amount_nanodollars=20,
                willingness_nanodollars=WILLING,
                target_bit_s=0,
                probes_nanodollars=probes_nanodollars,
            )
        )
        self.flow.on_grant(grant_for(PACKET), "X")
        self.flow.amount_nanodollars = 7
        way = OadObservation(oads=BY_1, packets=1, received_nanodollars=5, lowest_amount=5, path_length=2)
        self.book.on_echo(echo_of(FLOW, observations=(way,)), 0)

    async def _tell(self, command: Command) -> Answer:
        assert isinstance(command, PayFlow)
        self.told.append(command)
        return Done()

    def _describe(self) -> None:
        description = OadDescription(
            issuer="0" * 64,
            as_number=X,
            serial=1,
            prefix="10.0.2.0/24",
            alternatives=tuple(OadAlternative(number=number, title=f"by {number}") for number in (1, 2)),
            published_unix_s=0,
            expires_unix_s=2**33,
        )
        self.book.cartographer.on_description(description, now_unix_s=1, now_ns=0)

    def _flow(self, selector: FlowSelector) -> Flow:
        self.book.on_reports([report_of(selector, out_packets=1, last_ns=self.now_ns)], self.now_ns)
        return self.book.flows[selector]

    def open_probes(self) -> None:
        """Their flow was seen, judged, and got its grant."""
        probes = self._flow(PROBES)
        packet = plain(sport=PROBES.source_port, dport=PROBES.destination_port)
        probes.on_grant(grant_for(packet, grant="d" * 32), "X")
        probes.judged = True

    def seconds(self, seconds: int) -> None:
        for _ in range(5 * seconds):
            self.now_ns += S // 5
            self.book.on_reports([report_of(FLOW, out_packets=1, last_ns=self.now_ns)], self.now_ns)
            self.book.cartographer.choose(B_V4, self.now_ns)
            asyncio.run(self.measuring.send_probes(self.now_ns))

    def answer(self, number: int, oads: Oads, remaining: int) -> None:
        reply = ProbeReply(probe=number, sent_ns=0, held_ns=0, remaining=remaining, oads=oads)
        self.measuring._on_probe_replies(echo_of(PROBES, probes=(reply,)), self.now_ns)


@pytest.mark.row("BP-46", "BP-47")
def test_probes_carry_the_whole_willingness_until_their_budget_is_used_up(tmp_path: Path) -> None:
    prober = Prober(tmp_path, probes_nanodollars=3 * WILLING)
    prober.seconds(1)
    assert prober.wire.sent, "the first one leaves unpaid: its flow has to be seen to be granted"
    assert prober.told == []
    prober.open_probes()
    assert prober.flow.grant is not None
    assert prober.book.flows[PROBES].probes_of == prober.flow.grant.grant
    prober.seconds(30)
    assert [command.amount_nanodollars for command in prober.told] == [WILLING] * 3
    assert any(slot[0] == X for command in prober.told for slot in command.slots), "an alternative is asked for"
    assert prober.flow.timely is not None
    assert prober.flow.timely.probes_nanodollars == 3 * WILLING


@pytest.mark.row("BP-46")
def test_answers_tell_the_tolls_of_their_path_and_silence_that_it_loses(tmp_path: Path) -> None:
    prober = Prober(tmp_path)
    prober.seconds(1)
    prober.open_probes()
    prober.seconds(2)
    (number, asked), *_ = prober.measuring._asked.items()
    prober.answer(number, BY_2, 25)
    timely = prober.flow.timely
    assert timely is not None
    seen = timely._seen[path_text(BY_2)]
    assert (list(seen.tolls), list(seen.outcomes)) == ([WILLING - 25], [(1, 0)])
    prober.answer(number, BY_2, 25)
    assert len(seen.tolls) == 1, "an answer counts once"
    prober.seconds(2 * LOST_NS // S + 6)
    assert (1, 1) in seen.outcomes
    assert all(prober.now_ns - asked.sent_ns < LOST_NS for asked in prober.measuring._asked.values())
    assert asked.slots in {slots for _, slots in prober.measuring._ways}


def test_a_flow_that_is_not_timely_probes_with_what_it_pays_as_before(tmp_path: Path) -> None:
    prober = Prober(tmp_path, strategy="fixed")
    prober.seconds(1)
    prober.open_probes()
    prober.seconds(6)
    assert prober.book.flows[PROBES].probes_of == ""
    assert {command.amount_nanodollars for command in prober.told} == {7}


def test_without_a_budget_a_timely_flow_leaves_probes_to_the_secretarys_file(tmp_path: Path) -> None:
    prober = Prober(tmp_path, probes_nanodollars=0)
    prober.seconds(1)
    prober.open_probes()
    prober.seconds(6)
    assert prober.book.flows[PROBES].probes_of == ""
    assert {command.amount_nanodollars for command in prober.told} == {7}
