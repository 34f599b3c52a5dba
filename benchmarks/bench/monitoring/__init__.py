"""Measure a monitor: false alarms on unchanged images, and how soon changes are noticed."""
