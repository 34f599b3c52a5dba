"""Settings of all tests, before any of them imports numpy or torch."""

from __future__ import annotations

import os

# Several test processes share the cores (`pytest -n`): threads of each would only wait for others'.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Property tests: "ci" is the same on every run; "long" (NUMCLIP_HYPOTHESIS=long) looks further.
try:
    from hypothesis import settings
except ModuleNotFoundError:  # the tests of the bare wheel do without
    pass
else:
    settings.register_profile(
        "ci", derandomize=True, deadline=None, max_examples=60, database=None
    )
    settings.register_profile("long", deadline=None, max_examples=20_000)
    settings.load_profile(os.environ.get("NUMCLIP_HYPOTHESIS", "ci"))
