"""Entry points of the commands that train, in `numclip.cli`."""

from __future__ import annotations

from numclip_runtime.console import entry_point

train = entry_point("numclip.cli.train")
convert = entry_point("numclip.cli.convert")
zeroshot = entry_point("numclip.cli.zeroshot")
evaluate = entry_point("numclip.cli.evaluate")
