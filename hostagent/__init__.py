"""The host daemon: wires secretary, cartographer, price reactor and data plane, and serves the local API."""
