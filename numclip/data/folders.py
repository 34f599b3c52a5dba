"""Labelled images from a folder with one subfolder for each bin or number."""

from __future__ import annotations

from pathlib import Path

from numclip.data.samples import Sample, number, sample_of
from numclip_runtime import Task, UsageError
from numclip_runtime.files import IMAGE_SUFFIXES, find_images


def read_folder(folder: Path, task: Task) -> list[Sample]:
    """Read a folder whose subfolders are named by a number or by the phrase of a bin.

    A number ("34") is the label of the images inside. A phrase ("young adult", "Young_Adult")
    tells the bin only; the label is then the number that stands for it (`Task.bin_values`): the
    class where labels are classes, else the bin's centre, off by half a bin at most.

    Args:
        folder: Folder; images may lie at any depth in its subfolders. Hidden entries are ignored.
        task: Gives the phrases; labels that are not of this task are refused.

    Raises:
        UsageError: if a subfolder is named otherwise, or an image lies beside the subfolders.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in entries:
        if entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES:
            raise UsageError(
                f"{entry}: lies beside the folders of the bins; move it into the one it belongs "
                "to, or give a CSV file with the columns 'path' and 'label'."
            )
    samples = []
    for subfolder in filter(Path.is_dir, entries):
        label = _label(subfolder, task)
        if any(subfolder.iterdir()):  # an empty one is a bin without images; the report says so
            paths = find_images([str(subfolder)])
            samples += [sample_of(Path(path), [label], task, str(subfolder)) for path in paths]
    if not samples:
        raise UsageError(f"{folder}: holds no images; {_expected(task)}.")
    return samples


def _label(subfolder: Path, task: Task) -> float:
    given = number(subfolder.name)
    phrases = [_simple(phrase) for phrase in task.phrases]
    named = phrases.index(_simple(subfolder.name)) if _simple(subfolder.name) in phrases else None
    if named is None and given is None:
        raise UsageError(
            f"{subfolder}: neither a number nor a phrase of the task; {_expected(task)}."
        )
    if named is None:
        assert given is not None
        return given
    if given is not None and task.bin_of(given) != named:
        raise UsageError(
            f"{subfolder}: is a number of bin {task.phrases[task.bin_of(given)]!r} and the phrase "
            f"of another; give a CSV file with the columns 'path' and 'label'."
        )
    return task.bin_values[named] + task.label_offset if given is None else given


def _simple(text: str) -> str:
    """Return a phrase as it may appear in a folder's name: case, "_" and "-" do not matter."""
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())


def _expected(task: Task) -> str:
    names = ", ".join(repr(phrase) for phrase in task.phrases)
    return f"name the subfolders by labels, or by the phrases of task {task.name!r}: {names}"
