"""Model directories: JSON, safetensors, tokenizer files and a model card; no pickles."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from bayeslora.errors import InputError
from bayeslora.foreign import reading
from bayeslora.io.directories import (
    FILES,
    FileState,
    Layout,
    atomic_directory,
    check_files,
    check_record,
    file_list,
    file_states,
    sealed,
)
from bayeslora.io.files import read_json, read_tensors, write_json

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
RECORD = "bayeslora.json"
ADAPTER = "adapter.safetensors"
POSTERIOR = "posterior.safetensors"
CARD = "README.md"
INTERRUPTED = "interrupted-fit.json"

CHECKPOINT = "checkpoint.safetensors"
LAYOUTS = (
    # The first two for models without a list.
    Layout("a model", RECORD, (ADAPTER, POSTERIOR, CARD, ".eval_results/*")),
    Layout("an interrupted fit", INTERRUPTED, (f"checkpoints/member-*/{CHECKPOINT}",)),
)
"""Layouts of a model directory: a model, an interrupted fit, or both."""

ADAPTED = "adapted"
FOREIGN = "sequence-classifier"
MODULE = "module"
"""Kinds of backbone: adapted here, a finished classifier from disk or the hub, or any in-memory
module."""


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that affect a fit's results."""
    names = ("bayeslora", "torch", "transformers", "pyro-ppl", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


_version = cache(version)  # it parses the metadata of a package


def _distinct(classes: list[str]) -> list[str]:
    if len(set(classes)) < len(classes):
        raise ValueError("the names must be different")
    return classes


def _backbone(entry: dict[str, Any]) -> dict[str, Any]:
    if missing := {"name", "fingerprint", "dtype", "kind"} - entry.keys():
        raise ValueError(f"{', '.join(sorted(missing))} is missing")
    return entry


_Number = Annotated[int, Field(ge=0, le=1 << 40)]


@dataclass(frozen=True)
class ModelRecord:
    """The content of `bayeslora.json`; the types are checked when it is read.

    Attributes:
        backbone: `name`, `fingerprint`, `dtype`, `kind` (`ADAPTED`, `FOREIGN` or `MODULE`), and
            the `settings` of its architecture.
        posterior: Name and options.
        classes: Class names in index order.
        columns: Data columns: `text`, `label`, `pair`.
        max_length: Maximum tokens per text.
        seed: Seed of the fit.
        num_train: Number of training rows N.
        adapter: Name and options; None if the network was not adapted here.
        head: `extra_config()` of the last layer.
        feature_scores: `extra_config()` of the feature scores, by name.
        num_members: Number of networks; more than one for an ensemble.
        tasks: Number of classes per task by name, in class order; empty for a single task.
        data: Hashes of the `train` and `validation` rows; `whole` for the rows that `hold_out`
            split into both; `before` identifies the original fit of a network whose posterior was
            refitted. Empty if nothing was fitted or stored.
        dropped: Number of rows dropped from a known task, by split and reason.
        training: Settings of the fit.
        results: Results of the fit: history, best epoch, posterior, adapter, and the finished
            model's NLL and accuracy on the validation rows.
        versions: Versions of the libraries at save time.
        format_version: Version of this layout.
    """

    backbone: Annotated[dict[str, Any], AfterValidator(_backbone)]
    posterior: dict[str, Any]
    classes: Annotated[list[str], Field(min_length=2), AfterValidator(_distinct)]
    columns: dict[str, Any]
    max_length: _Number
    seed: _Number
    num_train: _Number
    adapter: dict[str, Any] | None = None
    head: dict[str, Any] = field(default_factory=dict)
    feature_scores: dict[str, Any] = field(default_factory=dict)
    num_members: _Number = 1
    tasks: dict[str, int] = field(default_factory=dict)
    data: dict[str, str | None] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=library_versions)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class ModelFiles:
    """The content of a model directory.

    Attributes:
        record: The content of `bayeslora.json`.
        adapter: Adapter tensors by name; empty without an adapter.
        posterior: Tensors of the last layer, the feature scores and the feature scale by name.
        directory: Source directory; None if it is not written yet.
    """

    record: ModelRecord
    adapter: dict[str, Tensor]
    posterior: dict[str, Tensor]
    directory: Path | None = None

    def warn_unverified(self) -> None:
        """Log a warning if the source directory has no file hashes."""
        if self.directory is not None and listed_files(self.directory) is None:
            logger.warning(
                "%s was saved without hashes, so changes to its files cannot be detected; fit or "
                "save it again to add them",
                self.directory,
            )

    @property
    def fingerprint(self) -> str:
        """Hash of all tensors and of the backbone's fingerprint; equal for equal models."""
        digest = hashlib.sha256(str(self.record.backbone["fingerprint"]).encode())
        for name, tensor in sorted({**self.adapter, **self.posterior}.items()):
            digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]


def write_model(
    directory: str | Path, files: ModelFiles, *, tokenizer: Any, card: str, overwrite: bool = False
) -> None:
    """Write a model directory atomically, with hashes of its files.

    Raises:
        InputError: The directory exists and `overwrite` is false, or it holds anything other than
            a model or an interrupted fit.
    """
    from safetensors.torch import save_file

    with atomic_directory(directory, *LAYOUTS, overwrite=overwrite) as temporary:
        save_file(files.adapter, temporary / ADAPTER)
        save_file(files.posterior, temporary / POSTERIOR)
        if tokenizer is not None:
            with reading(f"the tokenizer cannot be saved to {directory}"):
                tokenizer.save_pretrained(temporary)
        # The card is not listed, since reports update it later.
        record = sealed(dataclasses.asdict(files.record), file_list(temporary))
        write_json(temporary / RECORD, record)
        (temporary / CARD).write_text(card, encoding="utf-8")


def read_model(directory: str | Path) -> ModelFiles:
    """Read a directory written by `write_model` and verify the hashes of its files.

    Raises:
        InputError: It is missing, foreign, damaged, or of a newer format; the message says which.
    """
    folder = Path(directory)
    record = read_record(folder)
    listed = listed_files(folder)
    if listed is not None:
        check_files(folder, listed)
    return ModelFiles(record, _tensors(folder / ADAPTER), _tensors(folder / POSTERIOR), folder)


def read_record(directory: str | Path) -> ModelRecord:
    """Read the record of a model directory, without its tensors.

    Raises:
        InputError: It is missing, foreign, damaged, or of a newer format; the message says which.
    """
    folder = Path(directory)
    path, advice = folder / RECORD, ""
    if not path.is_file():
        if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            advice = (
                f". To make a model from this checkpoint, run `bayeslora calibrate {folder} ROWS "
                "--out DIR` (in Python: from_transformers, then calibrate)"
            )
        raise InputError(f"{folder} is not a bayeslora model: it has no {RECORD}{advice}")
    content = _content(path)
    try:
        record = TypeAdapter(ModelRecord).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{path} is damaged: {first['loc'][0]!r}: {first['msg']}", code="damaged"
        ) from None
    # Models of earlier versions may classify among the classes of all tasks, as if of one task.
    return dataclasses.replace(record, tasks={}) if content.get("across_tasks") else record


def listed_files(directory: str | Path) -> dict[str, dict[str, Any]] | None:
    """Return `size` and `sha256` of the files listed in a model's record, by name.

    The record itself and the model card are not listed.

    Returns:
        The files; None if the model was saved by a version that wrote no list.

    Raises:
        InputError: The record cannot be read, or was changed after it was saved.
    """
    path = Path(directory) / RECORD
    files: dict[str, dict[str, Any]] | None = _content(path).get(FILES)
    return files


def verify_model(directory: str | Path) -> list[FileState]:
    """Return the state of every file in a model directory, the record first.

    Raises:
        InputError: As `read_record`, or the model was saved without a list of its files.
    """
    folder = Path(directory)
    read_record(folder)
    listed = listed_files(folder)
    if listed is None:
        raise InputError(f"{folder} was saved without hashes of its files; save it again")
    record = FileState(RECORD, (folder / RECORD).stat().st_size, "ok")
    return [record, *file_states(folder, listed, without=(RECORD, CARD))]


def is_model(directory: str | Path) -> bool:
    """Return whether a directory holds a finished bayeslora model."""
    return (Path(directory) / RECORD).is_file()


def _content(path: Path) -> Mapping[str, Any]:
    """Return the JSON of a record after checking its format version and its hash."""
    content = read_json(path)
    if not isinstance(content, Mapping) or "format_version" not in content:
        raise InputError(f"{path} is not a bayeslora model record: it has no format_version")
    stored = content["format_version"]
    if type(stored) is not int or not 1 <= stored <= FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {stored!r}; this bayeslora reads up to {FORMAT_VERSION}: "
            "upgrade bayeslora"
        )
    check_record(path, content)
    return content


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path.parent} is damaged: {path.name} is missing", code="damaged")
    return read_tensors(path)
