"""What identifies a report's inputs, and the call or command that makes the report again."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from bayeslora.files import STDIN, shown_path
from bayeslora.plain_text import clean
from bayeslora.predictions.record import Predictions
from bayeslora.reporting.inputs import Method, Source


def content_hash(predictions: Predictions) -> str:
    """Return SHA-256, in hexadecimal, of what scores depend on: the same on every machine.

    It covers the classes, ids and names of scores as JSON, and every array as little-endian bytes.
    """
    names = [predictions.classes, predictions.ids, sorted(predictions.scores)]
    digest = hashlib.sha256(json.dumps(names).encode("ascii"))
    arrays: list[tuple[str, Any]] = [("probs", predictions.probs), ("labels", predictions.labels)]
    arrays += [(name, getattr(predictions, name)) for name in ("total", "aleatoric", "epistemic")]
    arrays += [(name, predictions.scores[name]) for name in sorted(predictions.scores)]
    arrays.append(("sets", predictions.sets))
    for name, values in arrays:
        if values is not None:
            digest.update(f"{name} {values.shape}".encode("utf-8", "surrogatepass"))
            digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def origin(source: Source) -> str:
    """Return where predictions are from, with their hash."""
    if source.path is None:
        return f"in memory (SHA-256 of the content {content_hash(source.predictions)})"
    return f"{clean(shown_path(source.path))} (SHA-256 {source.sha256})"


def exact_command(command: str) -> str:
    """Return a shell command so that it can be copied from where invisible characters are dropped.

    Words that hold some are quoted as `$'…'`, as bash and zsh read it.
    """
    if command.isprintable():
        return command
    try:
        return " ".join(map(_shell_word, shlex.split(command)))
    except ValueError:  # not a command that a shell would accept
        return clean(command)


def python_call(methods: Sequence[Method], **options: object) -> str:
    """Return the call of `report` that makes a report again; empty where not all is in files.

    Args:
        methods: What was gathered.
        **options: Of the call; those that are None are left out.
    """
    sources = [one.source for one in methods]
    sources += [source for one in methods for source in one.ood.values()]
    if any(source.path is None or shown_path(source.path) == STDIN for source in sources):
        return ""
    files = [str(one.source.path) for one in methods]
    sets: dict[str, Mapping[str, str]] = {
        one.label: {name: str(source.path) for name, source in one.ood.items()}
        for one in methods
        if one.ood
    }
    words = [repr(files), f"ood={sets!r}" if sets else ""]
    words += [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return f"bayeslora.report({', '.join(filter(None, words))})"


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    kept = "".join(
        f"\\U{ord(char):08x}" if not char.isprintable() else f"\\{char}" if char in "\\'" else char
        for char in word
    )
    return f"$'{kept}'"
