"""What a gateway's engine of payments means for the kernel, and how people see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from billpay.errors import ConfigurationError
from cli.show.gateway import show_gateway
from dataplane.payment_engines import PaymentChoice, PaymentEngine, choose
from gateway.admin import GatewayStatus
from gateway.configuration import AlternativeSection as Alternative
from gateway.configuration import Configuration, GatewaySection, LinkSection, RouteSection, load
from gateway.kernel_state import desired_state
from gateway.neighbours import Neighbours
from gateway.status import status_of
from neighbour.book import Book
from neighbour.identity import NodeIdentity

SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "gateway.toml"
CONFIGURATION = Configuration(
    gateway=GatewaySection(name="X", as_number=64512, state_directory="/var/lib/x"),
    links=(LinkSection(name="a", interface="a0", peer="legacy"), LinkSection(name="b", interface="b0", peer="legacy")),
    routes=(
        RouteSection(
            prefix="10.0.2.0/24", alternatives=(Alternative(number=1, link="a"), Alternative(number=2, link="b"))
        ),
    ),
)


def test_programs_in_the_kernel_need_no_queues_but_the_same_routes() -> None:
    queued, programmed = (
        desired_state(CONFIGURATION, engine) for engine in (PaymentEngine.NFQUEUE, PaymentEngine.EBPF)
    )
    assert [(rule.interface, rule.family) for rule in queued.queues] == [("a0", 4), ("a0", 6), ("b0", 4), ("b0", 6)]
    assert programmed.queues == ()
    assert programmed.routes == queued.routes != ()


def test_a_file_may_name_an_engine_and_no_other_word(tmp_path: Path) -> None:
    assert load(SAMPLE).gateway.engine == "auto"
    path = tmp_path / "gateway.toml"
    path.write_text(SAMPLE.read_text().replace('engine = "auto"', 'engine = "sockets"'))
    with pytest.raises(ConfigurationError, match=r"gateway\.engine"):
        load(path)


@pytest.mark.parametrize(
    ("choice", "engine", "reason"),
    [
        (choose("auto", ()), "ebpf", "ebpf: the best there is"),
        (choose("auto", ["no libbpf"]), "nfqueue", "nfqueue; not ebpf: no libbpf"),
        (None, "", "not started yet"),
    ],
)
def test_people_see_the_engine_and_why_it_is_not_the_better_one(
    choice: PaymentChoice | None, engine: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = status_with(choice, tmp_path)
    assert (status.engine, status.engine_reason) == (engine, reason)
    show_gateway(status)
    assert f"engine of payments: {reason}\n" in capsys.readouterr().out


def status_with(choice: PaymentChoice | None, directory: Path) -> GatewayStatus:
    book = Book.open(directory / "book.sqlite")
    try:
        neighbours = Neighbours(
            configuration=CONFIGURATION,
            identity=NodeIdentity.load_or_create(directory, name="X"),
            book=book,
            read=lambda _link: pytest.fail("nobody has an account here"),
            on_change=lambda _state: None,
        )
        return status_of(CONFIGURATION, neighbours, {}, {}, data_plane="running", engine=choice, open_grants=0)
    finally:
        book.close()
