"""Settings of all tests, before any of them imports numpy or torch."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

# Several test processes share the cores (`pytest -n`): threads of each would only wait for others'.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Property tests: "ci" is the same on every run; "long" (NUMCLIP_HYPOTHESIS=long) looks further.
try:
    from hypothesis import settings
except ModuleNotFoundError:  # the tests of the bare wheel do without
    pass
else:
    settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, database=None)
    settings.register_profile("long", deadline=None, max_examples=20_000)
    settings.load_profile(os.environ.get("NUMCLIP_HYPOTHESIS", "ci"))

# NUMCLIP_TEST_WITHOUT_POSIX=1 pytest tests/runtime: as on a system without fork, SIGHUP, /proc ...
WITHOUT_POSIX = bool(os.environ.get("NUMCLIP_TEST_WITHOUT_POSIX"))
if WITHOUT_POSIX:
    hidden = str(Path(__file__).parent / "without_posix")
    others = os.environ.get("PYTHONPATH", "")
    if hidden not in others.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (hidden, others)))
        sys.path.insert(0, hidden)
        import_module("sitecustomize")  # hides at import


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Begin with Python's own handlers, for the test and the processes that it starts.

    A job in the background of a script inherits that Ctrl-C is ignored; nohup ignores SIGHUP.
    """
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {signal.Signals[name]: signal.getsignal(signal.Signals[name]) for name in names}
    for one in before:
        signal.signal(one, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of tests that themselves need what only POSIX systems have."""
    config.addinivalue_line("markers", "posix(reason): the test needs what only POSIX systems have")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests elsewhere, with their reasons."""
    for item in items:
        for mark in item.iter_markers("posix"):
            if WITHOUT_POSIX or os.name != "posix":
                item.add_marker(pytest.mark.skip(reason=f"POSIX only: {mark.args[0]}"))
