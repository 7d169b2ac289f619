"""What a host reports and when, what it makes of answers, and the rules of privacy that both sides keep."""

from __future__ import annotations

import msgspec
import pytest
from campus_reports import MS, OTHER_WAY, PREFIX, WAY, line, report, vouched

from billpay.errors import RemoteProtocolError
from cartographer.campus import messages
from cartographer.campus.limits import CallLimit
from cartographer.campus.messages import (
    LINES_MAX,
    FoundOut,
    FoundOutByHosts,
    Prior,
    Priors,
    PriorsRequest,
    Receipt,
    Report,
    check_report,
    digest_of,
)
from cartographer.campus.own import OwnSamples, primed
from cartographer.campus.privacy import PERIOD_S, checked_prefix, prefix_of, pseudonym_of
from cartographer.campus.reporting import PRIOR_NS, Reporter
from cartographer.statistics import WayStatistics
from cartographer.values import Estimate, Quantity, WayQuality

S = 1_000_000_000
PERIOD_NS = PERIOD_S * S
HOST = "198.51.100.7"
NEIGHBOUR = "198.51.100.9"
NOW = 10 * PERIOD_NS


def reporter() -> Reporter:
    return Reporter(lambda: 0.5)


def quality(
    destination: str = HOST, way: str = WAY, *, mean_ms: float = 50, at_ns: int | None = NOW, samples: float = 8
):
    estimate = Estimate(value=round(mean_ms * MS), uncertainty=MS, spread=3 * MS, samples=samples, measured_ns=at_ns)
    return WayQuality(destination=destination, way=way, estimates={Quantity.DELAY_NS: estimate})


def taken(one: Reporter, said: Report) -> bool:
    return one.on_receipt(said, Receipt(sequence=said.sequence, digest=digest_of(said)))


def prior(mean_ms: float = 40, **changes: object) -> Prior:
    given = {"prefix": PREFIX, "way": WAY, "quantity": Quantity.DELAY_NS, "value": round(mean_ms * MS)}
    given |= {"uncertainty": MS, "spread": 4 * MS, "samples_milli": 20_000, "hosts": 5}
    return msgspec.convert(given | changes, Prior)


def heard(one: Reporter, *priors: Prior, now_ns: int = NOW) -> None:
    one.priors(HOST, now_ns)
    question = one.question(now_ns)
    assert question is not None
    one.learn(question, Priors(estimates=priors), now_ns)


# --- privacy ----------------------------------------------------------------------------------------------------------


@pytest.mark.row("BP-32")
@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("198.51.100.7", "198.51.100.0/24"),
        ("198.51.100.128/25", "198.51.100.0/24"),
        ("198.51.0.0/16", "198.51.0.0/16"),
        ("2001:db8:7:1::5", "2001:db8:7::/48"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("10.1.2.3", "10.1.2.0/24"),
        ("127.0.0.1", None),
        ("224.0.0.251", None),
        ("ff02::1", None),
        ("fe80::1%eth0", None),
        ("169.254.1.1", None),
        ("0.0.0.0", None),
        ("example.org", None),
        ("", None),
    ],
)
def test_a_destination_is_never_spoken_of(destination: str, said: str | None) -> None:
    assert prefix_of(destination) == said
    if said is not None:
        assert checked_prefix(said) == said


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        ("198.51.100.0/25", "narrow-prefix"),
        ("198.51.100.7/32", "narrow-prefix"),
        ("198.51.100.7", "narrow-prefix"),
        ("2001:db8:7::/49", "narrow-prefix"),
        ("2001:db8:7::1/128", "narrow-prefix"),
        ("198.51.100.7/24", "bad-prefix"),  # host bits
        ("2001:DB8:7::/48", "bad-prefix"),  # another way to write it, another row
        ("198.051.100.0/24", "bad-prefix"),
        ("224.0.0.0/24", "bad-prefix"),
        ("127.0.0.0/8", "bad-prefix"),
        ("example.org", "bad-prefix"),
    ],
)
def test_a_prefix_that_says_too_much_is_refused(prefix: str, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check_report(report(1, line(), line(prefix=prefix)))
    assert caught.value.code == code


def test_a_pseudonym_is_of_one_server_only() -> None:
    first, again, elsewhere = (pseudonym_of("ab" * 32, secret * 32) for secret in (b"a", b"a", b"b"))
    assert first == again != elsewhere
    assert len(first) == 32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mean": float("nan")}, "NaN"),
        ({"mean": 1e300}, "huge"),
        ({"mean": 2**63}, "huge"),
        ({"mean": -1}, "negative"),
        ({"count": 0}, "nobody"),
        ({"count": 10**7}, "too many"),
        ({"age_periods": -1}, "the future"),
        ({"age_periods": 10**6}, "older than anybody keeps"),
        ({"way": "AS0:1"}, "no AS"),
        ({"way": "AS64512:1\n"}, "a line end"),
        ({"way": " ".join(["AS1:1"] * 15)}, "longer than a header"),
        ({"quantity": "age"}, "nothing that is measured"),
        ({"program": "ssh"}, "a program"),
        ({"destination": HOST}, "a destination"),
    ],
)
def test_a_line_that_cannot_be_is_not_even_read(changes: dict[str, object], said: str) -> None:
    table = msgspec.to_builtins(line()) | changes
    text = msgspec.json.encode(table) if "nan" not in repr(changes) else repr(table).replace("'", '"').encode()
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(text, type=messages.Summary)


def test_a_report_that_contradicts_itself_is_refused() -> None:
    finding = FoundOut(as_number=1, kind="lies")
    for wrong in (
        report(1, line(), line(51)),
        report(1, line(mean=60_000_000_001)),
        report(1, line(quantity=Quantity.LOSS_PPM, mean=1_000_001, spread=0)),
        report(1, findings=(finding, finding)),
        report(1, version=2),
    ):
        with pytest.raises(RemoteProtocolError):
            check_report(wrong)
    check_report(report(1, line(), line(way=OTHER_WAY), findings=(finding,)))


# --- what is reported -------------------------------------------------------------------------------------------------


def test_destinations_of_one_prefix_are_one_line() -> None:
    said = reporter().report([quality(), quality(NEIGHBOUR, mean_ms=60, samples=24)], now_ns=NOW + 1)
    assert said is not None
    (only,) = said.lines
    assert (only.prefix, only.count, only.mean, only.age_periods) == (PREFIX, 32, round(57.5 * MS), 1)
    assert only.spread == round((3**2 + 0.25 * 7.5**2 + 0.75 * 2.5**2) ** 0.5 * MS)
    assert HOST not in repr(said)
    check_report(said)


def test_only_what_is_news_is_said() -> None:
    one = reporter()
    first = one.report([quality(), quality(way=OTHER_WAY)], now_ns=NOW)
    assert first is not None
    assert len(first.lines) == 2
    assert taken(one, first)
    assert one.report([quality(), quality(way=OTHER_WAY)], now_ns=NOW + S) is None
    assert one.report([quality(mean_ms=50.1, at_ns=NOW + S)], now_ns=NOW + S) is None  # within its error
    moved = one.report([quality(mean_ms=53, at_ns=NOW + S), quality(way=OTHER_WAY)], now_ns=NOW + S)
    assert moved is not None
    assert [each.way for each in moved.lines] == [WAY]
    assert moved.sequence == 2
    assert one.report([quality(samples=11, at_ns=NOW + S)], now_ns=NOW + S) is not None  # many more samples
    assert one.report([quality(at_ns=NOW + PERIOD_NS)], now_ns=NOW + PERIOD_NS) is not None  # fresher


def test_what_was_not_acknowledged_is_said_again() -> None:
    one = reporter()
    first = one.report([quality()], now_ns=NOW)
    one.on_failure(NOW)
    assert one.report([quality()], now_ns=NOW) == first


def test_a_host_that_was_set_up_anew_learns_its_sequence() -> None:
    one = reporter()
    first = one.report([quality()], now_ns=NOW)
    assert first is not None
    assert not one.on_receipt(first, Receipt(sequence=41, digest="0" * 64))
    again = one.report([quality()], now_ns=NOW)
    assert again is not None
    assert (again.sequence, again.lines) == (42, first.lines)
    assert not reporter().on_receipt(first, Receipt(sequence=1, digest="0" * 64))  # the same number, another report


def test_what_nobody_measured_or_long_ago_is_not_said() -> None:
    few_packets = WayQuality(
        destination=HOST,
        way=WAY,
        estimates={Quantity.LOSS_PPM: Estimate(value=10_000, uncertainty=1, spread=1, samples=20, measured_ns=NOW)},
    )
    old = quality(at_ns=NOW)
    one = reporter()
    assert one.report([quality(at_ns=None), quality("127.0.0.1"), few_packets], now_ns=NOW) is None
    assert one.report([old], now_ns=NOW + 7 * 3600 * S) is None


def test_a_report_is_bounded_and_the_freshest_come_first() -> None:
    many = [quality(f"10.{number // 250}.{number % 250}.1", at_ns=NOW - number) for number in range(LINES_MAX + 500)]
    one = reporter()
    first = one.report(many, now_ns=NOW)
    assert first is not None
    assert len(first.lines) == LINES_MAX
    taken(one, first)
    rest = one.report(many, now_ns=NOW)
    assert rest is not None
    assert len(rest.lines) == 500
    assert len(msgspec.json.encode(first)) < messages.REPORT_BYTES_MAX


def test_findings_and_descriptions_are_said_once_and_findings_are_taken_back() -> None:
    one = reporter()
    finding, description = FoundOut(as_number=64514, kind="lies"), vouched()
    first = one.report([], findings=[finding], descriptions=[description], now_ns=NOW)
    assert first is not None
    assert (first.findings, first.descriptions) == ((finding,), (description,))
    taken(one, first)
    assert one.report([], findings=[finding], descriptions=[description], now_ns=NOW) is None
    gone = one.report([], descriptions=[description], now_ns=NOW)
    assert gone is not None
    assert (gone.findings, gone.descriptions) == ((), ())


def test_it_calls_every_five_minutes_and_less_and_less_when_nobody_answers() -> None:
    one = reporter()
    assert one.wait_ns(NOW) == 0
    one.on_success(NOW)
    assert one.wait_ns(NOW) == PERIOD_NS
    waits = []
    for _ in range(10):
        one.on_failure(NOW)
        waits.append(one.wait_ns(NOW) // S)
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    one.on_network()
    assert one.wait_ns(NOW) == 0
    early, late = Reporter(lambda: 0.0), Reporter(lambda: 1.0)
    for other in (early, late):
        other.on_success(NOW)
    assert (early.wait_ns(NOW), late.wait_ns(NOW)) == (0.8 * PERIOD_NS, 1.2 * PERIOD_NS)


# --- what is heard ----------------------------------------------------------------------------------------------------


def test_priors_are_asked_for_by_prefix_and_fade() -> None:
    one = reporter()
    assert one.question(NOW) is None
    assert one.priors(HOST, NOW) == {}
    assert one.question(NOW) == PriorsRequest(prefixes=(PREFIX,))
    heard(one, prior(), prior(way=OTHER_WAY), prior(prefix="203.0.113.0/24"))
    found = one.priors(NEIGHBOUR, NOW)
    assert set(found) == {WAY, OTHER_WAY}
    assert found[WAY][Quantity.DELAY_NS].samples == 20
    assert found[WAY][Quantity.DELAY_NS].measured_ns is None
    later = one.priors(HOST, NOW + PRIOR_NS // 2)[WAY][Quantity.DELAY_NS]
    assert later.samples == 10
    assert later.uncertainty > MS
    assert one.priors(HOST, NOW + PRIOR_NS) == {}
    assert one.priors("127.0.0.1", NOW) == {}
    assert one.priors("203.0.113.5", NOW) == {}  # was not asked for


def test_others_findings_are_there_to_read() -> None:
    one = reporter()
    one.priors(HOST, NOW)
    question = one.question(NOW)
    assert question is not None
    found = FoundOutByHosts(as_number=64514, alternative=1, kind="lies", hosts=4)
    one.learn(question, Priors(findings=(found,)), NOW)
    assert one.findings == (found,)


def own(mean_ms: float, *, samples: float, at_ns: int = NOW) -> Estimate:
    return Estimate(value=round(mean_ms * MS), uncertainty=MS, spread=4 * MS, samples=samples, measured_ns=at_ns)


def test_the_better_of_ones_own_and_others_word() -> None:
    one = reporter()
    heard(one, prior(40, age_periods=0))
    ask = (HOST, WAY, Quantity.DELAY_NS)
    theirs = one.better(*ask, None, NOW)
    assert theirs is not None
    assert theirs.value == 40 * MS
    both = one.better(*ask, own(42, samples=5), NOW)
    assert both is not None
    assert (both.value, both.samples) == (round(40.4 * MS), 25)
    assert both.uncertainty < MS
    assert one.better(*ask, own(42, samples=30), NOW) is None  # its own is worth more
    assert one.better(*ask, own(80, samples=5), NOW) is None  # fresh and otherwise: a case of its own
    outdated = one.better(*ask, own(80, samples=40, at_ns=NOW - 2 * PERIOD_NS), NOW)
    assert outdated is not None
    assert outdated.value == 40 * MS
    assert one.better(HOST, OTHER_WAY, Quantity.DELAY_NS, None, NOW) is None
    assert one.better(*ask, None, NOW + PRIOR_NS) is None


def test_the_hint_of_one_host_never_outweighs_what_one_measured() -> None:
    one = reporter()
    heard(one, prior(1, samples_milli=1000, hosts=1))
    assert one.better(HOST, WAY, Quantity.DELAY_NS, own(50, samples=2, at_ns=NOW - 9 * PERIOD_NS), NOW) is None
    assert one.looked_at_ns(HOST, WAY, NOW) is None


def test_others_looks_are_looks() -> None:
    one = reporter()
    heard(one, prior(40, age_periods=1), prior(3, quantity=Quantity.FORWARD_TOLL_PICODOLLARS, age_periods=3))
    assert one.looked_at_ns(HOST, WAY, NOW) == NOW - PERIOD_NS
    assert one.looked_at_ns(HOST, OTHER_WAY, NOW) is None


def test_a_hosts_own_samples_never_have_others_word_in_them() -> None:
    samples = OwnSamples(ways_max=3)
    first = samples.of(HOST, WAY)
    assert first is not None
    first.on_sample(Quantity.DELAY_NS, 50 * MS, NOW)
    assert samples.of(NEIGHBOUR, WAY) is first
    assert samples.of("127.0.0.1", WAY) is None
    (only,) = samples.quality(NOW)
    assert (only.destination, only.way) == (PREFIX, WAY)
    for number in range(5):
        samples.of(f"10.0.{number}.1", WAY)
    assert samples.estimate(HOST, WAY, Quantity.DELAY_NS, NOW) is None  # the longest unmeasured went


def test_statistics_begin_anew_with_both() -> None:
    one, samples = reporter(), OwnSamples()
    measured = samples.of(HOST, WAY)
    assert measured is not None
    measured.on_sample(Quantity.DELAY_NS, 42 * MS, NOW)
    measured.on_sample(Quantity.FORWARD_TOLL_PICODOLLARS, 7_000, NOW)
    assert primed(one, samples, HOST, WAY, NOW) is None
    heard(one, prior(40))
    fresh = primed(one, samples, HOST, WAY, NOW)
    assert isinstance(fresh, WayStatistics)
    delay, toll = (fresh.estimate(q, NOW) for q in (Quantity.DELAY_NS, Quantity.FORWARD_TOLL_PICODOLLARS))
    assert delay is not None
    assert toll is not None
    assert 40 * MS < delay.value < 41 * MS
    assert delay.measured_ns is None
    assert toll.value == 7_000


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_host_has_its_calls_in_a_minute_and_no_more() -> None:
    limit = CallLimit(3)
    assert [limit.allows("a", 0) for _ in range(4)] == [True, True, True, False]
    assert limit.allows("b", 0)
    assert [limit.allows("a", 20 * S) for _ in range(2)] == [True, False]
    limit.forget(200 * S)
    assert [limit.allows("a", 200 * S) for _ in range(4)] == [True, True, True, False]
