"""Measurement of a benchmark run: systems, processes, timing, results."""
