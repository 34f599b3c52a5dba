"""A smaller network that gives the same numbers: taught by a larger one, judged, and compared."""
