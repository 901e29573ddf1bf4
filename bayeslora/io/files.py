"""Files that are whole or absent, and files that are read with checks.

A file is written under the name `.NAME.part` beside its target, and renamed. A lock, `.NAME.lock`,
keeps other processes from writing it at the same time. After a kill, the target is the old or the
new file, and the next writer deletes what is left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PART, OLD, LOCK = ".part", ".old", ".lock"
"""Endings of our hidden files beside an output: unfinished, replaced, locked."""

STDIN = "<stdin>"
"""Name of standard input in messages and results."""

SPOOL = "bayeslora-stdin-"
"""Prefix of the temporary directory that holds standard input while a command runs."""

# Of files that we write into directories; another hidden file may be the user's.
_LEFTOVER = re.compile(
    r"\.(bayeslora\.json|interrupted-fit\.json|experiment\.json|scores\.json|README\.md"
    rf"|(adapter|posterior|checkpoint)\.safetensors|results\.parquet)({PART}|{LOCK})"
)
_PATIENCE = 60.0  # seconds
_DEEPEST_YAML = 100
_LARGEST_TEXT = 1 << 28  # bytes of a record or a card
_LONGEST_YAML = 200_000  # characters; options fill a page, and PyYAML takes seconds for more


def hidden(target: Path, suffix: str) -> Path:
    """Return the path of a hidden file beside `target`, such as `.NAME.lock`."""
    return target.with_name(f".{target.name}{suffix}")


def is_leftover(path: Path) -> bool:
    """Return whether a path in a directory of ours is what a killed writer leaves."""
    return _LEFTOVER.fullmatch(path.name) is not None


@contextmanager
def lock(path: str | Path, *, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes from writing to `path` while the context lasts.

    Leftovers of killed writers beside it are cleaned up first. Parent directories are created, and
    removed at the end if they are still empty. Contexts of one process may be nested.

    Args:
        path: The output, a file or a directory, which need not exist.
        wait: Seconds to wait for another process.

    Raises:
        InputError: Another process is writing to it, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    target = real_path(path)
    if not target.name:
        raise InputError(f"{path} is the root directory; choose another path")
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"{target} cannot be written: a file is in the place of its directory"
        ) from None
    file = hidden(target, LOCK)
    guard = FileLock(file, thread_local=False, is_singleton=True)
    try:
        guard.acquire(timeout=wait)
    except Timeout:
        raise InputError(
            f"another process is writing to {target}; wait for it, or choose another path",
            code="busy",
        ) from None
    try:
        if guard.lock_counter == 1:
            _clean_up(target)
        yield
    finally:
        if guard.lock_counter == 1:
            # Who waits for this file notices that it is gone, and creates it again.
            file.unlink(missing_ok=True)
        guard.release()
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _clean_up(target: Path) -> None:
    """Delete what a killed writer left; restore a directory that was only moved aside."""
    remove(hidden(target, PART))
    old = hidden(target, OLD)
    if old.exists() and not target.exists():
        old.rename(target)
    remove(old)


def remove(path: Path) -> None:
    """Delete one of our files or directories as far as possible; it may be missing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block succeeds.

    Readers never see a partial file, and after a failure or a kill the old file is intact. Another
    process writing the same file is waited for. Parent directories are created. If `path` is a
    link, its target is written. A replaced file's mode is kept.

    Raises:
        InputError: `path` is a pipe, a socket or a device, or another process keeps writing it.
        OSError: The file cannot be written, as on a full disk.
    """
    target = real_path(path)
    refuse_special(target)
    with lock(target, wait=_PATIENCE):
        temporary = hidden(target, PART)
        temporary.touch()
        mode = (target if target.exists() else temporary).stat().st_mode
        try:
            yield temporary
            temporary.chmod(mode)  # safetensors replaces the file by a private one
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def refuse_existing(path: str | Path, *, overwrite: bool | None) -> None:
    """Raise InputError if `path` exists and may not be replaced; an empty directory is allowed.

    Raises:
        InputError: It exists and `overwrite` is not true; or as `refuse_special`.
    """
    refuse_special(path)
    if Path(path).exists() and not overwrite and not is_empty_directory(path):
        raise InputError(
            f"{path} exists; choose another path or pass overwrite (--overwrite)", code="exists"
        )


def refuse_special(path: str | Path) -> None:
    """Raise InputError if an output is a pipe, socket or device, which a rename would replace."""
    target = Path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        raise InputError(f"{path} is not a regular file and is never replaced; choose another path")


def refuse_inputs(out: str | Path, *inputs: str | Path) -> None:
    """Raise InputError if an output would replace one of its inputs, even with `overwrite`.

    Raises:
        InputError: It is one of the inputs, or a directory that contains one.
    """
    target = real_path(out)
    for path in inputs:
        source = real_path(path)
        if source.is_relative_to(target) and source.exists():
            relation = "is" if source == target else f"contains {path},"
            raise InputError(f"{out} {relation} an input of this command; choose another path")


def check_writable(path: str | Path) -> None:
    """Raise InputError if nothing can be written at `path`, before anything is computed.

    Raises:
        InputError: Its parent directory is not writable, or is a file.
    """
    parent = real_path(path).parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{path} cannot be written: {parent} is not a directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: no permission to write to {parent}")


def is_empty_directory(path: str | Path) -> bool:
    """Return whether `path` is a directory without entries but leftovers of killed writers."""
    folder = Path(path)
    return folder.is_dir() and all(map(is_leftover, folder.iterdir()))


def shown_path(path: str | Path) -> str:
    """Return a path for results and messages: `<stdin>` for the copy of standard input."""
    is_spooled = Path(path).parent.name.startswith(SPOOL)
    return STDIN if is_spooled else str(path)


def real_path(path: str | Path) -> Path:
    """Return an absolute path without links.

    Raises:
        InputError: Its links form a cycle.
    """
    # Path.resolve fails on cycles only before Python 3.13.
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise InputError(f"{path} is a symbolic link that points back to itself")
    return real


def read_text(path: str | Path) -> str:
    """Return the content of a UTF-8 file.

    Raises:
        InputError: It is missing, not a regular file (reading a pipe would block) or not UTF-8.
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"{path} does not exist")
    if not file.is_file():
        raise InputError(f"{path} is not a regular file")
    if file.stat().st_size > _LARGEST_TEXT:
        raise InputError(f"{path} has more than {_LARGEST_TEXT >> 20} MiB", code="damaged")
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", code="damaged") from None


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        InputError: As `read_text`, or it is not JSON that Python can read and write.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
        # A lone surrogate could be neither printed nor written.
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise InputError(f"{path} cannot be read as JSON: it is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON: {error}", code="damaged") from None
    return content


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        OSError: The file cannot be written.
        ValueError: A number is not finite.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file; see `load_yaml`.

    Raises:
        InputError: As `read_text` and `load_yaml`; the message names the file.
    """
    text = read_text(path)
    try:
        return load_yaml(text)
    except InputError as error:
        raise error.within(path) from None


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document as plain Python types.

    Aliases (`*name`) are refused: nine lines of them can expand to a billion values.

    Raises:
        InputError: The document is too long, not plain YAML, or has an alias.
    """
    import yaml

    if len(text) > _LONGEST_YAML:
        raise InputError(f"has {len(text):,} characters; at most {_LONGEST_YAML:,} are allowed")
    try:
        _check_structure(text)
        _check_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"cannot be read as YAML: {' '.join(str(error).split())}") from None
    except InputError:
        raise
    # PyYAML converts tagged text, such as `!!int x`, without a check.
    except (ValueError, TypeError, AttributeError, KeyError):
        raise InputError("cannot be read as YAML: a value is not of the type of its tag") from None


def _check_structure(text: str) -> None:
    """Raise InputError for aliases and deep nesting, which PyYAML takes minutes to read."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise InputError("cannot be read as YAML: aliases are not supported")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST_YAML:
            raise InputError("cannot be read as YAML: it is nested too deeply")


def _check_keys(node: Any) -> None:
    """Raise InputError for a key that occurs twice, of which PyYAML would take the last."""
    parts = node.value if node is not None and isinstance(node.value, list) else []
    pairs = [part for part in parts if isinstance(part, tuple)]
    keys = [key.value for key, _ in pairs]
    for key in keys:
        if isinstance(key, str) and keys.count(key) > 1:
            raise InputError(f"cannot be read as YAML: key {key!r} occurs twice")
    for part in parts:
        for inner in part if isinstance(part, tuple) else (part,):
            _check_keys(inner)


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Any]:
    """Yield an open safetensors file, with `keys`, `metadata` and `get_tensor`.

    Raises:
        InputError: It is missing, not a regular file, damaged or truncated.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.exists():
        raise InputError(f"{path} does not exist")
    if not source.is_file():
        raise InputError(f"{path} is not a regular file")
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged or truncated: {error}", code="damaged") from None


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor of a safetensors file by name.

    Raises:
        InputError: See `open_tensors`.
    """
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], **about: str) -> None:
    """Write a safetensors file atomically.

    Args:
        path: Output file.
        tensors: Tensors by name.
        **about: Metadata.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors.torch import save_file

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(contiguous, str(temporary), metadata=about)
