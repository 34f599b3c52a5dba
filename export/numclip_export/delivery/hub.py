"""Publish an export on the Hugging Face hub: `numclip-export --push OWNER/NAME`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numclip_runtime import UsageError
from numclip_runtime.errors import NumclipError, first_line
from numclip_runtime.model_files.hub import DEFAULT_FILE, hub_address, hub_library, is_repository

if TYPE_CHECKING:  # it imports torch, after the options are checked
    from numclip_export.export import ExportResult

README = "README.md"
CARD = "CARD.md"  # where the repository has a README of its own


class PublishError(NumclipError, RuntimeError):
    """The hub did not take the files, which are complete on this machine."""


@dataclass(frozen=True)
class Publication:
    """Where the ONNX files, report and card of an export are published."""

    repository: str  # OWNER/NAME; made if it does not exist
    license: str  # as the hub writes it, such as "apache-2.0"
    public: bool = False  # whether a new repository is for everybody

    @classmethod
    def of(cls, repository: str | None, license: str | None, public: bool) -> Publication | None:
        """Return what the options ask for; None: nothing is published.

        Args:
            repository: Of --push.
            license: Of --license.
            public: Of --public.

        Raises:
            UsageError: if one is missing, or has no use.
        """
        if repository is None:
            if license is not None or public:
                name = "--public" if license is None else "--license"
                raise UsageError(f"{name} is for --push OWNER/NAME; leave it out, or add --push.")
            return None
        if not is_repository(repository):
            raise UsageError(
                f"--push {repository}: not the name of a repository, which is OWNER/NAME."
            )
        if license is None:
            raise UsageError(
                "--push needs the licence of the model, which its weights and training images "
                "decide: --license apache-2.0, or other."
            )
        return cls(repository, license, public)

    def check(self) -> None:
        """Ask the hub who is logged in: before the export, which takes longer.

        Raises:
            MissingDependencyError: if the extra `hub` is not installed.
            UsageError: if nobody is logged in.
            PublishError: if the hub cannot be reached, or does not know the token.
        """
        hub, _ = hub_library()
        if hub.get_token() is None:
            raise UsageError(
                f"--push {self.repository}: nobody is logged in to the hub; run `hf auth login`, "
                "or set HF_TOKEN to a token that may write."
            )
        with self._problems("nothing was exported"):
            hub.HfApi(endpoint=hub_address()).whoami()

    def push(self, result: ExportResult) -> str:
        """Publish the ONNX files of an export, its report and its card; return lines for people.

        The float32 file becomes model.onnx, and the second one, say, model.int8.onnx. There is no
        checkpoint and no engine among them: a plan is code, and tied to a GPU. A README.md that
        the repository has stays as it is, for somebody may have edited it.

        Raises:
            PublishError: if the hub does not take them.
        """
        hub, _ = hub_library()
        api = hub.HfApi(endpoint=hub_address())
        names = [
            DEFAULT_FILE if file is result.files[0] else f"model.{file.metadata.precision}.onnx"
            for file in result.files
        ]
        with self._problems("the files are complete here, and were not pushed"):
            api.create_repo(self.repository, private=not self.public, exist_ok=True)
            card = CARD if api.file_exists(self.repository, README) else README
            texts = self._texts(result, names, card)
            added = [
                hub.CommitOperationAdd(name, str(file.path))
                for name, file in zip(names, result.files, strict=True)
            ]
            added += [hub.CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
            title = f"{result.details['task']['name']}: {result.files[-1].metadata.precision}"
            commit = api.create_commit(self.repository, added, commit_message=title)
            private = api.model_info(self.repository).private
        place = f"hf://{self.repository}" + (f"/{names[-1]}" if names[-1] != DEFAULT_FILE else "")
        kept = f"; its {README} was kept, the new card is {CARD}" if card == CARD else ""
        return (
            f"pushed to {self.repository} ({'private' if private else 'public'}){kept}\n"
            f"to run it: numclip run {place}@{commit.oid} photo.jpg"
        )

    def _texts(self, result: ExportResult, names: list[str], card: str) -> dict[str, str]:
        """Return the report and the card, which name the files as they are called on the hub."""
        from numclip_export.report import write_card, write_report

        items = zip(result.details["artefacts"], names, strict=True)
        details = {key: value for key, value in result.details.items() if key != "engine"}
        details["artefacts"] = [item | {"file": name} for item, name in items]
        details["published"] = {"place": f"hf://{self.repository}@main", "license": self.license}
        return {
            "model.report.json": _written(write_report, details),
            card: _written(write_card, details),
        }

    @contextmanager
    def _problems(self, consequence: str) -> Iterator[None]:
        """Turn the errors of the library, the network and the server into one sentence."""
        _, errors = hub_library()
        try:
            yield
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status == 401:
                reason = "the hub does not know this token; log in with `hf auth login`"
            elif status == 403:
                reason = "this token may not write there; log in as the owner with `hf auth login`"
            else:
                reason = f"the hub refused ({first_line(error)})"
        except Exception as error:  # of the HTTP client, the library or a file
            reason = f"the hub cannot be reached ({first_line(error.__cause__ or error)})"
        else:
            return
        raise PublishError(f"--push {self.repository}: {reason}; {consequence}.")


def _written(write: Any, details: dict[str, Any]) -> str:
    file = io.StringIO()
    write(details, file)
    return file.getvalue()
