"""Model directories: JSON, safetensors, tokenizer files and a model card; no pickles.

The record lists size and SHA-256 of the files, which are checked when a model is loaded. They show
damage and mix-ups, not attacks: who changes a file can compute its hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bayeslora.errors import InputError
from bayeslora.foreign import reading
from bayeslora.io import (
    FILES,
    Layout,
    atomic_directory,
    listed_files,
    read_json,
    read_tensors,
    write_json,
)
from bayeslora.predictions.files import HELD_OUT, open_columns

if TYPE_CHECKING:
    from torch import Tensor

    from bayeslora.predictions.record import Predictions

FORMAT_VERSION = 1
RECORD = "bayeslora.json"
ADAPTER = "adapter.safetensors"
POSTERIOR = "posterior.safetensors"
CARD = "README.md"
INTERRUPTED = "interrupted-fit.json"

CHECKPOINT = "checkpoint.safetensors"
LAYOUTS = (
    # The first two for models without a list.
    Layout(RECORD, (ADAPTER, POSTERIOR, CARD, ".eval_results/*")),
    Layout(INTERRUPTED, (f"checkpoints/member-*/{CHECKPOINT}",)),
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


@dataclass(frozen=True)
class ModelRecord:
    """The content of `bayeslora.json`.

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

    backbone: dict[str, Any]
    posterior: dict[str, Any]
    classes: list[str]
    columns: dict[str, Any]
    max_length: int
    seed: int
    num_train: int
    adapter: dict[str, Any] | None = None
    head: dict[str, Any] = field(default_factory=dict)
    feature_scores: dict[str, Any] = field(default_factory=dict)
    num_members: int = 1
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
        held_out: Predictions of training rows by networks that were fitted without them, or None.
    """

    record: ModelRecord
    adapter: dict[str, Tensor]
    posterior: dict[str, Tensor]
    directory: Path | None = None
    held_out: Predictions | None = None

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
        if files.held_out is not None:
            files.held_out.save(temporary / HELD_OUT)
        if tokenizer is not None:
            with reading(f"the tokenizer cannot be saved to {directory}"):
                tokenizer.save_pretrained(temporary)
        # The card is not listed, since reports update it later.
        files_by_name = {name: _listing(temporary / name) for name in listed_files(temporary)}
        # Through JSON, so that the hash is that of the content read back.
        content = json.loads(json.dumps({**dataclasses.asdict(files.record), FILES: files_by_name}))
        write_json(temporary / RECORD, {**content, "sha256": record_hash(content)})
        (temporary / CARD).write_text(card, encoding="utf-8")


def read_model(directory: str | Path) -> ModelFiles:
    """Read a directory written by `write_model` and verify the hashes of its files.

    Raises:
        InputError: It is missing, foreign, damaged, or of a newer format; the message says which.
    """
    folder = Path(directory)
    record = read_record(folder)
    refuse_damage(folder, verify_model(folder))
    adapter, posterior = read_tensors(folder / ADAPTER), read_tensors(folder / POSTERIOR)
    return ModelFiles(record, adapter, posterior, folder, _held_out(folder))


def _held_out(folder: Path) -> Predictions | None:
    """Return the listed predictions of held-out rows; None for models without them."""
    from bayeslora.predictions.record import Predictions

    if HELD_OUT not in _content(folder / RECORD).get(FILES, {}):
        return None
    return Predictions.read(folder / HELD_OUT, columns=open_columns(folder / HELD_OUT).further)


def read_record(directory: str | Path) -> ModelRecord:
    """Read the record of a model directory, without its tensors.

    Raises:
        InputError: It is missing, foreign, damaged, or of a newer format; the message says which.
    """
    path = Path(directory) / RECORD
    if not path.is_file():
        raise InputError(
            f"{directory} is not a bayeslora model: it has no {RECORD}. `bayeslora calibrate` "
            "makes a model from a checkpoint of transformers or PEFT"
        )
    content = _content(path)
    names = {item.name for item in dataclasses.fields(ModelRecord)}
    return ModelRecord(**{name: content[name] for name in content.keys() & names})


@dataclass(frozen=True)
class FileState:
    """One file of a model directory, compared with the list.

    Attributes:
        name: Path relative to the directory, with forward slashes.
        size: In bytes; None if the file is missing.
        state: `ok`, `changed` (another size or SHA-256), `missing`, or `not listed`.
    """

    name: str
    size: int | None
    state: Literal["ok", "changed", "missing", "not listed"]


def verify_model(directory: str | Path) -> list[FileState]:
    """Return the state of every file in a model directory, the record first.

    Raises:
        InputError: As `read_record`.
    """
    folder = Path(directory)
    read_record(folder)
    listed = _content(folder / RECORD).get(FILES, {})
    others = [name for name in listed_files(folder) if name not in (RECORD, CARD, *listed)]
    return [
        FileState(RECORD, (folder / RECORD).stat().st_size, "ok"),
        *(_state(folder / name, name, item) for name, item in listed.items()),
        *(FileState(name, (folder / name).lstat().st_size, "not listed") for name in others),
    ]


def _state(path: Path, name: str, expected: Mapping[str, Any]) -> FileState:
    if not path.is_file():
        return FileState(name, None, "missing")
    listing = _listing(path)
    return FileState(name, listing["size"], "ok" if listing == expected else "changed")


def _listing(path: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def refuse_damage(directory: str | Path, states: Sequence[FileState]) -> None:
    """Raise InputError for the first damaged file of a model directory."""
    for state in states:
        if state.state in ("changed", "missing"):
            raise InputError(
                f"{directory} is damaged: {state.name} is {state.state} (`bayeslora info MODEL "
                "--verify` lists all files)",
                code="damaged",
            )


def is_model(directory: str | Path) -> bool:
    """Return whether a directory holds a finished bayeslora model."""
    return (Path(directory) / RECORD).is_file()


def _content(path: Path) -> dict[str, Any]:
    """Return the JSON of a record after checking its format version and its hash."""
    read = read_json(path)
    content: dict[str, Any] = read if isinstance(read, dict) else {}
    stored = content.get("format_version")
    if stored not in range(1, FORMAT_VERSION + 1):
        raise InputError(
            f"{path} has format version {stored!r}; this bayeslora reads up to {FORMAT_VERSION}: "
            "upgrade bayeslora"
        )
    if content.get("sha256", record_hash(content)) != record_hash(content):
        raise InputError(
            f"{path} is damaged: it was changed after the model was saved (its SHA-256 differs)",
            code="damaged",
        )
    return content


def record_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record without its own hash, independent of layout and key order."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


# Nothing else is read: no pickles, and no weights of other frameworks.
_READ = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.md"]


def local_directory(source: str | Path) -> str | Path:
    """Return a directory as it is, and a model on the hub, `owner/name`, downloaded.

    Raises:
        InputError: The hub has no such model, or cannot be reached.
    """
    name = str(source)
    if Path(source).exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return source
    from huggingface_hub import snapshot_download

    with reading(f"{name} is neither a directory nor a model on the Hugging Face hub"):
        return snapshot_download(name, allow_patterns=_READ)


def upload(directory: Path, repo_id: str, *, private: bool | None, message: str) -> str:
    """Upload a model directory to the hub, creating the repository if needed.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(repo_id=repo_id, folder_path=directory, commit_message=message)
    return str(commit.commit_url)
