"""Logs of other tools as records of predictions.

*Sample logs of lm-evaluation-harness*, for multiple-choice tasks. With `--log_samples` the harness
writes `samples_<task>_<date>.jsonl`, one object per question:

| key | content |
|---|---|
| `filtered_resps` | for each option its log-likelihood and whether it is greedy; else `resps` |
| `arguments` | for each option the context and the option's text |
| `target` | the correct option: its index, its text, or its letter |
| `doc_id`, `doc` | number and columns of the question |

Older versions write numbers and lists. Newer ones write numbers as texts, and `arguments` as an
object of `gen_args_0` and so on, with `arg_0` and `arg_1`.

The log-likelihoods become logits, so that probabilities are their softmax over a question's
options, as in the harness's own Brier score. A question with fewer options than others lacks the
last classes. The classes are the options' texts if all questions share them, else letters.

*Log-probabilities of language-model servers*, of the classes or of the most probable tokens:

| line | content |
|---|---|
| `{"logprobs": {"yes": -0.1, "no": -2.4}}` | by class |
| `{"top_logprobs": [{"token": "yes", "logprob": -0.1}, …]}` | as in OpenAI-style answers |
| an answer, or a line of a batch's output, with `choices` | the first token's `top_logprobs` |

`id` (or `custom_id`) and `label` are those of the line. Tokens that differ in spaces around them
are one, and so are a class and a token that differs from it in case. The classes are the labels,
else all tokens. With p the stated probabilities, a class that a row does not list has at most the
rest of the mass, 1 − Σ p, and at most the least p listed; it gets that bound, or its share of the
rest. Rows are then divided by the mass of the classes.
"""

from __future__ import annotations

import logging
import math
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayeslora.errors import InputError
from bayeslora.plain_text import counted, listed, shown

logger = logging.getLogger(__name__)

Record = dict[str, Any]

_UNLABELLED = frozenset({"", "None", "-1", "-100"})
_NAME = re.compile(r"samples_(?P<task>.+)_\d{4}-\d\d-\d\dT[\d.:-]+")


@dataclass(frozen=True)
class Question:
    """A question with M options.

    Attributes:
        where: Path and row of the question, for messages.
        scores: [M] log-likelihoods.
        texts: [M] options without a leading space; empty if the log has none.
        target: The correct option as written in the log; empty if missing.
    """

    where: str
    scores: list[float]
    texts: list[str]
    target: str

    def readings(self) -> tuple[int, int, int]:
        """Return the target read as an index, as an option's text, and as a letter, or -1 each."""
        texts = [text.strip() for text in self.texts]
        letter = self.target.strip(" ().").upper()
        return (
            int(self.target) if re.fullmatch(r"[0-9]{1,9}", self.target) else -1,
            texts.index(self.target) if self.target in texts else -1,
            string.ascii_uppercase.find(letter) if len(letter) == 1 else -1,
        )


def is_sample_log(first: Mapping[str, Any]) -> bool:
    """Return whether the first object of a file is a line of a sample log."""
    return not first.keys().isdisjoint({"resps", "filtered_resps"}) and "doc_id" in first


def log_metadata(path: Path) -> dict[str, str]:
    """Return the name of the predictions and their metadata.

    The name is that of model and task if the path of the log has them.
    """
    metadata = {"source": "lm-evaluation-harness"}
    match = _NAME.fullmatch(path.stem)
    if match is None:
        return metadata
    model = path.absolute().parent.name.rpartition("__")[2]
    return {**metadata, "task": match["task"], "name": f"{model} {match['task']}".strip()}


def log_records(
    source: object, rows: Iterable[tuple[int, Record]], is_ours: Callable[[str], bool]
) -> list[tuple[int, Record]]:
    """Return the rows of a log as rows of a predictions file.

    They have `id`, `label`, `logit_<class>`, null for classes that a question lacks, and the fields
    of `doc` whose names are free.

    Args:
        source: Name of the file in messages.
        rows: Line and content of each object.
        is_ours: Whether a name has a fixed meaning in predictions files.

    Raises:
        InputError: The log is not of a multiple-choice task, or a value in it is wrong.
    """
    lines = list(rows)
    questions = [_question(f"{source}, row {row}", record) for row, record in lines]
    classes = _classes(questions)
    records = []
    for (row, record), question, label in zip(lines, questions, _labels(questions), strict=True):
        doc = record["doc"] if isinstance(record.get("doc"), dict) else {}
        ours = {"id": record.get("doc_id"), "label": None if label < 0 else classes[label]}
        logits: Record = dict.fromkeys(classes)
        logits |= zip(classes, question.scores, strict=False)
        ours |= {f"logit_{name}": logit for name, logit in logits.items()}
        records.append((row, {k: v for k, v in doc.items() if not is_ours(k)} | ours))
    return records


def _question(where: str, record: Record) -> Question:
    responses: Any = record.get("filtered_resps")
    scores: list[float] = []
    texts: list[str] = []
    with suppress(AttributeError, LookupError, TypeError, ValueError):
        if "filtered_resps" not in record:
            responses = [answer[0] for answer in record["resps"]]
        scores = [float(score) for score, *_ in responses]
        arguments = record.get("arguments", [])
        if isinstance(arguments, dict):
            arguments = [[*pair.values()] for pair in arguments.values()]
        texts = [str(text).removeprefix(" ") for _, text, *_ in arguments]
    if "acc_mutual_info" in record:  # the options are scored again, without a context
        scores, texts = scores[: len(scores) // 2], texts[: len(texts) // 2]
    if len(scores) < 2:
        raise InputError(
            f"{where}: the responses {shown(responses)} are not log-likelihoods of two or more "
            "options; only multiple-choice tasks are supported, not text generation"
        )
    target = record.get("target")
    if isinstance(target, list) and len(target) == 1:
        target = target[0]
    target = str(target).strip()
    if re.fullmatch(r"\[\d+\]", target):  # newer versions write a list of one index as text
        target = target[1:-1]
    return Question(where, scores, texts, "" if target in _UNLABELLED else target)


def _labels(questions: Sequence[Question]) -> list[int]:
    """Return the [N] indices of the correct options, -1 where the log has none.

    A log's targets are all indices, all texts of the question's options, or all letters: whichever
    fits most rows, with ties resolved in this order.
    """
    kinds = zip(*(question.readings() for question in questions), strict=True)
    labels = max(kinds, key=lambda indices: sum(index >= 0 for index in indices))
    for question, label in zip(questions, labels, strict=True):
        if question.target and not 0 <= label < len(question.scores):
            raise InputError(
                f"{question.where}, 'target': {shown(question.target)} is not one of the options; "
                "use an index from 0, an option's text, or a letter, the same kind in every row"
            )
    return list(labels)


def _classes(questions: Sequence[Question]) -> list[str]:
    size = max(len(question.scores) for question in questions)
    names = questions[0].texts
    same = all(question.texts == names for question in questions)
    if same and len(names) == size and all(names) and len(set(names)) == size:
        return names
    letters = string.ascii_uppercase
    return list(letters[:size]) if size <= len(letters) else list(map(str, range(size)))


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
    outside, cut, records, others = 0.0, 0, [], defaultdict[str, float](float)
    for (row, record), by_token in zip(lines, stated, strict=True):
        probs = _by_class(by_token, classes)
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
        for token in probs.keys() - filled.keys():
            others[token] += probs[token]
        cut += bool(missing)
        free = {name: value for name, value in record.items() if name not in _KEYS}
        if "custom_id" in record:
            free.setdefault("id", record["custom_id"])
        shares = {f"prob_{name}": value / mass for name, value in filled.items()}
        records.append((row, free | shares))
    if cut:
        message = "%s: %s without a class among those listed, which gets a bound on its probability"
        logger.warning(message, source, counted(cut, "row"))
    if outside > _LOST:
        tokens = sorted(others, key=lambda token: (-others[token], token))[:3]
        listed_mass = sum(others.values()) / len(lines)
        logger.warning(
            "%s: %.1f %% of the mass, on average, is outside the classes %s%s; it is left out",
            source,
            100 * outside,
            listed(classes),
            f" ({100 * listed_mass:.1f} % on {listed(tokens)})" if tokens else "",
        )
    return records


def _by_class(probs: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """Return probabilities by class; a token that differs from one only in case counts as it."""
    names = {name.casefold(): name for name in classes}
    names = (names if len(names) == len(classes) else {}) | {name: name for name in classes}
    merged = defaultdict[str, float](float)
    for token, prob in probs.items():
        merged[names.get(token, names.get(token.casefold(), token))] += prob
    return merged


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
    probs, masses = defaultdict[str, float](float), []
    with suppress(AttributeError, LookupError, OverflowError, TypeError, ValueError):
        of_tokens = value if isinstance(value, list) else []
        pairs = [(each["token"], each["logprob"]) for each in of_tokens] or value.items()
        masses = [(token, math.exp(float(logprob))) for token, logprob in pairs]
    for token, mass in masses:
        probs[str(token).strip()] += mass
    if value is None:
        raise InputError(f"{where}: the answer has no log-probabilities: {shown(record)}")
    if not probs or not (total := sum(probs.values())) < 1.01:
        problem = f", whose probabilities sum to {total:.3f}" if probs else ""
        raise InputError(
            f"{where}: {shown(value)} are not log-probabilities by class or token{problem}; "
            'expected {"logprobs": {"yes": -0.1, "no": -2.4}} or "top_logprobs" of an answer'
        )
    return probs
