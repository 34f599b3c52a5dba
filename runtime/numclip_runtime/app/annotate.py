"""Copies of pictures with the number written on them."""

from __future__ import annotations

import errno
import math
import unicodedata
from pathlib import Path, PurePath
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from numclip_runtime.calibration import DEFAULT_COVERAGE
from numclip_runtime.errors import UsageError
from numclip_runtime.files import atomic_path, naming
from numclip_runtime.predictor import Prediction
from numclip_runtime.preprocess import load_rgb
from numclip_runtime.task import Task

KEPT_SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))  # other kinds become name.suffix.png
LONGEST_JPEG = 65_500  # pixels of a side; the copies of larger pictures become name.jpg.png
MOST_NOTES = 5
MOST_CHARACTERS = 120  # of a line; phrases have up to thousands
_DISK = (
    errno.ENOSPC,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    getattr(errno, "EDQUOT", None),
)  # the next copy would fail as well
SMALLEST = 12  # pixels of the small lines; smaller text cannot be read
LINE_SHARE = 1 / 26  # height of a small line, relative to the picture's mean side
# For phrases with characters beyond Pillow's own font, which is ASCII
FONTS = ("DejaVuSans.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")
MISSING = "\U0010ffff"  # a character that no font has: its glyph is the "missing" box

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Annotator:
    """Write annotated copies into a separate folder, so that nothing is ever overwritten.

    Args:
        folder: New or empty.
        task: Determines the number of digits.

    Raises:
        UsageError: if the folder is not empty, or cannot be made.
    """

    def __init__(self, folder: Path, task: Task) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            used = any(folder.iterdir())
        except OSError as error:
            raise UsageError(f"{folder}: cannot write there ({error.strerror}).") from None
        if used:
            raise UsageError(f"{folder}: is not empty; give a new folder for the pictures.")
        self._folder = folder
        self._task = task
        self._taken: dict[Path, int] = {}  # the last number of a name that came more than once
        self._notes: list[str] = []
        self._more_notes = 0

    @property
    def notes(self) -> list[str]:
        """A sentence for each of the first copies that are missing or have another name."""
        more = [f"{self._more_notes} more copies like these."] if self._more_notes else []
        return [*self._notes, *more]

    def write(
        self, name: str, source: str | bytes | Image.Image, prediction: Prediction
    ) -> Path | None:
        """Write one copy.

        Args:
            name: Relative path of the picture; the copy keeps its folders.
            source: Image to draw on: a path, the content of a file, or a decoded RGB image
                (copied).
            prediction: The number to write.

        Returns:
            The copy's path; None if it could not be made, which `notes` then says. A name that
            exists gets "-2", "-3", ... before the suffix.

        Raises:
            OSError: if the disk is full, or fails.
        """
        try:
            return self._write(name, source, prediction)
        except Exception as error:  # the picture is gone or damaged, Pillow cannot write it, ...
            if isinstance(error, OSError) and error.errno in _DISK:
                raise
            place = source if isinstance(source, str) else name
            reason = str(error).removeprefix(f"{place}: ").rstrip(".") or type(error).__name__
            if isinstance(error, OSError) and error.strerror:
                reason = error.strerror
            self._note(f"{place}: no copy was made ({reason}).")
            return None

    def _note(self, sentence: str) -> None:
        if len(self._notes) < MOST_NOTES:
            self._notes.append(sentence)
        else:
            self._more_notes += 1

    def _write(self, name: str, source: str | bytes | Image.Image, prediction: Prediction) -> Path:
        image = load_rgb(source)
        profile = image.info.get("icc_profile")
        drawn = annotated(image, lines_of(prediction, self._task))
        usual = self._usual(name, is_file=not isinstance(source, Image.Image))
        jpeg = usual.suffix.lower() != ".png" and max(drawn.size) <= LONGEST_JPEG
        wanted = usual
        if not jpeg and usual.suffix.lower() != ".png":
            wanted = usual.with_name(f"{usual.name}.png")
        target = self._claim(self._folder_of(wanted) / wanted.name)
        options: dict[str, object] = {"quality": 92, "subsampling": 0} if jpeg else {}
        # Bytes 16-19 name the profile's colour space; one for CMYK no longer fits
        if isinstance(profile, bytes) and profile[16:20] == b"RGB ":
            options["icc_profile"] = profile
        drawn.info.clear()
        try:
            with atomic_path(target) as temporary:
                drawn.save(temporary, "JPEG" if jpeg else "PNG", **options)
        except BaseException:
            target.unlink(missing_ok=True)  # the empty file that claimed the name
            raise
        same_folder = target.parent == usual.parent and wanted == usual
        if not same_folder or (isinstance(source, str) and not _keeps_name(source, usual)):
            place = source if isinstance(source, str) else name
            self._note(f"{place}: its copy is {target.relative_to(self._folder)}.")
        return target

    def _folder_of(self, path: Path) -> Path:
        """Make the folder of a copy; a part that is the name of a file gets "-2", "-3", ..."""
        folder = self._folder
        for part in path.relative_to(self._folder).parts[:-1]:
            number, free = 1, folder / part
            while True:
                try:
                    free.mkdir(exist_ok=True)
                    break
                except FileExistsError:
                    number += 1
                    free = folder / f"{part}-{number}"
            folder = free
        return folder

    def _claim(self, path: Path) -> Path:
        """Claim a free name by an empty file, since other processes may write here."""
        free, number = path, self._taken.get(path, 1)
        while True:
            try:
                with naming(free):
                    free.touch(exist_ok=False)
                return free
            except FileExistsError:
                number += 1
                free = path.with_name(f"{path.stem}-{number}{path.suffix}")
                self._taken[path] = number
            except OSError:  # also of closing it: a network drive, or a quota
                free.unlink(missing_ok=True)
                raise

    def _usual(self, name: str, *, is_file: bool) -> Path:
        path = self._folder / name
        if not is_file:  # a frame: "frame-000120"
            path = path.with_name(f"{path.name}.jpg")
        elif path.suffix.lower() not in KEPT_SUFFIXES:
            path = path.with_name(f"{path.name}.png")
        return path


def _keeps_name(source: str, copy: Path) -> bool:
    return copy.name in ((name := PurePath(source).name), f"{name}.png")


def lines_of(prediction: Prediction, task: Task) -> list[str]:
    """Return the lines to write: number, interval if known, bin with its probability."""
    lines = [f"{task.number(prediction.value)} {prediction.unit}".rstrip()]
    if prediction.interval is not None:
        low, high = prediction.interval
        lines.append(f"{task.number(low)} to {task.number(high)} ({DEFAULT_COVERAGE:.0%})")
    share = prediction.bin_probs.get(prediction.bin, math.nan)
    return [_shortened(line) for line in (*lines, f"{prediction.bin} {share:.0%}")]


def _shortened(line: str) -> str:
    half = MOST_CHARACTERS // 2
    return line if len(line) <= MOST_CHARACTERS else f"{line[:half]} ... {line[-half:]}"


def annotated(image: Image.Image, lines: list[str]) -> Image.Image:
    """Return a copy of an RGB image with lines in its lower left corner, the first one large.

    If the text would cover more than half of the picture, or is wider than it, the copy is
    extended downwards (and to the right) instead.
    """
    small = max(SMALLEST, round(LINE_SHARE * math.sqrt(image.width * image.height)))
    box = _text_box(lines, small)
    # a very wide or high picture: shrink the text before giving up on drawing into it
    while small > SMALLEST and (box.width > image.width or 2 * box.height > image.height):
        small = max(SMALLEST, small * 3 // 4)
        box = _text_box(lines, small)
    if box.width <= image.width and 2 * box.height <= image.height:
        copy = image.copy()
        place = (0, image.height - box.height)
        under = copy.crop((*place, box.width, image.height))
        # 25 % of the picture shines through: the contrast of white on it is at least 10:1
        copy.paste(Image.blend(under, Image.new("RGB", box.size), 0.75), place)
        copy.paste(Image.new("RGB", box.size, "white"), place, box)
        return copy
    size = (max(image.width, box.width), image.height + box.height)
    copy = Image.new("RGB", size)
    copy.paste(image)
    copy.paste(Image.new("RGB", box.size, "white"), (0, image.height), box)
    return copy


def _text_box(lines: list[str], small: int) -> Image.Image:
    """Return the lines as a mask (mode L), cut to the text with a margin around it."""
    margin = max(3, small // 2)
    written = [_typeset(line, round(small * (1 if i else 1.7))) for i, line in enumerate(lines)]
    shown, fonts = zip(*written, strict=True)
    boxes = [font.getbbox(line) for font, line in zip(fonts, shown, strict=True)]
    steps = [round(getattr(font, "size", 11) * 1.3) for font in fonts]
    width = math.ceil(max(box[2] for box in boxes)) + 2 * margin
    mask = Image.new("L", (width, sum(steps) + 2 * margin))
    draw, top = ImageDraw.Draw(mask), margin
    for line, font, step in zip(shown, fonts, steps, strict=True):
        draw.text((margin, top), line, fill=255, font=font)
        top += step
    return mask


def _typeset(text: str, size: int) -> tuple[str, Font]:
    """Return the text as it can be drawn, and the font to draw it with."""
    # a line break or control character in a phrase would shift what follows
    text = "".join(c if c.isprintable() else "?" for c in text)
    builtin = _builtin(size)
    if isinstance(builtin, ImageFont.FreeTypeFont) and _covers(builtin, text):
        return text, builtin
    for name in FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except (OSError, ImportError):
            continue
        if _covers(font, text):
            return text, font
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if not unicodedata.combining(c)).encode(
        "ascii", "replace"
    ).decode(), builtin


def _builtin(size: int) -> Font:
    try:
        return ImageFont.load_default(size)
    except ImportError:  # a Pillow built without FreeType has one font of one size
        return ImageFont.load_default()


def _covers(font: ImageFont.FreeTypeFont, text: str) -> bool:
    missing = bytes(font.getmask(MISSING))
    return all(c.isspace() or bytes(font.getmask(c)) != missing for c in set(text))
