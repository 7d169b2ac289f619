"""Questions to people: asked rarely, answered when it suits, taken back, never waited for."""
