"""Runs of `numclip-run` whose records are a folder of parts: on this machine, and on a cluster."""
