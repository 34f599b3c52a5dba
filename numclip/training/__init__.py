"""Losses, optimizer, schedule and the training run."""
