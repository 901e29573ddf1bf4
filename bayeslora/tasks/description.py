"""YAML descriptions of files of questions with options.

    question: stem
    choices: [option_a, option_b]
    answer: key
    context: story
    prompt: "{text_pair} {text}"

All lines are optional. `choices` is one column of lists, or a list of columns; columns that are not
named have their usual names (see `questions`). In the prompt, `{text}` is the question and
`{text_pair}` the context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import read_yaml
from bayeslora.plain_text import shown
from bayeslora.tasks.columns import DataColumns
from bayeslora.tasks.questions import QUESTIONS

_KEYS = ("question", "choices", "answer", "context", "prompt")


@dataclass(frozen=True)
class TaskDescription:
    """Content of a description.

    Attributes:
        columns: Columns of the questions.
        prompt: Prompt around each question, a `template`; None for the default.
    """

    columns: DataColumns
    prompt: str | None = None


def is_description(task: str | None) -> bool:
    """Return whether `task` is the path of a description rather than a task name."""
    return task is not None and task.lower().endswith((".yaml", ".yml"))


def read_description(path: str) -> TaskDescription:
    """Read a description.

    Raises:
        InputError: The file is missing or not YAML, or a key or value is not allowed.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} must be a mapping, such as `question: stem`")
    for key, value in content.items():
        if key not in _KEYS:
            raise InputError(f"{path}: {unknown_choice('key', str(key), _KEYS)}")
        several = key == "choices" and isinstance(value, list) and len(value) > 1
        texts = value if several else [value]
        if not all(isinstance(text, str) and text for text in texts):
            allowed = "a column or a list of columns" if key == "choices" else "a text"
            raise InputError(f"{path}: {key} must be {allowed}, got {shown(value)}")
    return TaskDescription(_columns(path, content), content.get("prompt"))


def _columns(path: str, content: dict[str, Any]) -> DataColumns:
    choices: str | list[str] = content.get("choices") or "choices"
    names = (choices,) if isinstance(choices, str) else tuple(choices)
    try:
        columns = DataColumns(
            content.get("question", QUESTIONS.text),
            content.get("answer", QUESTIONS.label),
            content.get("context"),
            choices if isinstance(choices, str) else names,
        )
    except InputError as error:
        raise error.within(path) from None
    used = [columns.text, columns.label, *filter(None, [columns.pair]), *names]
    if repeated := next((name for index, name in enumerate(used) if name in used[:index]), None):
        raise InputError(f"{path}: column {shown(repeated)} is listed twice")
    return columns
