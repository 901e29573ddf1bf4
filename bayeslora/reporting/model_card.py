"""Putting measured reliability into an existing Hugging Face model card.

Two places change: the section between the markers, and the key `model-index` of the metadata.
Every other byte of the card stays.
"""

from __future__ import annotations

from pathlib import Path

from bayeslora.errors import InputError
from bayeslora.files import atomic_file, check_readable, read_json
from bayeslora.metrics.scores import Scores
from bayeslora.reporting.card_metadata import index_name, merged_front_matter, model_index
from bayeslora.reporting.card_section import DATASET, END, START, model_card_section


def update_model_card(
    path: str | Path,
    scores: Scores,
    *,
    model: str | None = None,
    dataset: str = DATASET,
    dataset_type: str | None = None,
) -> Path:
    """Write the reliability section and the model index of `scores` into a model card.

    An earlier section is replaced where it stands, else it follows the card's last line. A second
    call with the same scores changes nothing.

    Args:
        path: The card, a Markdown file; it has to exist.
        scores: What `evaluate` returned for the model.
        model: Name of the model in the index; where None the first that the card has, else the
            name of the card's directory.
        dataset: What the rows are called.
        dataset_type: The data set's id on the Hub; made from `dataset` where None.

    Returns:
        The path.

    Raises:
        InputError: The card is missing or not UTF-8, its metadata is not YAML, or it has one marker
            without the other.
    """
    card = Path(path)
    text = read_card(card)
    name = model or index_name(text) or card.resolve().parent.name or "model"
    index = model_index(scores, model=name, dataset=dataset, dataset_type=dataset_type)
    newline = "\r\n" if "\r\n" in text else "\n"
    section = model_card_section(scores, dataset=dataset).replace("\n", newline)
    updated = merged_front_matter(_with_section(text, section, newline), index, newline)
    if updated != text:
        with atomic_file(card) as aside:
            aside.write_bytes(updated.encode("utf-8"))
    return card


def read_card(path: str | Path) -> str:
    """Return a card's text, and complain where it could not be updated.

    Raises:
        InputError: As `update_model_card` says.
    """
    check_readable(path)
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"model card {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"model card {path} cannot be read: {error}") from None
    if (text.count(START), text.count(END)) not in {(0, 0), (1, 1)} or (
        START in text and text.index(START) > text.index(END)
    ):
        raise InputError(f"model card {path}: expected one {START!r} and then one {END!r}, or none")
    index_name(text)
    return text


def scores_of_report(page: Path) -> dict[str, Scores]:
    """Return the scores that a report has written beside its page, by the method's label."""
    methods = read_json(page.with_name("scores.json"))["methods"]
    return {
        one["label"]: Scores.from_json({key: one[key] for key in one if key != "label"})
        for one in methods
    }


def _with_section(text: str, section: str, newline: str) -> str:
    if START in text:
        before, rest = text.split(START)
        return before + section + rest.split(END)[1]
    if not text or text.endswith(newline * 2):
        gap = ""
    else:
        gap = newline if text.endswith(newline) else newline * 2
    return f"{text}{gap}{section}{newline}"
