"""Real image sets with ordered labels: the sets, the methods compared on them, tables and plots."""
