"""Print the oldest versions that pyproject.toml declares for the runtime, as pip's constraints."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FLOOR = re.compile(r'"([\w-]+)>=([\w.]+)"')
text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8")
lines = [line for line in text.splitlines() if re.match(r"(dependencies|cpu) = ", line)]
sys.stdout.writelines(f"{name}=={version}\n" for line in lines for name, version in FLOOR.findall(line))
