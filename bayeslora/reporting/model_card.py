"""Putting measured reliability into an existing Hugging Face model card.

Two places change: a Markdown section between two markers, and the key `model-index` of the YAML
metadata. Every other byte of the card stays, comments of the metadata included, which a round trip
through a YAML library would not keep.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayeslora._version import __version__
from bayeslora.errors import InputError
from bayeslora.files import atomic_file, check_readable, read_json
from bayeslora.metrics.chance import SIGNIFICANT
from bayeslora.metrics.scores import Scores
from bayeslora.plain_text import clean
from bayeslora.reporting.assess import bias_of, miscalibration_p, occupied
from bayeslora.reporting.detectors import detector_notes, score_words
from bayeslora.reporting.score_tables import OOD_COLUMNS, score_cell
from bayeslora.reporting.tables import Cell, Column, Row, Table, escape_markdown, to_markdown
from bayeslora.reporting.text import brief, classes_of, interval, number, p_text, shown_points
from bayeslora.safe_yaml import load_yaml

START = "<!-- bayeslora reliability: start -->"
"""Opens the section; everything up to `END` is replaced when the card is updated."""

END = "<!-- bayeslora reliability: end -->"
"""Closes the section."""

DATASET = "evaluation set"
"""What the rows are called where no name is given."""

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
"""Scores of the section, those that are there, in words."""


def model_card_section(scores: Scores, *, dataset: str = DATASET) -> str:
    """Return the section, markers included, without a trailing newline.

    It holds the scores with their 95 % intervals, what they say about confidence, the bins of the
    reliability diagram, and out-of-distribution detection where it was measured.

    Args:
        scores: What `evaluate` returned for the model.
        dataset: What the rows are called.
    """
    rows = f"{scores.n_labelled or scores.n:,} {'' if scores.n_labelled else 'un'}labelled examples"
    corrected = ""
    if "ece" in scores:
        corrected = (
            " That of ECE is corrected for noise, which only adds to an error; the value is not."
        )
    blocks = [
        START,
        "## Reliability",
        f"Measured on {rows} ({escape_markdown(brief(dataset))}), {classes_of(scores)},"
        f" {scores.num_bins} bins. Brackets hold 95 % confidence intervals.{corrected}",
        _score_table(scores),
    ]
    if "overconfidence" in scores:
        blocks.append(_bias(scores))
    if scores.bins:
        blocks += ["### Accuracy by confidence", _bin_table(scores)]
    if scores.ood:
        blocks += ["### Out-of-distribution detection", _ood_table(scores), *_ood_notes(scores)]
    blocks += [f"Made by bayeslora {__version__}.", END]
    return "\n\n".join(blocks)


def _score_table(scores: Scores) -> str:
    words = CARD_SCORES if scores.n_labelled else {"mean_confidence": "Mean confidence"}
    columns = Column("Value"), Column("95 % interval")
    rows = [
        Row((title,), (Cell(cell.value), Cell(cell.interval)))
        for key, title in words.items()
        if key in scores
        for cell in [score_cell(key, scores[key])]
    ]
    return to_markdown(Table("", ("Score",), columns, tuple(rows)))


def _bias(scores: Scores) -> str:
    gap, together = scores["overconfidence"], miscalibration_p(scores)
    points = shown_points(gap, signed=True)
    perhaps = "" if together < SIGNIFICANT else ", or this is chance"
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
    if together < SIGNIFICANT:
        words += " Its confidence is further off than chance explains: recalibrate it."
    return words


def _bin_table(scores: Scores) -> str:
    columns = Column("Accuracy"), Column("95 % interval"), Column("Examples")
    rows = [
        Row(
            (number(one.confidence, digits=2),),
            (
                Cell(number(one.accuracy, digits=2)),
                Cell(interval(one.accuracy_low, one.accuracy_high, digits=2)),
                Cell(f"{one.count:,}"),
            ),
        )
        for one in occupied(scores.bins)
    ]
    return to_markdown(Table("", ("Confidence",), columns, tuple(rows)))


def _ood_table(scores: Scores) -> str:
    columns = Column("Examples"), OOD_COLUMNS["auroc"], OOD_COLUMNS["fpr95"]
    rows = [
        Row(
            (brief(name), score_words(one.score)),
            (
                Cell(f"{one.n_out:,}"),
                score_cell("auroc", one.auroc),
                score_cell("fpr95", one.fpr95),
            ),
        )
        for name, one in scores.ood.items()
    ]
    return to_markdown(Table("", ("Set", "Uncertainty"), columns, tuple(rows)))


def _ood_notes(scores: Scores) -> list[str]:
    return [
        f"{escape_markdown(brief(name))}: {escape_markdown(note)}"
        for name, one in scores.ood.items()
        for note in detector_notes(one)
    ]


KEY = "model-index"

TASK = "text-classification"
"""The Hub's name of the task."""

METRICS: Mapping[str, tuple[str, str]] = {
    "accuracy": ("accuracy", "Accuracy"),
    "nll": ("nll", "NLL (nats)"),
    "brier": ("brier_score", "Brier score"),
    "ece": ("ece", "Expected calibration error"),
    "aurc": ("aurc", "Area under the risk-coverage curve"),
}
"""Type and name of each metric in the metadata, by the key of its score."""

_FRONT = re.compile(r"\A(\ufeff?\s*---[ \t]*\r?\n)(.*?)(^---[ \t]*\r?$)", re.DOTALL | re.MULTILINE)

Index = list[dict[str, Any]]


def model_index(
    scores: Scores, *, model: str, dataset: str = DATASET, dataset_type: str | None = None
) -> Index:
    """Return the metadata of one evaluation in the Hub's layout.

    Args:
        scores: What `evaluate` returned for the model.
        model: Name of the model.
        dataset: What the rows are called.
        dataset_type: The data set's id on the Hub; made from `dataset` where None.
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

    A result for the same task and data set keeps its other metrics; those of the same type and
    name are replaced. Other results, models and keys stay.

    Raises:
        InputError: The front matter is not YAML of the kind that cards have.
    """
    match = _FRONT.match(text)
    if match is None:
        return f"---{newline}{_dumped(index, newline)}---{newline}{text}"
    front = match[2]
    start, end, present = _place(front)
    merged = _merged(present, index)
    if merged == present:
        return text
    front = front[:start] + _dumped(merged, newline) + front[end:]
    return match[1] + front + text[match.end(2) :]


def index_name(text: str) -> str | None:
    """Return the name of the first model in a card's metadata; None where there is none."""
    match = _FRONT.match(text)
    present = _place(match[2])[2] if match else []
    return str(present[0]["name"]) if present and present[0].get("name") else None


def _metrics(scores: Scores) -> Iterator[tuple[str, str, float, dict[str, Any] | None]]:
    for key, (kind, name) in METRICS.items():
        if key in scores:
            args = {"num_bins": scores.num_bins} if key == "ece" else None
            yield kind, name, round(scores[key].value, 6), args
    for name, one in scores.ood.items():
        by = clean(f"{name} as out of distribution, by {score_words(one.score)}")
        yield "roc_auc", f"AUROC, {by}", round(one.auroc.value, 6), None


def _place(front: str) -> tuple[int, int, Index]:
    """Return where the key's lines begin and end, and its value; the end where it is missing."""
    import yaml

    try:
        load_yaml(front)  # refuses what composing could not end with
    except InputError as error:
        raise InputError(f"the card's metadata {error!s:.200}") from None
    root = yaml.compose(front, Loader=yaml.SafeLoader)
    if root is None:
        return len(front), len(front), []
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise InputError("the card's metadata must be lines of `key: value`")
    for key, value in root.value:
        if key.value == KEY:
            start, end = key.start_mark.index, value.end_mark.index
            if not front[start:end].endswith("\n"):  # a value that ends within a line
                end = front.find("\n", end) + 1 or len(front)
            found = load_yaml(front)[KEY]
            # a block ends where the next key starts: what stands between them is not its own
            own = front[:start] + front[start:end].rstrip()
            while own.rpartition("\n")[2].lstrip().startswith("#"):
                own = own.rpartition("\n")[0].rstrip()
            if load_yaml(own)[KEY] == found:
                end = front.find("\n", len(own)) + 1 or len(front)
            return start, end, _checked(found)
    return len(front), len(front), []


def _checked(found: object) -> Index:
    if found is None:
        return []
    if isinstance(found, list) and all(
        isinstance(one, dict) and isinstance(one.get("results", []), list) for one in found
    ):
        return found
    raise InputError(f"the card's {KEY} must be a list of models with results, got {found!r:.80}")


def _merged(present: Index, new: Index) -> Index:
    """Return `present` with the one model of `new` merged in."""
    [ours] = new
    models = [dict(one) for one in present]
    same = next((one for one in models if one.get("name") == ours["name"]), None)
    if same is None:
        return [*models, ours]
    results = list(same.get("results") or [])
    for result in ours["results"]:
        place = next((i for i, old in enumerate(results) if _about(old) == _about(result)), None)
        if place is None:
            results.append(result)
        else:
            metrics = _merged_metrics(results[place].get("metrics") or [], result["metrics"])
            results[place] = {**results[place], "metrics": metrics}
    same["results"] = results
    return models


def _merged_metrics(old: Index, new: Index) -> Index:
    ours = {_metric(one): one for one in new}
    kept = [ours.pop(_metric(one), one) for one in old]
    return [*kept, *ours.values()]


def _metric(one: Mapping[str, Any]) -> tuple[Any, Any]:
    return one.get("type"), one.get("name")


def _about(result: Mapping[str, Any]) -> tuple[Any, ...]:
    data = result.get("dataset") or {}
    task = (result.get("task") or {}).get("type")
    return task, *(data.get(key) for key in ("type", "config", "split", "revision"))


def _dumped(index: Index, newline: str) -> str:
    import yaml

    text = yaml.safe_dump({KEY: index}, sort_keys=False, allow_unicode=True, width=math.inf)
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
