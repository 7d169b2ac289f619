"""What was, kept: totals by hour, data for statements, replayed tariffs."""
