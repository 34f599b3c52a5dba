"""`numclip-train` in a process of its own, made slow by an environment variable."""

from __future__ import annotations

import os
import time

from numclip.cli.train import main
from numclip.training.lightning_module import NumClipModule

SLOW_MS = float(os.environ.get("SLOW_MS", "0"))


def on_train_batch_end(self: NumClipModule, *args: object) -> None:
    """Sleep after each batch."""
    time.sleep(SLOW_MS / 1000)


if __name__ == "__main__":
    NumClipModule.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign,assignment]
    main()
