"""Log-probabilities of language-model servers as records of predictions.

A line is a row with log-probabilities of its classes or of a server's most probable tokens:

| line | content |
|---|---|
| `{"logprobs": {"yes": -0.1, "no": -2.4}}` | by class |
| `{"top_logprobs": [{"token": "yes", "logprob": -0.1}, …]}` | as in OpenAI-style answers |
| an answer, or a line of a batch's output, with `choices` | the first token's `top_logprobs` |

`id` (or `custom_id`) and `label` are those of the line. Tokens that differ in spaces around them
are one. The classes are the labels, else all tokens. With p the stated probabilities, a class that
a row does not list has at most the rest of the mass, 1 − Σ p, and at most the least p listed; it
gets that bound, or its share of the rest. Rows are then divided by the mass of the classes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from bayeslora.errors import InputError
from bayeslora.plain_text import counted, listed, shown

logger = logging.getLogger(__name__)

Record = dict[str, Any]

_KEYS = frozenset({"logprobs", "top_logprobs", "choices", "response"})
_MOST_TOKENS = 50  # that are classes where no row has a label
_LOST = 0.01  # mean mass outside the classes that is worth saying


def is_server_log(first: Mapping[str, Any]) -> bool:
    """Return whether the first object of a file holds log-probabilities."""
    is_ours = any(name.startswith(("prob_", "logit_")) or name == "probs" for name in first)
    return not is_ours and not first.keys().isdisjoint(_KEYS)


def server_records(source: object, rows: Iterable[tuple[int, Record]]) -> list[tuple[int, Record]]:
    """Return the rows as rows of a predictions file, with `id`, `label` and `prob_<class>`.

    Args:
        source: Name of the file in messages.
        rows: Line and content of each object.

    Raises:
        InputError: A line has no log-probabilities, or none of the classes.
    """
    lines = list(rows)
    stated = [_stated(f"{source}, row {row}", record) for row, record in lines]
    labels = sorted(
        {str(record["label"]) for _, record in lines if record.get("label") is not None}
    )
    classes = labels if len(labels) > 1 else sorted({token for row in stated for token in row})
    if len(classes) < 2 or len(classes) > max(_MOST_TOKENS, len(labels)):
        raise InputError(
            f"{source}: {counted(len(classes), 'class')} ({listed(classes)}); give every row a "
            "'label', whose names are the classes"
        )
    outside, cut, records = 0.0, 0, []
    for (row, record), probs in zip(lines, stated, strict=True):
        missing = [name for name in classes if name not in probs]
        if len(missing) == len(classes):
            raise InputError(
                f"{source}, row {row}: the log-probabilities ({listed([*probs])}) are of none of "
                f"the classes {listed(classes)}"
            )
        rest = max(1 - sum(probs.values()), 0.0)
        bound = min(*probs.values(), rest / max(len(missing), 1))
        filled = {name: probs.get(name, bound) for name in classes}
        mass = sum(filled.values())
        outside += max(1 - mass, 0.0) / len(lines)
        cut += bool(missing)
        ours = {"id": record.get("id", record.get("custom_id")), "label": record.get("label")}
        free = {name: value for name, value in record.items() if name not in _KEYS}
        shares = {f"prob_{name}": value / mass for name, value in filled.items()}
        records.append(
            (row, {**free, **{k: v for k, v in ours.items() if v is not None}, **shares})
        )
    if cut:
        message = "%s: %s without a class among those listed, which gets a bound on its probability"
        logger.warning(message, source, counted(cut, "row"))
    if outside > _LOST:
        message = "%s: %.1f %% of the mass, on average, is outside the classes %s; it is left out"
        logger.warning(message, source, 100 * outside, listed(classes))
    return records


def _stated(where: str, record: Record) -> dict[str, float]:
    """Return the probability of each class or token of a line."""
    value: Any = record.get("logprobs", record.get("top_logprobs"))
    with suppress(AttributeError, LookupError, TypeError):
        if value is None:
            answer = record["response"]["body"] if "response" in record else record
            value = answer["choices"][0]["logprobs"]
        if isinstance(value, dict) and isinstance(value.get("content"), list):
            value = value["content"][0]["top_logprobs"]
        elif isinstance(value, dict) and isinstance(value.get("top_logprobs"), list):
            value = value["top_logprobs"][0]
    probs: dict[str, float] = {}
    with suppress(AttributeError, LookupError, OverflowError, TypeError, ValueError):
        pairs = (
            value.items()
            if isinstance(value, dict)
            else [(e["token"], e["logprob"]) for e in value]
        )
        for token, logprob in pairs:
            name = str(token).strip()
            probs[name] = probs.get(name, 0.0) + math.exp(float(logprob))
    if not probs or not sum(probs.values()) < 1.01:
        raise InputError(
            f"{where}: {shown(value)} are not log-probabilities by class or token; expected "
            '{"logprobs": {"yes": -0.1, "no": -2.4}} or "top_logprobs" of an answer'
        )
    return probs
