"""Money of a host: budgets, the purse, what grants hold and spent of both, and the statement about it."""
