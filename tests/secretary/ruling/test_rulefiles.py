"""Rules as files: every mistake is named, a wrong file keeps its last good rules, and nothing is dropped silently."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from secretary.ruling.rulefiles import (
    FILES_MAX,
    SETTLED_AFTER_NS,
    UNREADABLE,
    Changes,
    RuleFiles,
    Stamp,
    changed,
    read_rules,
    schema,
)
from secretary.ruling.rules import Hours, Most, Pay, Rule, find_rule
from secretary.transfers import Transfer

SAMPLE = Path(__file__).parent.parent.parent.parent / "docs" / "samples" / "rules.toml"
ZOOM = Transfer(user="ann", program="zoom")


def rule_text(name: str, keys: str = 'pay = "never"') -> str:
    return f'[[rules]]\nname = "{name}"\n{keys}\n'


# --- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("DPH-27")
@pytest.mark.expectation(10)
def test_a_file_says_what_a_rule_can_say() -> None:
    text = """
user = "ann"
[[rules]]
name = "meetings"
program = ["zoom*"]
destination = ["*.Example.org.", "203.0.113.0/24", "2001:db8::1"]
hours = ["22:00-24:00"]
days = ["mon", "sun"]
foreground = true
pay = "learn"
most_per_mb_nanodollars = 5
"""
    file = read_rules(text, "10.toml")
    assert file.mistakes == ()
    (rule,) = file.rules
    assert (rule.name, rule.file, rule.users, rule.pay) == ("meetings", "10.toml", ("ann",), Pay.LEARN)
    assert (rule.hours, rule.days, rule.foreground) == ((Hours(1320, 1440),), frozenset({0, 6}), True)
    assert [str(network) for network in rule.destinations] == ["203.0.113.0/24", "2001:db8::1/128"]
    assert rule.destination_names == ("*.example.org",)
    assert rule.most == Most(mb_nanodollars=5)


def test_a_maximum_price_makes_out_the_grant_too() -> None:
    (rule,) = read_rules(rule_text("it", "most_per_mb_nanodollars = 2_000_000"), "f").rules
    assert (rule.amount_nanodollars, rule.willingness_nanodollars, rule.strategy) == (3000, 3000, "fixed")
    bulk = 'strategy = "bulk"\ntarget_bit_s = 10\nmost_per_packet_nanodollars = 7'
    (rule,) = read_rules(rule_text("it", bulk), "f").rules
    assert (rule.amount_nanodollars, rule.willingness_nanodollars) == (0, 7)
    (rule,) = read_rules(rule_text("it", "amount_nanodollars = 20"), "f").rules
    assert rule.maximum == Most(packet_nanodollars=20)


def test_a_timely_rule_has_probes_if_it_does_not_say_otherwise() -> None:
    timely = 'strategy = "timely"\nwillingness_nanodollars = 40\n'
    for more, probes in (("", 1_000_000), ("probes_nanodollars = 0", 0), ("probes_nanodollars = 80", 80)):
        (rule,) = read_rules(rule_text("it", timely + more), "f").rules
        assert (rule.strategy, rule.willingness_nanodollars, rule.probes_nanodollars) == ("timely", 40, probes)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rules = [", "f.toml: not TOML: "),
        ("x = [" * 5000, "f.toml: "),
        ("usr = 1\n" + rule_text("it"), "f.toml: usr: unknown key (did you mean user?)"),
        ("rules = 1", "f.toml: rules: not a list of tables (begin each rule with [[rules]])"),
        (rule_text("it", "prgram = []"), "f.toml: rules[0].prgram: unknown key (did you mean program?)"),
        ("[[rules]]\npay = 'never'", "f.toml: rules[0].name: missing (add it)"),
        (rule_text("a b"), "f.toml: rules[0].name: expected `str` matching"),
        (
            rule_text("it", 'pay = "sometimes"'),
            "f.toml: rules[0].pay: invalid enum value 'sometimes' (write one of 'up to', 'never', 'ask', 'learn')",
        ),
        (rule_text("it", 'program = "zoom"'), "f.toml: rules[0].program: expected `array`, got `str`"),
        (rule_text("it", "ports = [0]"), "f.toml: rules[0].ports[0]: expected `int` >= 1"),
        (rule_text("it", 'hours = ["8-18"]'), "f.toml: rules[0].hours[0]: expected `str` matching"),
        (rule_text("it", 'pay = "never"\nhours = ["08:00-08:00"]'), "f.toml: rules[0].hours[0]: ends where it begins"),
        (rule_text("it", 'pay = "never"\ndays = ["fri", "Sat"]'), "f.toml: rules[0].days[1]: expected `str` matching"),
        (rule_text("it", 'pay = "never"\ndestination = ["10.0.0.1/8"]'), "f.toml: rules[0].destination[0]: 10.0.0.1/8"),
        (
            rule_text("it", 'pay = "never"\ndestination = ["10.0.0.300"]'),
            "f.toml: rules[0].destination[0]: '10.0.0.300'",
        ),
        (
            rule_text("it", ""),
            "f.toml: rules[0].amount_nanodollars: is 0 (strategy 'fixed' needs it, or one of most_per",
        ),
        (
            rule_text("it", 'strategy = "bulk"\nwillingness_nanodollars = 5'),
            "f.toml: rules[0].target_bit_s: is 0 (strategy 'bulk' pays to reach a rate)",
        ),
        (
            rule_text("it", "amount_nanodollars = 9\nprobes_nanodollars = 9"),
            "f.toml: rules[0].probes_nanodollars: has no meaning for strategy 'fixed' (take it out, or write",
        ),
        (
            rule_text("it", 'strategy = "timely"\nmost_per_packet_nanodollars = 9\nprobes_nanodollars = 8'),
            "f.toml: rules[0].probes_nanodollars: is 8: less than willingness_nanodollars, one probe (at least 9",
        ),
        (
            rule_text("it", "amount_nanodollars = 9\ngrant_nanodollars = 8"),
            "f.toml: rules[0].grant_nanodollars: is 8: less than amount_nanodollars, one packet (at least 9)",
        ),
        (
            rule_text("it", "amount_nanodollars = 9\nmost_per_packet_nanodollars = 8"),
            "f.toml: rules[0].amount_nanodollars: is 9: more than the most that the rule pays, 8 a packet",
        ),
        (
            rule_text("it", 'pay = "never"\nmost_per_mb_nanodollars = 8'),
            "f.toml: rules[0].most_per_mb_nanodollars: has no meaning where pay = 'never' (take it out)",
        ),
        (rule_text("it", 'pay = "ask"\namount_nanodollars = 8'), "f.toml: rules[0].amount_nanodollars: has no meaning"),
        (rule_text("it") * 2, "f.toml: rules[1].name: 'it' is used twice (name each rule of a file once)"),
        (
            'user = "ann"\n' + rule_text("it", 'pay = "never"\nuser = ["bob"]'),
            "f.toml: rules[0].user: the whole file is ann's (take it out here, or above the rules)",
        ),
    ],
    ids=lambda value: value[:40].replace("\n", " "),
)
def test_each_mistake_is_one_clear_line(text: str, line: str) -> None:
    file = read_rules(text, "f.toml")
    assert file.rules == ()
    (said,) = map(str, file.mistakes)
    assert said.startswith(line)
    assert said.endswith(")"), "it says what to do"
    assert "\n" not in said


def test_all_mistakes_of_a_file_are_named_at_once() -> None:
    text = rule_text("it", "ports = [0]\nprgram = 1\nforeground = 3") + "[[rules]]\n"
    keys = [mistake.key for mistake in read_rules(text, "f").mistakes]
    assert keys == ["rules[0].ports[0]", "rules[0].prgram", "rules[0].foreground", "rules[1].name"]


def test_the_schema_takes_what_the_secretary_takes() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    sample = tomllib.loads(SAMPLE.read_text())
    validator.validate(sample)
    assert read_rules(SAMPLE.read_text(), "rules.toml").mistakes == ()
    sample["rules"][0]["pay"] = "sometimes"
    assert list(validator.iter_errors(sample))


# --- what changed -----------------------------------------------------------------------------------------------------


def stamp(**changes: Any) -> Stamp:
    made = {"modified_ns": 1, "changed_ns": 1, "size_bytes": 1, "inode": 1, "mode": 0o100644}
    return Stamp(**(made | changes))


@pytest.mark.parametrize("field", ["modified_ns", "changed_ns", "size_bytes", "inode", "mode"])
def test_a_file_is_another_one_by_any_part_of_its_stamp(field: str) -> None:
    before, now = {"a": stamp(), "b": stamp()}, {"a": stamp(), "b": stamp(**{field: 2})}
    assert changed(before, before) == Changes((), ())
    assert changed(before, now) == Changes(("b",), ())


def test_new_files_are_read_gone_ones_noticed_and_fresh_ones_read_once_more() -> None:
    assert changed({"a": stamp()}, {"b": stamp()}) == Changes(("b",), ("a",))
    fresh = {"a": stamp(settled=False)}
    assert changed(fresh, fresh) == Changes(("a",), ())
    assert changed(fresh, {"a": stamp()}) == Changes(("a",), ())


# --- the directory ----------------------------------------------------------------------------------------------------


class Directory:
    """Files that a person writes, and the time."""

    def __init__(self, path: Path) -> None:
        self.path = path / "rules.d"
        self.path.mkdir()
        self.files = RuleFiles(self.path)
        self.rules: tuple[Rule, ...] = ()

    def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o644)

    def poll(self, *, settled: bool = True) -> tuple[str, ...]:
        """What is said."""
        newest = max((entry.lstat().st_ctime_ns for entry in self.path.glob("*")), default=0)
        reload = self.files.poll(newest + (SETTLED_AFTER_NS if settled else 0))
        if reload is None:
            return ()
        self.rules = reload.rules
        return reload.notices

    @property
    def names(self) -> list[str]:
        return [rule.name for rule in self.rules]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


@pytest.mark.expectation(10)
def test_files_are_one_list_in_the_order_of_their_names(directory: Directory) -> None:
    directory.write("20-home.toml", rule_text("c"))
    directory.write("10-work.toml", rule_text("b") + rule_text("a"))
    directory.write("notes.txt", "no rules")
    directory.write(".hidden.toml", "nor here")
    assert directory.poll() == ("10-work.toml: 2 rules were read", "20-home.toml: 1 rules were read")
    assert directory.names == ["b", "a", "c"]
    assert [rule.file for rule in directory.rules] == ["10-work.toml", "10-work.toml", "20-home.toml"]
    assert directory.poll() == ()


@pytest.mark.expectation(10)
def test_what_is_written_holds_at_the_next_look(directory: Directory) -> None:
    directory.write("a.toml", rule_text("old"))
    directory.poll()
    directory.write("a.toml", rule_text("newer"))
    assert directory.poll() == ("a.toml: 1 rules were read",)
    assert directory.names == ["newer"]
    (directory.path / "b.tmp").write_text(rule_text("other"))
    os.replace(directory.path / "b.tmp", directory.path / "a.toml")  # as editors do
    directory.poll()
    assert directory.names == ["other"]


def test_a_file_that_changes_twice_within_a_tick_is_read_twice(directory: Directory) -> None:
    """Same size, same stamp: only that it had not settled tells."""
    directory.write("a.toml", rule_text("one"))
    directory.poll(settled=False)
    assert directory.names == ["one"]
    assert not directory.poll(settled=False)
    seen = directory.files._stamps["a.toml"]
    with (directory.path / "a.toml").open("r+") as file:
        file.write(rule_text("two"))
    directory.files._stamps["a.toml"] = next(iter(directory.files._look(seen.changed_ns).values()))
    assert directory.poll() == ("a.toml: 1 rules were read",)
    assert directory.names == ["two"]


@pytest.mark.expectation(10)
def test_a_wrong_file_keeps_its_last_good_rules_and_is_said_once(directory: Directory) -> None:
    directory.write("a.toml", rule_text("good"))
    directory.write("b.toml", rule_text("other"))
    directory.poll()
    directory.write("a.toml", rule_text("bad", "ports = [0]"))
    mistake, holds = directory.poll()
    assert "a.toml: rules[0].ports[0]: expected `int` >= 1" in mistake
    assert holds == "a.toml: its last good rules hold"
    assert directory.names == ["good", "other"]
    assert directory.poll() == ()
    assert directory.files.faults == (mistake,)
    directory.write("b.toml", rule_text("third"))  # the others are read all the same
    directory.poll()
    assert directory.names == ["good", "third"]
    directory.write("a.toml", rule_text("better"))
    assert directory.poll() == ("a.toml: 1 rules are good again",)
    assert directory.names == ["better", "third"]
    assert not directory.files.faults


@pytest.mark.parametrize(
    ("user", "blocked"),
    [('user = "ann"\n', {"ann"}), ("", {"ann", "bob"})],
)
def test_a_file_that_was_never_good_pays_nothing_of_those_whom_it_is_for(
    directory: Directory, user: str, blocked: set[str]
) -> None:
    """It might have said "never"; what stands before it is not its matter."""
    paid = "amount_nanodollars = 9"
    directory.write("10.toml", rule_text("first", f'{paid}\nprogram = ["git"]'))
    directory.write("20.toml", user + rule_text("bad", "ports = [0]"))
    directory.write("30.toml", rule_text("last", paid))
    assert directory.poll()[-2].endswith("nothing is paid after it until it is right")
    assert directory.names == ["first", UNREADABLE, "last"]
    for person in ("ann", "bob"):
        found = find_rule(directory.rules, None, Transfer(user=person, program="zoom"))
        assert found is not None
        assert (found.pay is Pay.NEVER) is (person in blocked)
        git = find_rule(directory.rules, None, Transfer(user=person, program="git"))
        assert git is not None
        assert git.name == "first"


def test_last_good_rules_survive_a_restart(directory: Directory) -> None:
    directory.write("a.toml", rule_text("good"))
    directory.write("b.toml", rule_text("gone"))
    directory.poll()
    kept = directory.files.good_texts()
    directory.write("a.toml", "[[rules]")
    (directory.path / "b.toml").unlink()
    directory.files = RuleFiles(directory.path, good=kept)
    notices = directory.poll()
    assert notices[1:] == ("a.toml: its last good rules hold", "b.toml: the file is gone, and its 1 rules with it")
    assert directory.names == ["good"]


def test_a_file_that_is_gone_is_said(directory: Directory) -> None:
    directory.write("a.toml", rule_text("one") + rule_text("two"))
    directory.poll()
    (directory.path / "a.toml").unlink()
    assert directory.poll() == ("a.toml: the file is gone, and its 2 rules with it",)
    assert directory.rules == ()


def test_a_file_that_everybody_may_write_is_not_taken(directory: Directory) -> None:
    directory.write("a.toml", rule_text("mine"))
    directory.poll()
    directory.write("a.toml", rule_text("theirs"))
    (directory.path / "a.toml").chmod(0o666)
    assert "everybody may write it (chmod o-w" in directory.poll()[0]
    assert directory.names == ["mine"]
    (directory.path / "a.toml").chmod(0o644)
    assert directory.poll() == ("a.toml: 1 rules are good again",)
    assert directory.names == ["theirs"]


def test_what_is_no_file_or_no_text_is_said(directory: Directory) -> None:
    (directory.path / "a.toml").mkdir()
    (directory.path / "b.toml").write_bytes(b"\xff")
    (directory.path / "c.toml").symlink_to(directory.path / "nowhere")
    said = "\n".join(directory.poll())
    assert "a.toml: not a file" in said
    assert "b.toml: not UTF-8 at byte 0" in said
    assert directory.names == [UNREADABLE, UNREADABLE]


def test_without_a_directory_there_are_no_rules_and_later_there_are(tmp_path: Path) -> None:
    files = RuleFiles(tmp_path / "rules.d")
    assert files.poll(0) is None
    (tmp_path / "rules.d").mkdir()
    (tmp_path / "rules.d" / "a.toml").write_text(rule_text("it"))
    reload = files.poll(0)
    assert reload is not None
    assert [rule.name for rule in reload.rules] == ["it"]


def test_a_directory_that_cannot_be_read_changes_nothing(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    never_read = RuleFiles(directory.path)
    directory.write("a.toml", rule_text("good"))
    directory.poll()

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("secretary.ruling.rulefiles.os.scandir", refuse)
        (said,) = directory.poll()
        assert said.endswith("Permission denied: the rules read before hold (check the directory)")
        assert directory.names == ["good"]
        assert directory.poll() == ()
        reload = never_read.poll(0)
        assert reload is not None
        assert [rule.pay for rule in reload.rules] == [Pay.NEVER]
    reload = never_read.poll(0)
    assert reload is not None
    assert [rule.name for rule in reload.rules] == ["good"]
    assert directory.files.faults != ()
    directory.poll()
    assert not directory.files.faults


def test_too_many_files_are_said_and_none_is_left_out_silently(directory: Directory) -> None:
    for number in range(FILES_MAX + 1):
        directory.write(f"{number}.toml", "")
    (said,) = directory.poll()
    assert f"has {FILES_MAX + 1} files, at most {FILES_MAX} are read" in said
    assert [rule.pay for rule in directory.rules] == [Pay.NEVER]
