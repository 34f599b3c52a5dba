"""Load on a server of `numclip serve`: clients, rates, and hours."""
