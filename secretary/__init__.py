"""The digital secretary: what a transfer is worth, budgets, and the grants that bound every payment."""
