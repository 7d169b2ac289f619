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
from secretary.issuing import ReturnPolicy
from secretary.rules import PROTOCOLS, Rule

SOCKET_NAME = "secretary.sock"
DOLLAR = 10**9
Money = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
Path_ = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's tables."""


class SecretarySection(Section, frozen=True, kw_only=True):
    name: Name
    state_directory: Path_
    socket: str = ""  # "": secretary.sock in the state directory


class BudgetSection(Section, frozen=True, kw_only=True):
    day_nanodollars: Money = DOLLAR


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
    strategy: Annotated[str, msgspec.Meta(pattern="^(fixed|bulk)$")] = "fixed"
    amount_nanodollars: Amount = 0
    willingness_nanodollars: Amount = 0
    target_bit_s: Annotated[int, msgspec.Meta(ge=0, le=10**12)] = 0
    grant_nanodollars: Money = 100_000_000
    rate_nanodollars_per_s: Money = 100_000_000
    burst_nanodollars: Money = 100_000_000
    lifetime_s: Annotated[int, msgspec.Meta(ge=10, le=86_400)] = 600


class Configuration(Section, frozen=True, kw_only=True):
    secretary: SecretarySection
    budget: BudgetSection = BudgetSection()
    returns: ReturnsSection = ReturnsSection()
    rules: Annotated[tuple[RuleSection, ...], msgspec.Meta(max_length=1000)] = ()

    @property
    def state_directory(self) -> Path:
        return Path(self.secretary.state_directory)

    @property
    def socket(self) -> Path:
        return Path(self.secretary.socket) if self.secretary.socket else self.state_directory / SOCKET_NAME

    @property
    def return_policy(self) -> ReturnPolicy:
        returns = self.returns
        return ReturnPolicy(
            share_nanodollars=returns.share_nanodollars,
            float_nanodollars=returns.float_nanodollars,
            ceiling_nanodollars=returns.ceiling_nanodollars,
        )


def load(path: Path) -> Configuration:
    """The checked file. Raises ConfigurationError, one line, with the key."""
    configuration = load_toml(path, Configuration)
    names: set[str] = set()
    for number, rule in enumerate(configuration.rules):
        key = f"rules[{number}]"
        if rule.name in names:
            raise ConfigurationError(path, f"{key}.name", f"{rule.name!r} is used twice", "name each rule once")
        names.add(rule.name)
        _check_rule(rule, path, key)
    return configuration


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
    for bound in ("grant_nanodollars", "burst_nanodollars"):
        if getattr(rule, bound) < most:
            problem = f"is {getattr(rule, bound)}: less than {needed}, one packet"
            raise ConfigurationError(path, f"{key}.{bound}", problem, f"at least {most}")


def rules_of(configuration: Configuration) -> tuple[Rule, ...]:
    """In the order of the file: the first that matches decides."""
    return tuple(
        Rule(
            name=rule.name,
            protocol=PROTOCOLS[rule.protocol],
            destinations=tuple(ip_network(text) for text in rule.destination),
            ports=frozenset(rule.ports),
            strategy=rule.strategy,
            amount_nanodollars=rule.amount_nanodollars,
            willingness_nanodollars=rule.willingness_nanodollars or rule.amount_nanodollars,
            target_bit_s=rule.target_bit_s,
            grant_nanodollars=rule.grant_nanodollars,
            rate_nanodollars_per_s=rule.rate_nanodollars_per_s,
            burst_nanodollars=rule.burst_nanodollars,
            lifetime_s=rule.lifetime_s,
        )
        for rule in configuration.rules
    )
