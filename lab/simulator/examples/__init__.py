"""Experiment files that come with the lab; docs/spec/experiment.md explains each."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent


def example(name: str) -> Path:
    """Of a file here: "one-to-three.toml"."""
    return DIRECTORY / name
