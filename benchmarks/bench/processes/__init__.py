"""Processes that a benchmark starts: one protocol of JSON lines, and the work they do."""
