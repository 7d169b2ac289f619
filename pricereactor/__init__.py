"""Dynamic price handlers: how much to pay as tolls and goodput change."""
