"""Model files: their kinds, their metadata, and whether they can be trusted."""
