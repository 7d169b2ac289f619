"""What the configuration says of sessions, as the values that their driver is made with."""

from __future__ import annotations

from typing import Final

from dataplane.shaping.plan import Match, Protocol
from hostagent.configuration import Configuration, ports_of
from hostagent.reacting.matching import SessionRule
from hostagent.reacting.prices import Provider
from neighbour.identity import PeerCertificate

EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - the other ends of flows are anywhere


def session_rules_of(configuration: Configuration) -> tuple[SessionRule, ...]:
    """Of `[[sessions]]`, in the order of trying."""
    return tuple(
        SessionRule(
            task=section.task,
            match=Match(
                program=section.program or None,
                unit=section.unit or None,
                task=section.run_task or None,
                protocol=Protocol(section.protocol),
                remote=section.remote or None,
                ports=ports_of(section.ports),
            ),
            sends=section.sends,
            pays=section.pays,
        )
        for section in configuration.sessions
    )


def providers_of(configuration: Configuration) -> tuple[Provider, ...]:
    """Of `[[providers]]`. Raises ConfigurationError for a certificate that is none."""
    return tuple(
        Provider(
            name=section.name,
            public_key=PeerCertificate.read(section.certificate).public_key if section.certificate else None,
            nanodollars_per_mark=section.nanodollars_per_mark,
        )
        for section in configuration.providers
    )
