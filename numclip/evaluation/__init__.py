"""Predictions of a model on labelled images, their metrics, and calibration."""
