"""What the daemons answer, as tables for people and JSON for programs; by subject."""
