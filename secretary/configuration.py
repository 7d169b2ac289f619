"""The secretary's TOML file: what the user is willing to pay for, and how much in a day.

Decides how a mistake in it is named. Refuses to know what follows from a rule (`secretary.issuing`).
docs/samples/secretary.toml comments every key.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

import msgspec

from billpay.configuration import load_toml
from billpay.errors import ConfigurationError
from billpay.messages import Amount, Name
from secretary.ruling.ceilings import Ceiling
from secretary.ruling.rules import wrong_probes
from secretary.transfers import Text

SOCKET_NAME = "secretary.sock"
RULES_NAME = "rules.d"
DOLLAR = 10**9
Money = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
Path_ = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
Ppm = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=64)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class SecretarySection(Section, frozen=True, kw_only=True):
    name: Name
    state_directory: Path_
    socket: str = ""  # "": secretary.sock in the state directory
    rules: str = ""  # directory of people's own rules, *.toml; "": rules.d beside this file


class AccessSection(Section, frozen=True, kw_only=True):
    """Users by name or number, groups by "@name". Root and the secretary's own user are keepers."""

    agents: Names = ()
    people: Names = ()
    keepers: Names = ()


class RemoteAskerSection(Section, frozen=True, kw_only=True):
    """Somebody who comes over mutual TLS. `user`: of a person, whom he speaks for."""

    certificate: Path_
    role: Annotated[str, msgspec.Meta(pattern="^(agent|person|keeper)$")] = "agent"
    user: Text = ""


class RemoteSection(Section, frozen=True, kw_only=True):
    """Where the secretary listens for hosts whose operating system it lives outside of."""

    listen: Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]{1,5}$")]
    askers: Annotated[tuple[RemoteAskerSection, ...], msgspec.Meta(min_length=1, max_length=64)]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class KeysSection(Section, frozen=True, kw_only=True):
    store: str = "auto"  # as `secretary.keys.keeper` names them
    directory: str = ""  # of the seal where no service manager keeps it; "": beside the state directory


class BudgetSection(Section, frozen=True, kw_only=True):
    day_nanodollars: Money = DOLLAR


class MoreBudgetSection(Section, frozen=True, kw_only=True):
    """A budget beside the day's. At most one of `program`, `network` and `person`."""

    name: Name
    limit_nanodollars: Money
    period: Annotated[str, msgspec.Meta(pattern="^(day|week|month)$")] = "month"
    reset_day: Annotated[int, msgspec.Meta(ge=1, le=28)] = 1
    hard: bool = True
    program: Text = ""
    network: Text = ""
    person: Text = ""


class PurseSection(Section, frozen=True, kw_only=True):
    """`prepaid`: what is not paid in cannot be spent; else up to `credit_nanodollars` beyond it."""

    prepaid: bool = False
    credit_nanodollars: Money = 10**15


class LearningSection(Section, frozen=True, kw_only=True):
    """How flows are judged that no rule names, as far as the agent knows whose they are."""

    enabled: bool = True
    unjustified_share_ppm: Ppm = 10_000  # of the day's budget: what may be paid and turn out not to be wanted
    target_bit_s: Annotated[int, msgspec.Meta(ge=1, le=10**12)] = 10_000_000
    grant_nanodollars: Money = 20_000_000
    lifetime_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 600


class QuestionsSection(Section, frozen=True, kw_only=True):
    """When people are asked. `quiet`: "22:00-07:00", local time; "" for never quiet."""

    a_day: Annotated[int, msgspec.Meta(ge=0, le=50)] = 3
    quiet: Annotated[str, msgspec.Meta(pattern="^([0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9])?$")] = "22:00-07:00"
    pause_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 600
    answer_s: Annotated[int, msgspec.Meta(ge=1, le=604_800)] = 300


class GuardSection(Section, frozen=True, kw_only=True):
    enabled: bool = True
    forest: bool = True  # the isolation forest: it needs scikit-learn, and 90 MB of memory


class CentralSection(Section, frozen=True, kw_only=True):
    """The organisation's central secretary."""

    url: Annotated[str, msgspec.Meta(pattern="^https://", max_length=400)]
    certificate: Path_


class ReturnsSection(Section, frozen=True, kw_only=True):
    share_nanodollars: Amount = 0
    float_nanodollars: Money = 1_000_000
    ceiling_nanodollars: Amount = 1_000_000
    day_nanodollars: Money = DOLLAR


class RuleSection(Section, frozen=True, kw_only=True):
    name: Name
    protocol: Annotated[str, msgspec.Meta(pattern="^(tcp|udp|any)$")] = "any"
    destination: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    ports: Annotated[tuple[PortNumber, ...], msgspec.Meta(max_length=64)] = ()
    strategy: Annotated[str, msgspec.Meta(pattern="^(fixed|bulk|timely)$")] = "fixed"
    amount_nanodollars: Amount = 0
    willingness_nanodollars: Amount = 0
    target_bit_s: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 0
    probes_nanodollars: Money | None = None
    grant_nanodollars: Money = 100_000_000
    rate_nanodollars_per_s: Money = 100_000_000
    burst_nanodollars: Money = 100_000_000
    lifetime_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 600


class Configuration(Section, frozen=True, kw_only=True):
    secretary: SecretarySection
    access: AccessSection = AccessSection()
    remote: RemoteSection | None = None
    keys: KeysSection = KeysSection()
    budget: BudgetSection = BudgetSection()
    budgets: Annotated[tuple[MoreBudgetSection, ...], msgspec.Meta(max_length=200)] = ()
    purse: PurseSection = PurseSection()
    returns: ReturnsSection = ReturnsSection()
    learning: LearningSection = LearningSection()
    questions: QuestionsSection = QuestionsSection()
    guard: GuardSection = GuardSection()
    central: CentralSection | None = None
    ceilings: Annotated[tuple[Ceiling, ...], msgspec.Meta(max_length=200)] = ()
    rules: Annotated[tuple[RuleSection, ...], msgspec.Meta(max_length=1000)] = ()

    @property
    def state_directory(self) -> Path:
        return Path(self.secretary.state_directory)

    @property
    def socket(self) -> Path:
        return Path(self.secretary.socket) if self.secretary.socket else self.state_directory / SOCKET_NAME

    def rules_directory(self, config_path: Path) -> Path:
        """Of people's own rules."""
        return Path(self.secretary.rules) if self.secretary.rules else config_path.parent / RULES_NAME


def load(path: Path) -> Configuration:
    """The checked file. Raises ConfigurationError, one line, with the key."""
    configuration = load_toml(path, Configuration)
    _check_budgets(configuration, path)
    names: set[str] = set()
    for number, rule in enumerate(configuration.rules):
        key = f"rules[{number}]"
        if rule.name in names:
            raise ConfigurationError(path, f"{key}.name", f"{rule.name!r} is used twice", "name each rule once")
        names.add(rule.name)
        _check_rule(rule, path, key)
    return configuration


def _check_budgets(configuration: Configuration, path: Path) -> None:
    names = {"day"}
    for number, budget in enumerate(configuration.budgets):
        key = f"budgets[{number}]"
        if budget.name in names:
            raise ConfigurationError(path, f"{key}.name", f"{budget.name!r} is used twice", "name each budget once")
        names.add(budget.name)
        if sum(map(bool, (budget.program, budget.network, budget.person))) > 1:
            remedy = "name one of program, network and person"
            raise ConfigurationError(path, key, "is about more than one thing", remedy)


def _check_rule(rule: RuleSection, path: Path, key: str) -> None:
    for number, text in enumerate(rule.destination):
        try:
            ip_network(text)
        except ValueError as error:
            remedy = "write addresses or prefixes, as 10.0.0.0/8"
            raise ConfigurationError(path, f"{key}.destination[{number}]", str(error), remedy) from error
    needed = "amount_nanodollars" if rule.strategy == "fixed" else "willingness_nanodollars"
    most = getattr(rule, needed)
    if not most:
        raise ConfigurationError(path, f"{key}.{needed}", "is 0", f"strategy {rule.strategy!r} needs it")
    if rule.strategy == "bulk" and not rule.target_bit_s:
        raise ConfigurationError(path, f"{key}.target_bit_s", "is 0", "strategy 'bulk' pays to reach a rate")
    for problem, remedy in wrong_probes(rule.strategy, rule.probes_nanodollars, most):
        raise ConfigurationError(path, f"{key}.probes_nanodollars", problem, remedy)
    for bound in ("grant_nanodollars", "burst_nanodollars"):
        if getattr(rule, bound) < most:
            problem = f"is {getattr(rule, bound)}: less than {needed}, one packet"
            raise ConfigurationError(path, f"{key}.{bound}", problem, f"at least {most}")
