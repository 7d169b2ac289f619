"""Whose packet it is: sockets, processes, units, containers."""
