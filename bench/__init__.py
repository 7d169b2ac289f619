"""Benches: speed as a ratio to plain forwarding (or another baseline) in the same run; never a pass or fail."""
