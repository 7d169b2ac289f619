"""Which network the host is on, what that costs, and who its gateway is."""
