"""Measurements of exported models. Part of the repository, not of the wheel."""
