"""Whole networks in namespaces on one machine, with the real daemons, real traffic, and independent witnesses."""
