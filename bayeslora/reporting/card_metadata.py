"""The metadata of a Hugging Face model card: the key `model-index` of its YAML, merged in place.

Only the lines of that key change. The rest of the front matter keeps its bytes, comments included,
which a round trip through a YAML library would not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bayeslora.errors import InputError
from bayeslora.metrics.scores import Scores
from bayeslora.plain_text import clean
from bayeslora.reporting.card_section import DATASET
from bayeslora.reporting.detectors import score_words
from bayeslora.safe_yaml import load_yaml

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
