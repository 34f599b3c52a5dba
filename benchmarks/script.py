"""Loaded by a benchmark that is run by its path: puts the repository on the import path."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
