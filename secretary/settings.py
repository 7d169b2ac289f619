"""The secretary's file as the values that its parts work with. Reads certificates and the user database, once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import msgspec

from dataplane.peers import NOBODY, who_is
from neighbour.identity import NodeIdentity, PeerCertificate
from secretary.asking import Asker, Doors, RemoteDoors, Role
from secretary.central.courier import CentralClient
from secretary.central.policy import CentralSettings
from secretary.configuration import (
    CentralSection,
    Configuration,
    MoreBudgetSection,
    QuestionsSection,
    RemoteSection,
)
from secretary.inbox.questions import Manners
from secretary.issuing import ReturnPolicy
from secretary.judging import Policy
from secretary.money.budgets import BudgetTerms, Unit
from secretary.money.periods import Cycle
from secretary.money.reserving import Dimension, GrantBudget
from secretary.ruling.ceilings import place
from secretary.ruling.precedence import Rulebook
from secretary.ruling.rules import PROTOCOLS, Rule, probes_budget
from secretary.secretary import LearnedGrants, Settings

TRANSPORT = "transport"
DAY_BUDGET = "day"
RETURNS_BUDGET = "returns"
_PPM = 1_000_000


def settings_of(configuration: Configuration, own_rules: tuple[Rule, ...]) -> Settings:
    """`own_rules`: of the people's files. Raises ConfigurationError."""
    learning, returns, purse = configuration.learning, configuration.returns, configuration.purse
    own = tuple(configuration.ceilings)
    central = configuration.central
    day = configuration.budget.day_nanodollars
    return Settings(
        policy=Policy(
            book=Rulebook(own=(*flow_rules_of(configuration), *own_rules)),
            ceilings=place((), own),
            own_ceilings=own,
            learns=learning.enabled,
        ),
        manners=manners_of(configuration.questions),
        budgets=(_day_budget(DAY_BUDGET, day), *(_budget_of(each) for each in configuration.budgets)),
        return_budgets=(_day_budget(RETURNS_BUDGET, returns.day_nanodollars),),
        returns=ReturnPolicy(
            share_nanodollars=returns.share_nanodollars,
            float_nanodollars=returns.float_nanodollars,
            ceiling_nanodollars=returns.ceiling_nanodollars,
            day_nanodollars=returns.day_nanodollars,
        ),
        credit_nanodollars=0 if purse.prepaid else purse.credit_nanodollars,
        learned=LearnedGrants(
            target_bit_s=learning.target_bit_s,
            grant_nanodollars=learning.grant_nanodollars,
            lifetime_s=learning.lifetime_s,
        ),
        unjustified_nanodollars=day * learning.unjustified_share_ppm // _PPM,
        guards=configuration.guard.enabled,
        central=_central_settings(central, configuration) if central is not None else None,
    )


def flow_rules_of(configuration: Configuration) -> tuple[Rule, ...]:
    """Of the secretary's own file, in its order; they say how grants are made out."""
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
            probes_nanodollars=probes_budget(rule.strategy, rule.probes_nanodollars),
            grant_nanodollars=rule.grant_nanodollars,
            rate_nanodollars_per_s=rule.rate_nanodollars_per_s,
            burst_nanodollars=rule.burst_nanodollars,
            lifetime_s=rule.lifetime_s,
        )
        for rule in configuration.rules
    )


def manners_of(section: QuestionsSection) -> Manners:
    since, _, until = section.quiet.partition("-")
    return Manners(
        per_day=section.a_day,
        quiet_from=_minute(since),
        quiet_until=_minute(until),
        pause_s=section.pause_s,
        answer_s=section.answer_s,
    )


def doors_of(configuration: Configuration, config_path: Path) -> Doors:
    """Raises ConfigurationError for a user or group that there is not."""
    access = configuration.access
    return Doors(
        agents=who_is(access.agents, file=config_path, key="access.agents") if access.agents else NOBODY,
        people=who_is(access.people, file=config_path, key="access.people") if access.people else NOBODY,
        keepers=who_is(access.keepers, file=config_path, key="access.keepers") if access.keepers else NOBODY,
        own_user_id=os.geteuid(),
    )


def remote_doors_of(section: RemoteSection) -> tuple[tuple[PeerCertificate, ...], RemoteDoors]:
    """Raises ConfigurationError."""
    certificates, askers = [], {}
    for each in section.askers:
        certificate = PeerCertificate.read(each.certificate)
        certificates.append(certificate)
        askers[certificate.fingerprint] = Asker(roles=frozenset({Role(each.role)}), user=each.user)
    return tuple(certificates), RemoteDoors(askers=askers)


def rule_texts_of(states: Mapping[str, bytes], name: str) -> dict[str, str]:
    """The last good texts of people's files; none if they cannot be read."""
    try:
        return msgspec.json.decode(states.get(name, b"{}"), type=dict[str, str])
    except msgspec.DecodeError:
        return {}


def transport_of(configuration: Configuration) -> NodeIdentity:
    """The key for connections: not the one that signs. Raises EnvironmentFault."""
    return NodeIdentity.load_or_create(configuration.state_directory / TRANSPORT, name=configuration.secretary.name)


def central_client_of(section: CentralSection, configuration: Configuration) -> CentralClient:
    """Raises ConfigurationError or EnvironmentFault."""
    return CentralClient(transport_of(configuration), PeerCertificate.read(section.certificate), section.url)


def _central_settings(section: CentralSection, configuration: Configuration) -> CentralSettings:
    public_key = PeerCertificate.read(section.certificate).public_key
    return CentralSettings(host=configuration.secretary.name, public_key=public_key)


def _day_budget(name: str, limit_nanodollars: int) -> GrantBudget:
    return GrantBudget(
        terms=BudgetTerms(name=name, unit=Unit.NANODOLLARS, cycle=Cycle.DAY, limit=limit_nanodollars, hard=True)
    )


def _budget_of(section: MoreBudgetSection) -> GrantBudget:
    about, who = next(
        (
            (dimension, text)
            for dimension, text in (
                (Dimension.PROGRAM, section.program),
                (Dimension.NETWORK, section.network),
                (Dimension.PERSON, section.person),
            )
            if text
        ),
        (Dimension.ALL, ""),
    )
    return GrantBudget(
        terms=BudgetTerms(
            name=section.name,
            unit=Unit.NANODOLLARS,
            cycle=Cycle(section.period),
            limit=section.limit_nanodollars,
            hard=section.hard,
            reset_day=section.reset_day,
        ),
        about=about,
        who="" if who == EACH else who,
    )


EACH = "*"
"""Each program, network or person has a budget of its own."""


def _minute(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes) if text else 0
