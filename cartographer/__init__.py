"""The digital cartographer: what is known of paths, and which alternative to ask for."""
