"""The cartographer in the agent: its memory, what it learns from sockets, its checks, and who asks it."""
