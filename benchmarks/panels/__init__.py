"""Panels of the pictures: each draws one question about the rows of a latency document."""
