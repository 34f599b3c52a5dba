"""Find images that would stop a training run, before it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from numclip.data.samples import Sample
from numclip_runtime import ImageError, UsageError
from numclip_runtime.preprocess import load_rgb

# none; header: Pillow opens and verifies the file (checksums of PNG, the header of JPEG);
# decode: every pixel, as training does.
ImageCheck = Literal["none", "header", "decode"]
NAMED = 5  # broken files that an error names


def broken_images(paths: Sequence[Path], check: ImageCheck) -> dict[Path, str]:
    """Check images in threads (Pillow decodes outside the interpreter lock).

    A progress bar is drawn where stderr is a terminal.

    Args:
        paths: Image files; each is checked once.
        check: How thoroughly.

    Returns:
        What is wrong with each broken file, in the order of `paths`.
    """
    if check == "none":
        return {}
    checks: dict[ImageCheck, Callable[[Path], str | None]] = {"header": _verify, "decode": _decode}
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = tqdm(
            pool.map(checks[check], distinct),
            desc="checking images",
            total=len(distinct),
            unit="",
            leave=False,
            disable=None,  # quiet when piped
        )
        return {path: fault for path, fault in zip(distinct, results, strict=True) if fault}


def _decode(path: Path) -> str | None:
    try:
        load_rgb(path)
    except ImageError as error:
        return str(error)
    return None


def _verify(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.verify()
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        return f"{path}: {'the file is empty' if empty else 'not an image that Pillow can read'}."
    except Exception as error:  # as many types as Pillow has plugins, see load_rgb
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return f"{path}: cannot be read ({reason})."
    return None


def without_broken(
    samples: Sequence[Sample], broken: dict[Path, str], *, skip: bool, name: str
) -> list[Sample]:
    """Return the samples whose files are not broken.

    Args:
        samples: Samples of one set.
        broken: What `broken_images` found.
        skip: Drop broken ones; False refuses them.
        name: The set in errors, such as "training".

    Raises:
        UsageError: if there are broken files and `skip` is False, or nothing else is left.
    """
    faults = {s.path: broken[s.path] for s in samples if s.path in broken}
    kept = [sample for sample in samples if sample.path not in faults]
    if faults and (not skip or not kept):
        lines = [f"  {fault}" for fault in list(faults.values())[:NAMED]]
        if len(faults) > NAMED:
            lines.append(f"  and {len(faults) - NAMED} more")
        way_out = "or leave them out with --skip-broken." if kept else "none is left."
        raise UsageError(
            f"{len(faults)} of {len(samples)} {name} images are broken:\n"
            + "\n".join(lines)
            + f"\nRepair or remove them, {way_out}"
        )
    return kept
