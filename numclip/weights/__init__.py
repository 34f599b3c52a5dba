"""Weights files of others, read as data and never as code."""
