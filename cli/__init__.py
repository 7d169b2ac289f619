"""The one command: parses, dispatches, prints; knows everyone, nobody knows it."""
