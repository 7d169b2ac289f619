"""The organisation's central secretary: its policy comes from there, sums of what was spent go there."""
