"""Settings of all tests, before any of them imports numpy or torch."""

from __future__ import annotations

import os

# Several test processes share the cores (`pytest -n`): threads of each would only wait for others'.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
