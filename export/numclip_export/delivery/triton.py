"""A model repository for NVIDIA's Triton server: `numclip-export --triton DIR`.

DIR/NAME holds the model file, a complete config, the bins' phrases as a label file, and a README.
The config carries numclip's metadata, so `numclip-run triton://HOST:PORT/NAME` needs no other file.
"""

from __future__ import annotations

import re
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from numclip_export.delivery.hub import README
from numclip_export.delivery.pbtxt import parsed, written
from numclip_export.delivery.triton_config import (
    LABELS,
    MARK,
    check_config,
    config_fields,
    model_filename,
)
from numclip_export.delivery.triton_serving import ServedFile, served_file
from numclip_export.options import Target
from numclip_runtime import UsageError
from numclip_runtime.console import say, visible
from numclip_runtime.files import atomic_path, naming
from numclip_runtime.metadata import (
    BIN_PROBS_NAME,
    INPUT_NAME,
    METADATA_KEY,
    VALUES_NAME,
    ModelMetadata,
)
from numclip_runtime.model_files.open_model import OpenModel
from numclip_runtime.model_files.served import GRPC_PORT

if TYPE_CHECKING:
    from numclip_export.export import ExportResult

CONFIG, VERSION = "config.pbtxt", "1"


@dataclass(frozen=True)
class TritonRepository:
    """A model repository that will be written to, or added to."""

    folder: Path  # made if it does not exist
    target: Target = "auto"  # "cpu": the server has no GPU
    max_batch: int | None = None  # None: that of the plan or graph, else `MAX_BATCH`

    @classmethod
    def of(
        cls, folder: Path | None, target: Target, max_batch: int | None
    ) -> TritonRepository | None:
        """Return the repository that the options ask for; None: none.

        Raises:
            UsageError: if the options contradict each other, or the folder cannot become one.
        """
        if folder is None:
            return None
        if target == "openvino":
            raise UsageError(
                "Triton runs ONNX files in onnxruntime, and --target openvino is not for it; "
                "choose --target cpu, or leave --triton out."
            )
        if target == "tensorrt-rtx":
            raise UsageError(
                "--triton: Triton's TensorRT does not run engines of TensorRT-RTX; choose "
                "--target tensorrt, or onnx."
            )
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is a file; --triton takes a folder.")
        if (folder / CONFIG).exists():
            raise UsageError(
                f"{folder}: is the folder of one model, for it holds {CONFIG}; give the folder "
                "above it."
            )
        return cls(folder, target, max_batch)

    def refuse_building(self) -> None:
        """Refuse a target that would need an engine, where a finished file is copied.

        Raises:
            UsageError: if so.
        """
        if self.target == "tensorrt":
            raise UsageError(
                "--triton copies a finished file as it is; build the plan first, with "
                "--target tensorrt and without --triton, and give it in place of the ONNX file."
            )

    def check(self, model: Path) -> None:
        """Refuse to replace what this command did not write.

        Args:
            model: The file, which need not exist yet.

        Raises:
            UsageError: naming it.
        """
        folder = self.folder / name_of(model)
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder}: is a file; --triton makes a folder of this name.")
        config = folder / CONFIG
        if config.exists():
            with naming(config), config.open("rb") as file:
                ours = file.read(len(MARK)) == MARK.encode()
            if not ours:
                raise UsageError(
                    f"{config}: was not written by numclip-export; choose another folder, or "
                    "rename the model file."
                )
            return
        files = (folder / LABELS, folder / README, *_model_files(folder))
        if found := next((path for path in files if path.exists()), None):
            raise UsageError(
                f"{found}: is in the way, in a folder that numclip-export did not write; choose "
                "another one."
            )

    def write_export(self, done: ExportResult) -> str:
        """Write the last file of an export, see `write`: the plan, if there is one."""
        built = None if done.engine is None else done.engine.built
        return self.write(done.files[-1].path if built is None else built.plan)

    def write(self, model: Path) -> str:
        """Write the folder of a model, and return lines for people.

        Files of this name that the command wrote before are replaced once all new ones are
        complete; others stay.

        Args:
            model: ONNX file of `numclip-export`, or a plan of TensorRT.

        Raises:
            ModelError: if numclip did not make it, or Triton cannot run it.
            UsageError: if the folder cannot be written, or a batch does not fit.
        """
        self.check(model)
        name = name_of(model)
        folder = self.folder / name
        with OpenModel(model) as file:
            facts = served_file(file, self.target, self.max_batch)
            options = facts.options
            _refuse_other_task(folder / CONFIG, facts)
            config = "\n".join(
                (
                    f"{MARK} for {visible(model.name)}: write it again rather than change it.",
                    *(f"# {note}" for note in facts.notes),
                    "",
                    written(config_fields(name, facts.metadata, options, file.sha256())),
                )
            )
            labels = [visible(phrase) for phrase in facts.metadata.task.phrases]
            check_config(str(folder / CONFIG), config, labels, facts.metadata, facts.graph)
            target = folder / VERSION / model_filename(options.backend)
            with ExitStack() as files:  # none gets its name before all are complete
                # The last one gets its name first: it tells that the folder may be replaced
                for path, content in (
                    (folder / README, _readme(name, facts).encode()),
                    (folder / LABELS, "".join(f"{label}\n" for label in labels).encode()),
                    (target, file.content),
                    (folder / CONFIG, config.encode()),
                ):
                    temporary = files.enter_context(atomic_path(path, sync=path == target))
                    temporary.write_bytes(content)
                file.check_unchanged()
        for other in _model_files(folder):
            if other != target:  # of this name before, and in another form
                other.unlink(missing_ok=True)
        for note in facts.notes:
            say(f"Note: {note}")
        return (
            f"{folder}: {model.name} for Triton's {options.backend}, batches of up to "
            f"{options.max_batch}, {_PLACES[options.kind]}\n"
            f"to serve it: tritonserver --model-repository={shlex.quote(str(self.folder))}, then "
            f"numclip-run triton://localhost:{GRPC_PORT}/{name} photo.jpg"
        )


def _refuse_other_task(config: Path, facts: ServedFile) -> None:
    """Refuse to replace a model of another task: two files of one name, such as model.onnx."""
    try:
        entries = parsed(config.read_text("utf-8"))["parameters"]
        texts = {one["key"][0]: one["value"][0]["string_value"][0] for one in entries}
        before = ModelMetadata.from_json(texts[METADATA_KEY]).task.name
    except (OSError, ValueError, LookupError, TypeError):  # none there, or changed by hand
        return
    if before != facts.metadata.task.name:
        raise UsageError(
            f"{config}: is of a model that reads {before}, and this one reads "
            f"{facts.metadata.task.name}; rename the file, or choose another folder."
        )


def name_of(model: Path) -> str:
    """Return the name of a model in Triton: its file's, of letters, digits, _ and - alone."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", model.stem).strip("_") or "model"


def _model_files(folder: Path) -> list[Path]:
    return [folder / VERSION / model_filename(name) for name in ("onnxruntime", "tensorrt")]


_PLACES = {
    "KIND_CPU": "on a CPU",
    "KIND_GPU": "on a GPU",
    "KIND_AUTO": "on a GPU if the server has one",
}


def _readme(name: str, facts: ServedFile) -> str:
    """Return the folder's README.md."""
    task, options, spec = facts.metadata.task, facts.options, facts.metadata.preprocessing
    unit = f" in {task.unit}" if task.unit else ""
    file, place = f"{VERSION}/{model_filename(options.backend)}", _PLACES[options.kind]
    notes = "".join(f"- {note[0].upper()}{note[1:]}\n" for note in facts.notes)
    return f"""# {visible(name)}

Reads {visible(task.name)}{visible(unit)} off images. Written by `numclip-export --triton`.

- Triton's {options.backend} runs `{file}`, {place}, in batches of up to {options.max_batch}.
- At most {options.queue} requests wait, each for {options.queue_s:g} s at most. Others are refused:
  503, or UNAVAILABLE in gRPC.
- Input `{INPUT_NAME}`: {facts.metadata.input}, {spec.crop} x {spec.crop}, prepared as the metadata
  in the config say. Outputs: `{VALUES_NAME}`, and `{BIN_PROBS_NAME}` with the labels of {LABELS}.
{notes}
    tritonserver --model-repository=FOLDER_ABOVE_THIS_ONE
    pip install 'numclip[triton]'
    numclip-run triton://localhost:{GRPC_PORT}/{name} photo.jpg
"""
