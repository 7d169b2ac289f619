"""Verbs by which a person decides: what the agent is told, and what is refused before it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable

import jsonschema
import pytest
from click.testing import Result
from scripted_agent import FakeAgent
from snapshots import FINGERPRINT, household

from cli.exit_codes import ExitCode
from cli.results import schema
from hostagent import api
from hostagent.desk import Refused

Run = Callable[..., Result]


@pytest.mark.expectation(9)
@pytest.mark.parametrize("term", [each.value for each in api.Term])
def test_an_answer_holds_as_long_as_the_person_says(run: Run, agent: FakeAgent, term: str) -> None:
    done = run("answer", "7", "no", "--for", term)
    assert done.exit_code == 0
    assert agent.desk.told == [api.Answer(number=7, allow=False, term=api.Term(term))]
    assert len(done.stdout.splitlines()) == 1


def test_an_answer_is_for_this_flow_unless_more_is_said(run: Run, agent: FakeAgent) -> None:
    assert run("answer", "7", "yes").stdout == "question 7: yes, this once\n"
    assert agent.desk.told == [api.Answer(number=7, allow=True)]


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("restic 2 USD/GB", api.WorthChange(program="restic", nanodollars_per_mb=2_000_000)),
        ("restic 0.5 --for today", api.WorthChange(program="restic", nanodollars_per_mb=500_000, term=api.Term.TODAY)),
        ("/usr/bin/zoom call --for 1h", api.WorthChange(program="/usr/bin/zoom", kind="call", term=api.Term.ONE_HOUR)),
        ("restic reset", api.WorthChange(program="restic")),
    ],
)
def test_a_worth_is_told_as_it_was_meant(run: Run, agent: FakeAgent, words: str, change: api.WorthChange) -> None:
    done = run("worth", *words.split())
    assert (done.exit_code, done.stderr) == (0, "")
    assert agent.desk.told == [change]
    assert done.stdout.startswith(change.program)


@pytest.mark.parametrize("words", ["restic", "restic 2 GB", "restic -- -1", "restic 2 --for ever", "restic ;"])
def test_a_worth_that_is_none_is_a_wrong_argument(run: Run, agent: FakeAgent, words: str) -> None:
    done = run("worth", *words.split())
    assert done.exit_code == ExitCode.USAGE
    assert agent.desk.told == []


def test_another_currency_is_not_converted(run: Run, agent: FakeAgent) -> None:
    done = run("worth", "restic", "2", "EUR/GB")
    assert (done.exit_code, agent.desk.told) == (ExitCode.USAGE, [])
    assert "reckons in USD" in done.stderr


def test_an_unknown_kind_is_refused_by_the_agent(run: Run) -> None:
    done = run("worth", "restic", "nonsense")
    assert done.exit_code == ExitCode.REFUSED
    assert "there are: call, web" in done.stderr


@pytest.mark.parametrize("written", [FINGERPRINT, FINGERPRINT[:8].upper(), "3f:9a:c2:1b:77"])
def test_a_gateway_is_trusted_by_the_beginning_of_its_fingerprint(run: Run, agent: FakeAgent, written: str) -> None:
    assert run("trust", written).exit_code == 0
    assert agent.desk.told == [FINGERPRINT]


@pytest.mark.parametrize(
    ("written", "code"),
    [("3f9a", ExitCode.USAGE), ("zz9ac21b77", ExitCode.USAGE), ("00000000", ExitCode.REFUSED)],
)
def test_a_fingerprint_of_nobody_is_not_trusted(run: Run, agent: FakeAgent, written: str, code: ExitCode) -> None:
    assert (run("trust", written).exit_code, agent.desk.told) == (code, [])


@pytest.mark.expectation(22)
def test_acting_is_on_trial_until_it_is_confirmed(run: Run, agent: FakeAgent) -> None:
    assert "observes again in 1 min" in run("act").stdout
    assert "observes again in 1 min unless you say `hostagent confirm`" in " ".join(run("status").stdout.split())
    assert run("confirm").stdout == "acts\n"
    assert run("confirm").stdout == "acts\n"  # done twice is done once
    assert run("observe").exit_code == 0
    assert agent.desk.told == [
        api.ModeChange(mode=api.Mode.ACT, trial_s=60),
        api.ModeChange(mode=api.Mode.ACT),
        api.ModeChange(mode=api.Mode.OBSERVE),
    ]


def test_how_long_a_trial_is(run: Run, agent: FakeAgent) -> None:
    assert run("act", "--confirm", "5m").exit_code == 0
    assert run("act", "--confirm", "0s").stdout == "acts\n"
    assert [each.trial_s for each in agent.desk.told if isinstance(each, api.ModeChange)] == [300, 0]


def test_there_is_nothing_to_confirm_while_it_observes(run: Run, agent: FakeAgent) -> None:
    done = run("confirm")
    assert (done.exit_code, agent.desk.told) == (ExitCode.REFUSED, [])
    assert "hostagent act" in done.stderr


@pytest.mark.expectation(23)
@pytest.mark.parametrize(
    "words", ["answer 7 yes", "worth restic 2", f"trust {FINGERPRINT}", "act", "observe", "reload", "down", "confirm"]
)
def test_what_was_done_is_one_document_for_programs(run: Run, agent: FakeAgent, words: str) -> None:
    agent.desk.shown = household(mode=api.Mode.ACT)
    done = run(*words.split(), "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    jsonschema.Draft202012Validator(schema(words.split()[0])).validate(document)
    assert document["verb"] == words.split()[0]


def test_down_returns_when_nobody_answers_any_more(run: Run, agent: FakeAgent) -> None:
    assert run("down").stdout == "the agent has ended\n"
    assert agent.desk.told == ["stop"]
    assert run("status").exit_code == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    "words", ["answer x yes", "answer 7 maybe", "answer -1 yes", "answer 7 yes --for 2h", "act --confirm soon"]
)
def test_malformed_words_are_usage_errors(run: Run, agent: FakeAgent, words: str) -> None:
    assert (run(*words.split()).exit_code, agent.desk.told) == (ExitCode.USAGE, [])


@pytest.mark.parametrize("words", ["answer 7 yes", "worth restic 2", f"trust {FINGERPRINT}", "act", "reload", "down"])
def test_who_may_not_is_told_so(run: Run, agent: FakeAgent, words: str) -> None:
    agent.desk.refusal = Refused("not-now", "not while the disk is full")
    done = run(*words.split())
    assert (done.exit_code, done.stderr) == (ExitCode.REFUSED, "hostagent: not while the disk is full\n")
