"""Labelled images: reading, checking, splitting and loading them."""
