"""The list of a model directory's files: name, size and SHA-256 of each.

The list guards against damage and mix-ups: a flipped bit, a truncated download, a file of another
fit, a record edited by hand. It does not guard against an attacker, who can compute the hashes of
changed files just as well; for that, compare a signature or a hash from a trusted place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from bayeslora.errors import InputError
from bayeslora.plain_text import counted

FILES, RECORD_HASH = "files", "sha256"
"""Keys of a record: `{name: {"size": bytes, "sha256": hex}}`, and the hash of the record itself."""

State = Literal["ok", "changed", "missing", "not listed"]

_DIGEST = re.compile("[0-9a-f]{64}")

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
    *("vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt", "entity_vocab.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model"),
    *("spm.model", "spm_char.model", "source.spm", "target.spm", "prophetnet.tokenizer"),
    *("byte_maps.json", "emoji.json", "preprocessor_config.json"),
    *("normalizer.json", "source_vocab.json", "target_vocab.json", "vocab-src.json"),
    *("vocab-tgt.json", "word_pronunciation.json", "word_shape.json"),
)
"""Files written by tokenizers of transformers, which a model directory may hold."""

# Files that a tokenizer of any architecture may read: their mere presence changes predictions, so
# an unlisted one is refused. Other files, such as notes, are not read.
_READ_BY_TOKENIZERS = (
    *TOKENIZER_FILES,
    *("*tokenizer*", "*vocab*", "*.model", "*.spm", "*.jinja", "tekken.json"),
    *("config.json", "adapter_config.json"),
)
_TEMPLATES = "additional_chat_templates/"


@dataclass(frozen=True)
class FileState:
    """One file of a model directory, compared with the list.

    Attributes:
        name: Path relative to the directory, with forward slashes.
        size: In bytes; None if the file is missing.
        state: `ok`, `changed`, `missing`, or `not listed`.
        problem: Description of the problem; empty if there is none.
    """

    name: str
    size: int | None
    state: State
    problem: str = ""


def file_list(directory: Path, *, without: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file below a directory by name.

    Args:
        directory: Directory of the files.
        without: Names to leave out.
    """
    left_out = set(without)
    names = [name for name in sorted(_names(directory)) if name not in left_out]
    hashes = _hashes([directory / name for name in names])
    sizes = ((directory / name).stat().st_size for name in names)
    return {
        name: {"size": size, "sha256": digest}
        for name, size, digest in zip(names, sizes, hashes, strict=True)
    }


def record_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record without its own hash, independent of layout and key order.

    Args:
        content: The record as read from JSON.
    """
    rest = {key: value for key, value in content.items() if key != RECORD_HASH}
    # ASCII, because a lone surrogate in a damaged record has no UTF-8.
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def sealed(content: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the list of its files and its own hash.

    Args:
        content: The record.
        files: The result of `file_list`.
    """
    # Through JSON, so that the hash is that of the content read back, such as lists for tuples.
    plain: dict[str, Any] = json.loads(json.dumps({**content, FILES: files}))
    return {**plain, RECORD_HASH: record_hash(plain)}


def check_record(path: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError if a record was changed after saving.

    Records of versions that wrote neither list nor hash pass.

    Args:
        path: Path of the record, for the message.
        content: The record as JSON.
    """
    if FILES not in content and RECORD_HASH not in content:
        return
    if not _is_list(content.get(FILES)):
        raise InputError(
            f"{path} is damaged: its list of files ({FILES!r}) cannot be read", code="damaged"
        )
    if content.get(RECORD_HASH) != record_hash(content):
        raise InputError(
            f"{path} is damaged: it was changed after the model was saved (its SHA-256 differs)",
            code="damaged",
        )


def file_states(
    directory: Path, files: Mapping[str, Mapping[str, Any]], *, without: Iterable[str] = ()
) -> list[FileState]:
    """Return the state of each file of a directory against its list, unlisted files last.

    Sizes are compared first; files of the right size are hashed, a thread for each.

    Args:
        directory: The model directory.
        files: Size and SHA-256 by name.
        without: Unlisted names to leave out.
    """
    early = {name: _without_hashing(directory / name, files[name]["size"]) for name in files}
    whole = [name for name, problem in early.items() if not problem]
    hashes = dict(zip(whole, _hashes([directory / name for name in whole]), strict=True))
    states = []
    for name, expected in files.items():
        size = _size(directory / name)
        if early[name]:
            state: State = "missing" if size is None else "changed"
            states.append(FileState(name, size, state, early[name]))
        elif hashes[name] != expected["sha256"]:
            states.append(
                FileState(
                    name,
                    size,
                    "changed",
                    "was changed after the model was saved (its SHA-256 differs)",
                )
            )
        else:
            states.append(FileState(name, size, "ok"))
    unlisted = sorted(_names(directory) - files.keys() - set(without))
    return states + [_unlisted(directory, name) for name in unlisted]


def check_files(directory: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError if a listed file is missing or changed, or a tokenizer file is not listed.

    Args:
        directory: The model directory.
        files: Size and SHA-256 by name.
    """
    wrong = [state for state in file_states(directory, files) if state.problem]
    if wrong:
        advice = "`bayeslora info MODEL --verify` lists its files"
        raise InputError(f"{damage(directory, wrong)}; {advice}", code="damaged")


def damage(directory: str | Path, wrong: Sequence[FileState]) -> str:
    """Return a description of a model directory's damage, given its damaged files."""
    more = f", and {counted(len(wrong) - 1, 'other file')}" if len(wrong) > 1 else ""
    return f"{directory} is damaged: {wrong[0].name} {wrong[0].problem}{more}"


def _unlisted(directory: Path, name: str) -> FileState:
    here = "/" not in name or name.startswith(_TEMPLATES)
    is_read = here and any(fnmatchcase(name, pattern) for pattern in _READ_BY_TOKENIZERS)
    problem = "was not saved with the model and would change its tokenizer" if is_read else ""
    return FileState(name, _size(directory / name), "not listed", problem)


def _without_hashing(path: Path, expected: int) -> str:
    """Return a file's problem by its size alone; empty if there is none."""
    size = _size(path)
    if size is None:
        return "is not a regular file" if path.is_symlink() or path.exists() else "is missing"
    return "" if size == expected else f"has {size:,} bytes, expected {expected:,}"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _names(directory: Path) -> set[str]:
    """Return the relative names of all files below a directory, of any kind."""
    # Links to directories are not followed, since they may form a cycle.
    return {
        (Path(root) / name).relative_to(directory).as_posix()
        for root, _, names in os.walk(directory)
        for name in names
    }


def _hashes(paths: list[Path]) -> list[str]:
    # hashlib releases the GIL.
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(_hashed, paths))


def _hashed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_list(files: Any) -> bool:
    return isinstance(files, Mapping) and all(
        _stays_below(name)
        and isinstance(item, Mapping)
        and isinstance(item.get("size"), int)
        and isinstance(item.get("sha256"), str)
        and _DIGEST.fullmatch(item["sha256"])
        for name, item in files.items()
    )


def _stays_below(name: str) -> bool:
    """Return whether a listed name is a path inside the directory."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        return False
    # No file system has longer names, or lone surrogates.
    sizes = [len(part.encode("utf-8", "ignore")) for part in path.parts]
    return max(sizes, default=0) in range(1, 256) and name.isprintable()
