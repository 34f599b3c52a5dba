"""Hide what Windows lacks from this process, before it imports anything else.

The tests' `conftest.py` puts this folder on the path of every Python if NUMCLIP_TEST_WITHOUT_POSIX
is set. What pytest itself needs stays, such as `os.getuid`; `tests/runtime/test_without_posix.py`
reads the source for all of it.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
import sys
from typing import Any

NAMES = {
    os: (
        "O_DIRECTORY O_NONBLOCK chown fork forkpty killpg link mkfifo register_at_fork "
        "sched_getaffinity sched_setaffinity statvfs symlink"
    ),
    signal: "SIGHUP SIGALRM SIGUSR1 SIGUSR2 SIGQUIT alarm pthread_sigmask setitimer",
}
MODULES = "fcntl grp pty pwd resource termios tty"
ABSENT = ("/proc/", "/sys/")


def hide() -> None:
    """Delete the names, refuse the modules, and let no file of the kernel be read."""
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # rmtree needs O_NONBLOCK for it
    for module, names in NAMES.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    for name in MODULES.split():
        sys.modules[name] = None  # type: ignore[assignment]
    opened = io.open

    def open_present(file: Any, *args: Any, **options: Any) -> Any:
        if isinstance(file, (str, os.PathLike)) and os.fspath(file).startswith(ABSENT):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(file))
        return opened(file, *args, **options)

    io.open = builtins.open = open_present
    found = os.stat

    def stat_present(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(ABSENT):
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
        return found(path, *args, **options)

    os.stat = stat_present


hide()
