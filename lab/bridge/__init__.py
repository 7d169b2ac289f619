"""Experiments of the simulator on real packets: the same file, namespaces, the product's own daemons."""
