"""`numclip-train` in a process of its own, made slow or ended early by environment variables."""

from __future__ import annotations

import os
import time

from numclip.cli.train import main
from numclip.training.lightning_module import NumClipModule

SLOW_MS = float(os.environ.get("SLOW_MS", "0"))
EXIT_AFTER_EPOCH = int(os.environ.get("EXIT_AFTER_EPOCH", "0"))


def on_train_batch_end(self: NumClipModule, *args: object) -> None:
    """Sleep after each batch."""
    time.sleep(SLOW_MS / 1000)


def on_train_epoch_start(self: NumClipModule) -> None:
    """End the process without any clean-up, as a power cut would."""
    if EXIT_AFTER_EPOCH and self.current_epoch >= EXIT_AFTER_EPOCH:
        os._exit(9)


if __name__ == "__main__":
    NumClipModule.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign,assignment]
    NumClipModule.on_train_epoch_start = on_train_epoch_start  # type: ignore[method-assign]
    main()
