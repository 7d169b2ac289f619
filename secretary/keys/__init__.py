"""Where the key that signs grants is kept, and how one follows another."""
