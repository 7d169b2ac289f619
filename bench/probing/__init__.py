"""Tracing and multipath discovery beside mtr, traceroute and scamper, on a network whose paths are known."""

from bench.probing.report import main

__all__ = ["main"]
