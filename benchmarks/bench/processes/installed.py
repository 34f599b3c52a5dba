"""Run by the Python of another environment, which holds neither numclip's benchmarks nor pip.

`python installed.py` prints its version and packages as JSON; with names of modules, the
milliseconds that their imports take.
"""

import sys
import time


def main() -> None:
    """Print the facts."""
    start = time.perf_counter()
    for name in sys.argv[1:]:
        __import__(name)
    if len(sys.argv) > 1:
        print((time.perf_counter() - start) * 1e3)
        return
    import json
    import platform
    from importlib.metadata import distributions

    found = []
    for distribution in distributions():
        # As pip's RECORD names them, so the bytecode that pip compiles is counted as well.
        paths = [file.locate() for file in distribution.files or ()]
        size = sum(path.stat().st_size for path in paths if path.is_file())  # type: ignore[attr-defined]
        found.append((distribution.metadata["Name"], distribution.version, size))
    print(json.dumps([platform.python_version(), found]))


if __name__ == "__main__":
    main()
