"""Which engine of payments is taken, and what is kept of the reasons."""

from __future__ import annotations

import pytest

from billpay.errors import EnvironmentFault
from dataplane.payment_engines import PaymentChoice, PaymentEngine, choose, instead

FAULTS = ("libbpf is not installed", 'link "a" has a tunnel')


def test_the_best_that_works_is_taken() -> None:
    choice = choose("auto", ())
    assert choice == PaymentChoice(engine=PaymentEngine.EBPF)
    assert choice.reason == "ebpf: the best there is"


def test_each_reason_against_the_better_one_is_kept() -> None:
    choice = choose("auto", FAULTS)
    assert choice.engine is PaymentEngine.NFQUEUE
    assert choice.faults == FAULTS
    assert choice.reason == 'nfqueue; not ebpf: libbpf is not installed; link "a" has a tunnel'


@pytest.mark.parametrize("faults", [(), FAULTS])
def test_who_names_the_slower_one_gets_it(faults: tuple[str, ...]) -> None:
    choice = choose("nfqueue", faults)
    assert choice.engine is PaymentEngine.NFQUEUE
    assert choice.reason == "nfqueue: the configuration names it"


def test_who_names_one_that_cannot_be_is_told_why_in_one_line() -> None:
    assert choose("ebpf", ()).reason == "ebpf: the configuration names it"
    with pytest.raises(
        EnvironmentFault, match=r"engine of payments ebpf: libbpf is not installed; link .*auto"
    ) as told:
        choose("ebpf", FAULTS)
    assert "\n" not in str(told.value)


def test_one_that_cannot_start_is_followed_by_the_other_unless_it_was_named() -> None:
    fault = EnvironmentFault("load", "programs", "the verifier refused them", "report it")
    after = instead(choose("auto", ()), fault)
    assert after.engine is PaymentEngine.NFQUEUE
    assert "the verifier refused them" in after.reason
    for choice in (choose("ebpf", ()), choose("auto", FAULTS), choose("nfqueue", ())):
        with pytest.raises(EnvironmentFault):
            instead(choice, fault)
