"""Pictures of a latency run."""
