"""Adding measured reliability to an existing Hugging Face model card.

Only a Markdown section between two markers and the key `model-index` of the YAML metadata change.
Every other byte of the card is preserved, including comments in the metadata, which a round trip
through a YAML library would drop.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayeslora._version import __version__
from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file, load_yaml, read_json, read_text
from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.scores import Scores
from bayeslora.plain_text import clean
from bayeslora.reporting.assess import bias_of, miscalibration_p, occupied
from bayeslora.reporting.detectors import detector_notes, score_words
from bayeslora.reporting.score_tables import OOD_COLUMNS, score_cell, value_and_interval
from bayeslora.reporting.tables import Cell, Column, Row, Table, escape_markdown, to_markdown
from bayeslora.reporting.text import brief, classes_of, interval, number, p_text, shown_points

START = "<!-- bayeslora reliability: start -->"
"""Start marker of the section; an update replaces everything up to `END`."""

END = "<!-- bayeslora reliability: end -->"
"""End marker of the section."""

DATASET = "evaluation set"
"""Default name of the rows."""

CARD_SCORES: Mapping[str, str] = {
    "accuracy": "Accuracy ↑",
    "nll": "NLL (nats) ↓",
    "brier": "Brier score ↓",
    "ece": "Calibration error (ECE) ↓",
    "overconfidence": "Overconfidence →0",
    "aurc": "Risk over coverage (AURC) ↓",
    "coverage": "Coverage of prediction sets",
    "set_size": "Size of prediction sets ↓",
}
"""Key -> title of the scores in the section, if present."""


def model_card_section(scores: Scores, *, dataset: str = DATASET) -> str:
    """Return the section, including markers, without a trailing newline.

    It holds the scores with their 95 % intervals, sentences on confidence, the bins of the
    reliability diagram, and out-of-distribution detection if measured.

    Args:
        scores: Result of `evaluate` for the model.
        dataset: Name of the rows.
    """
    size = f"{scores.n_labelled or scores.n:,} {'' if scores.n_labelled else 'un'}labelled examples"
    corrected = ""
    if "ece" in scores:
        corrected = (
            " That of ECE is corrected for noise, which only adds to an error; the value is not."
        )
    titles = CARD_SCORES if scores.n_labelled else {"mean_confidence": "Mean confidence"}
    rows = [
        Row((title,), value_and_interval(key, scores[key]))
        for key, title in titles.items()
        if key in scores
    ]
    columns = Column("Value"), Column("95 % interval")
    blocks = [
        START,
        "## Reliability",
        f"Measured on {size} ({escape_markdown(brief(dataset))}), {classes_of(scores)},"
        f" {scores.num_bins} bins. Brackets hold 95 % confidence intervals.{corrected}",
        to_markdown(Table("", ("Score",), columns, tuple(rows))),
    ]
    if "overconfidence" in scores:
        blocks.append(_bias(scores))
    if scores.bins:
        blocks += ["### Accuracy by confidence", _bin_table(scores)]
    if scores.ood:
        blocks += ["### Out-of-distribution detection", _ood_table(scores)]
        blocks += [
            f"{escape_markdown(brief(name))}: {escape_markdown(note)}"
            for name, result in scores.ood.items()
            for note in detector_notes(result)
        ]
    blocks += [f"Made by bayeslora {__version__}.", END]
    return "\n\n".join(blocks)


def _bias(scores: Scores) -> str:
    gap, p_value = scores["overconfidence"], miscalibration_p(scores)
    points = shown_points(gap, signed=True)
    perhaps = "" if p_value < SIGNIFICANT else ", or this is chance"
    way = bias_of(scores)
    if way != "none":
        words = f"The model is {way}confident{perhaps}: mean confidence minus accuracy is {points}."
    elif gap.has_interval:
        words = f"Mean confidence and accuracy agree within the interval: {points}."
    else:
        words = f"Mean confidence minus accuracy is {points}."
    if scores.ece_if_calibrated is not None:
        floor = number(scores.ece_if_calibrated)
        words += f" On as many examples, a calibrated model would have an ECE of about {floor}"
        p = scores.calibration_p
        words += "." if p is None else f", and at least this one with a probability of {p_text(p)}."
    if p_value < SIGNIFICANT:
        words += " Its confidence is further off than chance explains: recalibrate it."
    return words


def _bin_table(scores: Scores) -> str:
    columns = Column("Accuracy"), Column("95 % interval"), Column("Examples")
    rows = [
        Row(
            (number(point.confidence, digits=2),),
            (
                Cell(number(point.accuracy, digits=2)),
                Cell(interval(point.accuracy_low, point.accuracy_high, digits=2)),
                Cell(f"{point.count:,}"),
            ),
        )
        for point in occupied(scores.bins)
    ]
    return to_markdown(Table("", ("Confidence",), columns, tuple(rows)))


def _ood_table(scores: Scores) -> str:
    columns = Column("Examples"), OOD_COLUMNS["auroc"], OOD_COLUMNS["fpr95"]
    rows = [
        Row(
            (brief(name), score_words(result.score)),
            (
                Cell(f"{result.n_out:,}"),
                score_cell("auroc", result.auroc),
                score_cell("fpr95", result.fpr95),
            ),
        )
        for name, result in scores.ood.items()
    ]
    return to_markdown(Table("", ("Set", "Uncertainty"), columns, tuple(rows)))


KEY = "model-index"

TASK = "text-classification"
"""Name of the task on the Hub."""

METRICS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("accuracy", "Accuracy"),
    "nll": ("nll", "NLL (nats)"),
    "brier": ("brier_score", "Brier score"),
    "ece": ("ece", "Expected calibration error"),
    "aurc": ("aurc", "Area under the risk-coverage curve"),
}
"""Key of a score -> type and name of its metric in the metadata."""

_FRONT = re.compile(r"\A(\ufeff?\s*---[ \t]*\r?\n)(.*?)(^---[ \t]*\r?$)", re.DOTALL | re.MULTILINE)

Index = list[dict[str, Any]]


def model_index(
    scores: Scores, *, model: str, dataset: str = DATASET, dataset_type: str | None = None
) -> Index:
    """Return the metadata of an evaluation in the format of the Hub.

    `dataset_type` is the data set's id on the Hub; None derives it from `dataset`.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    dataset = clean(dataset)
    slug = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "custom"
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset_type or slug,
            dataset_name=dataset,
            metric_type=kind,
            metric_name=name,
            metric_value=value,
            metric_args=args,
        )
        for kind, name, value, args in _metrics(scores)
    ]
    if not results:
        raise InputError("no row has a label and there is no OOD set: nothing for the model index")
    index: Index = eval_results_to_model_index(clean(model), results)
    return index


def merged_front_matter(text: str, index: Index, newline: str) -> str:
    """Return a card's text with an index merged into its metadata.

    For the same task and data set, metrics of the same type and name are replaced, and other
    metrics are kept. Other results, models and keys keep their values; the metadata is written
    anew, without its comments.

    Raises:
        InputError: The front matter is not valid YAML for a card.
    """
    match = _FRONT.match(text)
    if match is None:
        return f"---{newline}{_dumped({KEY: index}, newline)}---{newline}{text}"
    front = _metadata(match[2])
    present = _present(front)
    merged = _merged(present, index)
    if merged == present:
        return text
    return match[1] + _dumped({**front, KEY: merged}, newline) + text[match.end(2) :]


def index_name(text: str) -> str | None:
    """Return the name of the first model in a card's metadata, or None."""
    match = _FRONT.match(text)
    present = _present(_metadata(match[2])) if match else []
    return str(present[0]["name"]) if present and present[0].get("name") else None


def _metrics(scores: Scores) -> Iterator[tuple[str, str, float, dict[str, Any] | None]]:
    for key, (kind, name) in METRICS.items():
        if key in scores:
            args = {"num_bins": scores.num_bins} if key == "ece" else None
            yield kind, name, round(scores[key].value, 6), args
    for name, result in scores.ood.items():
        by = clean(f"{name} as out of distribution, by {score_words(result.score)}")
        yield "roc_auc", f"AUROC, {by}", round(result.auroc.value, 6), None


def _metadata(front: str) -> dict[str, Any]:
    try:
        content = load_yaml(front)
    except InputError as error:
        raise InputError(f"the card's metadata {error!s:.200}") from None
    if not isinstance(content, dict | None):
        raise InputError("the card's metadata must be lines of `key: value`")
    return content or {}


def _present(front: Mapping[str, Any]) -> Index:
    """Return the index in a card's metadata; empty if there is none."""
    index = front.get(KEY) or []
    if isinstance(index, list) and all(
        isinstance(model, dict) and isinstance(model.get("results", []), list) for model in index
    ):
        return index
    raise InputError(f"the card's {KEY} must be a list of models with results, got {index!r:.80}")


def _merged(present: Index, new: Index) -> Index:
    """Return `present` with the single model of `new` merged in."""
    [new_model] = new
    models = {model.get("name"): model for model in present}
    results = {_about(old): old for old in models.get(new_model["name"], {}).get("results") or []}
    for result in new_model["results"]:
        old = results.get(_about(result), {})
        metrics = {
            (metric.get("type"), metric.get("name")): metric
            for metric in [*(old.get("metrics") or []), *result["metrics"]]
        }
        results[_about(result)] = {**result, **old, "metrics": [*metrics.values()]}
    models[new_model["name"]] = {**new_model, "results": [*results.values()]}
    return [*models.values()]


def _about(result: Mapping[str, Any]) -> tuple[Any, ...]:
    data = result.get("dataset") or {}
    task = (result.get("task") or {}).get("type")
    return task, *(data.get(key) for key in ("type", "config", "split", "revision"))


def _dumped(front: Mapping[str, Any], newline: str) -> str:
    import yaml

    text = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=math.inf)
    return str(text).replace("\n", newline)


def update_model_card(
    path: str | Path,
    scores: Scores,
    *,
    model: str | None = None,
    dataset: str = DATASET,
    dataset_type: str | None = None,
) -> Path:
    """Write the reliability section and the model index of `scores` into a model card.

    An earlier section is replaced in place, else the section is appended. A second call with the
    same scores changes nothing.

    Args:
        path: The card, an existing Markdown file.
        scores: Result of `evaluate` for the model.
        model: Name of the model in the index; None means the first model in the card, else the name
            of the card's directory.
        dataset: Name of the rows.
        dataset_type: The data set's id on the Hub; None derives it from `dataset`.

    Returns:
        The path.

    Raises:
        InputError: The card is missing or not UTF-8, its metadata is not YAML, or it has only one
            of the markers.
    """
    card = Path(path)
    text = read_card(card)
    name = model or index_name(text) or card.resolve().parent.name or "model"
    index = model_index(scores, model=name, dataset=dataset, dataset_type=dataset_type)
    newline = "\r\n" if "\r\n" in text else "\n"
    section = model_card_section(scores, dataset=dataset).replace("\n", newline)
    if START in text:
        head, tail = text.split(START)
        with_section = head + section + tail.split(END)[1]
    else:
        ends = next(end for end in (2, 1, 0) if text.endswith(newline * end))
        gap = newline * (2 - ends) if text else ""
        with_section = f"{text}{gap}{section}{newline}"
    updated = merged_front_matter(with_section, index, newline)
    if updated != text:
        with atomic_file(card) as temporary:
            temporary.write_bytes(updated.encode("utf-8"))
    return card


def read_card(path: str | Path) -> str:
    """Read a card's text and check that it can be updated.

    Raises:
        InputError: As `update_model_card`.
    """
    text = read_text(path)
    if (text.count(START), text.count(END)) not in {(0, 0), (1, 1)} or (
        START in text and text.index(START) > text.index(END)
    ):
        raise InputError(f"model card {path}: expected one {START!r} and then one {END!r}, or none")
    index_name(text)
    return text


def scores_of_report(page: Path) -> dict[str, Scores]:
    """Read the scores that a report has written beside its page, by the method's label."""
    methods = read_json(page.with_name("scores.json"))["methods"]
    return {
        method["label"]: Scores.from_json({key: method[key] for key in method if key != "label"})
        for method in methods
    }
