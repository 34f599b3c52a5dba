"""The parts of `benchmarks/gpu_proof.py`, each in a process of its own: what only a GPU shows."""
