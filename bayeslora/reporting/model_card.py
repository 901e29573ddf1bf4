"""Adding measured reliability to an existing Hugging Face model card.

Only a Markdown section between two markers and the key `model-index` of the YAML metadata change,
which `huggingface_hub` reads and writes. Other keys keep their values, but not their comments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError
from bayeslora.io import atomic_file, read_text
from bayeslora.metrics.scores import Scores
from bayeslora.plain_text import clean
from bayeslora.reporting.assess import occupied
from bayeslora.reporting.page import render_text
from bayeslora.reporting.score_tables import COLUMNS, score_cell, score_list
from bayeslora.reporting.sentences import calibration_sentence, detector_notes, verdict_of
from bayeslora.reporting.text import brief, classes_of, score_words

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

START = "<!-- bayeslora reliability: start -->"
"""Start marker of the section; an update replaces everything up to `END`."""

END = "<!-- bayeslora reliability: end -->"
"""End marker of the section."""

DATASET = "evaluation set"
"""Default name of the rows."""

METRICS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("accuracy", "Accuracy"),
    "nll": ("nll", "NLL (nats)"),
    "brier": ("brier_score", "Brier score"),
    "ece": ("ece", "Expected calibration error"),
    "aurc": ("aurc", "Area under the risk-coverage curve"),
}
"""Key of a score -> type and name of its metric in the metadata."""

SHOWN = (*METRICS, "mean_confidence", "overconfidence", "coverage", "set_size")
"""Keys of the scores in the section, if present."""


def model_card_section(scores: Scores, *, dataset: str = DATASET) -> str:
    """Return the section, including markers, without a trailing newline.

    It holds the scores with their 95 % intervals, sentences on confidence, the bins of the
    reliability diagram, and out-of-distribution detection if measured.

    Args:
        scores: Result of `evaluate` for the model.
        dataset: Name of the rows.
    """
    cells = {
        COLUMNS[key].title_and_arrow: score_cell(key, scores[key]) for key in SHOWN if key in scores
    }
    return render_text(
        "card.md.j2",
        start=START,
        end=END,
        scores=scores,
        dataset=brief(dataset),
        classes=classes_of(scores),
        table=score_list("Score", cells),
        verdict=verdict_of(scores)[0] if "nll" in scores else "",
        evidence=calibration_sentence(scores) if "nll" in scores else "",
        points=occupied(scores.bins),
        notes=[
            f"{brief(name)}: {note}"
            for name, result in scores.ood.items()
            for note in detector_notes(result)
        ],
    )


def update_model_card(
    path: str | Path,
    scores: Scores,
    *,
    model: str | None = None,
    dataset: str = DATASET,
    dataset_type: str | None = None,
) -> Path:
    """Write the reliability section and the model index of `scores` into a model card.

    An earlier section is replaced in place, else the section is appended; results of the same
    metrics on the same data set are replaced, others are kept. A second call with the same scores
    changes nothing. With `dataset_type`, the accuracy is also written to `.eval_results/` beside
    the card, where the Hub looks for results on its own data sets.

    Args:
        path: The card, an existing Markdown file.
        scores: Result of `evaluate` for the model.
        model: Name of the model in the index; None means that in the card, else the name of the
            card's directory.
        dataset: Name of the rows.
        dataset_type: The data set's id on the Hub; None derives it from `dataset`.

    Returns:
        The path.

    Raises:
        InputError: The card is missing or not UTF-8, its metadata is not that of a card, or it has
            only one of the markers.
    """
    path = Path(path)
    card = read_card(path)
    data = card.data
    results = _results(scores, clean(dataset), dataset_type)
    present = data.get("eval_results") or []
    others = [old for old in present if not any(new.is_equal_except_value(old) for new in results)]
    if results:  # none of rows without labels
        data["model_name"] = model or data.get("model_name") or path.resolve().parent.name
        data["eval_results"] = [*others, *results]
    section = model_card_section(scores, dataset=dataset)
    if START in card.text:
        card.text = card.text.split(START)[0] + section + card.text.split(END)[1]
    else:
        card.text = f"{card.text.rstrip()}\n\n{section}\n".lstrip()
    with atomic_file(path) as temporary:
        temporary.write_text(str(card), encoding="utf-8", newline="\n")
    if dataset_type is not None and "accuracy" in scores:
        _write_eval_result(path.parent / ".eval_results", dataset_type, scores)
    return path


def read_card(path: str | Path) -> ModelCard:
    """Read a card, and check that it can be updated.

    Raises:
        InputError: As `update_model_card`.
    """
    import yaml
    from huggingface_hub import ModelCard

    text = read_text(path).replace("\r\n", "\n")
    if (text.count(START), text.count(END)) not in {(0, 0), (1, 1)}:
        raise InputError(f"model card {path}: expected one {START!r} and one {END!r}, or none")
    try:
        return ModelCard(text)
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"model card {path}: metadata cannot be read: {error!s:.200}") from None


def _results(scores: Scores, dataset: str, dataset_type: str | None) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    slug = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "custom"
    values: list[tuple[str, str, float, dict[str, Any] | None]] = [
        (kind, name, scores[key].value, {"num_bins": scores.num_bins} if key == "ece" else None)
        for key, (kind, name) in METRICS.items()
        if key in scores
    ]
    for name, detected in scores.ood.items():
        by = clean(f"{name} as out of distribution, by {score_words(detected.score)}")
        values.append(("roc_auc", f"AUROC, {by}", detected.auroc.value, None))
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset_type or slug,
            dataset_name=dataset,
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 6),
            metric_args=args,
        )
        for kind, name, value, args in values
    ]


def _write_eval_result(folder: Path, dataset_id: str, scores: Scores) -> None:
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    value = round(scores["accuracy"].value, 6)
    entry = EvalResultEntry(dataset_id, "default", value, notes="accuracy, by bayeslora")
    folder.mkdir(exist_ok=True)
    with atomic_file(folder / f"{dataset_id.replace('/', '--')}.yaml") as temporary:
        content = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        temporary.write_text(content, encoding="utf-8")
