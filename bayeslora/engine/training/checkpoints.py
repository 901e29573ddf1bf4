"""Files of a running fit: checkpoints, and the claim on its output directory."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bayeslora.checkpoint import CHECKPOINT, FORMAT_VERSION, INTERRUPTED, LAYOUTS
from bayeslora.errors import InputError
from bayeslora.io.directories import atomic_directory, refuse_target
from bayeslora.io.files import atomic_file, read_json, real_path, remove, write_json

logger = logging.getLogger(__name__)

_CHECKPOINT_FORMAT = 3
"""1 was a directory per epoch; 2 had other names of tensors."""


def read_checkpoint(
    directory: Path | None,
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the checkpoint of a network's directory; None if there is none that can be read.

    Returns:
        Tensors by name, and everything else, JSON-ready.
    """
    path = None if directory is None else directory / CHECKPOINT
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["state"])
    except (SafetensorError, OSError) as error:
        logger.warning("%s is damaged (%s); training starts over", path, error)
        return None


def write_checkpoint(
    directory: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Replace the checkpoint of a network; after a kill, the old or the new one is in place.

    If the output directory was deleted in the meantime, a warning says so and nothing is written.

    Args:
        directory: Directory of the network.
        tensors: Tensors by name.
        state: Everything else, JSON-ready.
    """
    if not directory.parent.is_dir():
        logger.warning("%s was deleted; the fit continues without checkpoints", directory.parent)
        return
    directory.mkdir(exist_ok=True)
    target = directory / CHECKPOINT
    content = {name: item.contiguous() for name, item in tensors.items()}
    with atomic_file(target) as temporary:
        # Not `save_file`, which leaves a temporary file of its own after a kill.
        temporary.write_bytes(save(content, {"state": json.dumps(state)}))


def apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a nested value, JSON-ready, with its tensors moved to `tensors`.

    Args:
        value: Numbers, texts, tensors, lists, tuples and dictionaries.
        name: Prefix of the names of its tensors.
        tensors: Receives them.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        # Pairs, since keys may be numbers.
        pairs = [[key, apart(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        return {"dict": pairs}
    if isinstance(value, list | tuple):
        return [apart(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
    return value


def together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `apart` divided; tuples become lists."""
    if isinstance(value, list):
        return [together(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: together(item, tensors) for key, item in value["dict"]}


_MARK = INTERRUPTED
_WORK = "checkpoints"


def claim(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Return the checkpoint directory of a fit into `out`, new or left by an interrupted fit.

    The caller locks `out` against other processes with `io.files.lock`. A finished model that
    may be replaced stays unchanged beside the checkpoints until the new model replaces both.

    Args:
        out: Directory of the finished model.
        identity: Everything that determines the result, JSON-ready; a fit is resumed only if the
            interrupted one had the same.
        overwrite: Whether the content of `out` may be replaced.

    Raises:
        InputError: As `refuse`.
    """
    refuse(out, identity, overwrite=overwrite)
    folder = real_path(out)
    expected = _plain(identity)
    if not folder.exists():
        with atomic_directory(folder) as temporary:
            write_json(temporary / _MARK, expected)
    elif not _same(folder / _MARK, expected):
        # Before the new mark, under which checkpoints of another fit would count as ours.
        remove(folder / _WORK)
        write_json(folder / _MARK, expected)
    (folder / _WORK).mkdir(exist_ok=True)
    return folder / _WORK


def refuse(out: str | Path, identity: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Raise InputError if a fit may not write to `out`; arguments as for `claim`.

    Raises:
        InputError: `out` holds something else and `overwrite` is false, or it holds a file of
            neither a model nor an interrupted fit, which is never deleted.
    """
    folder = Path(out)
    mark = folder / _MARK
    is_fit = _content(mark) is not None
    refuse_target(folder, *LAYOUTS, overwrite=overwrite or is_fit)
    if not overwrite and is_fit and not _same(mark, _plain(identity)):
        raise InputError(
            f"{folder} contains an interrupted fit with another "
            f"{', '.join(_differences(mark, _plain(identity)))}; repeat its options, choose "
            "another --out, or pass --overwrite",
            code="another-fit",
        )


def abandon(out: str | Path) -> None:
    """Delete the checkpoints of a failed fit, and `out` if it holds nothing else.

    Args:
        out: As for `claim`, which this process has called.
    """
    folder = real_path(out)
    (folder / _MARK).unlink(missing_ok=True)
    remove(folder / _WORK)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _plain(identity: Mapping[str, Any]) -> Any:
    """Return the identity as it reads back from the mark."""
    formats = {"format_version": FORMAT_VERSION, "format of checkpoints": _CHECKPOINT_FORMAT}
    return json.loads(json.dumps({**formats, **identity}))


def _same(mark: Path, expected: Mapping[str, Any]) -> bool:
    return _content(mark) is not None and not _differences(mark, expected)


def _differences(mark: Path, expected: Mapping[str, Any]) -> list[str]:
    # Unknown keys are not compared, such as the backbone's fingerprint before it is loaded.
    content = _content(mark) or {}
    return [key for key in expected if content.get(key) != expected[key]]


def _content(mark: Path) -> dict[str, Any] | None:
    """Return the content of a mark; None if it is missing or damaged."""
    try:
        content = read_json(mark)
    except InputError:
        return None
    return content if isinstance(content, dict) else None
