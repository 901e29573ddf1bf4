"""The model card of a model directory, with measured numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from bayeslora.adapters.registry import CATALOGUE, table_name
from bayeslora.checkpoint import ADAPTED, MODULE, ModelRecord
from bayeslora.engine.data import format_of
from bayeslora.engine.plan import Plan
from bayeslora.plain_text import visible
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import own_softmax

CHOSEN_ON = "chosen on these rows"
"""Note on scores of rows that the posterior's options may have been chosen on."""

_KINDS = {
    "text": ("Text classifier", "text-classification"),
    "image": ("Image classifier", "image-classification"),
    "question": ("Multiple-choice classifier", "multiple-choice"),
}
"""Title of the card and task on the hub, by what a row is."""

_SCORE_NAMES = {"nll": "NLL in nats", "ece": "ECE"}


def model_card(record: ModelRecord, fingerprint: str) -> str:
    """Return the Markdown of a model's `README.md`."""
    parts = [
        _front_matter(record),
        f"# {_title(record)}",
        _what(record),
        _use(record),
        _measured(record),
        _compared(record),
        _made(record, fingerprint),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _title(record: ModelRecord) -> str:
    adapter = f"{table_name(record.adapter)} + " if record.adapter else ""
    kind = _KINDS[_unit(record)][0]
    return f"{kind}: {adapter}{record.posterior['name']} on {_code(record.backbone['name'])}"


def _unit(record: ModelRecord) -> str:
    """Return what a row is: a text, an image or a question."""
    if format_of(record) is not None:
        return "question"
    return "image" if record.columns.get("image") else "text"


def _front_matter(record: ModelRecord) -> str:
    import yaml

    name = str(record.backbone["name"])
    # Quoted and on one line, whatever characters a name holds.
    base = yaml.safe_dump(name, default_style='"', allow_unicode=True, width=math.inf).strip()
    # A module in memory is not a model on the hub.
    line = "" if record.backbone["kind"] == MODULE else f"base_model: {base}\n"
    return (
        f"---\nlibrary_name: bayeslora\npipeline_tag: {_KINDS[_unit(record)][1]}\n"
        f"{line}tags: [uncertainty, calibration]\n---"
    )


def _what(record: ModelRecord) -> str:
    return f"{_task(record)} {_fitted(record)} {_uncertainty(record)}{_calibrated(record)}"


def _task(record: ModelRecord) -> str:
    if format_of(record) is not None:
        most = f"up to {len(record.classes)}" if format_of(record) == "letters" else "the"
        return f"Chooses among {most} options of a question, or the next item among candidates."
    names = ", ".join(_code(name) for name in record.classes[:20])
    more = f" and {len(record.classes) - 20} more" if len(record.classes) > 20 else ""
    return f"Sorts {_unit(record)}s into {len(record.classes)} classes: {names}{more}."


def _fitted(record: ModelRecord) -> str:
    """Return which rows the posterior was fitted to."""
    name, rows = f"`{record.posterior['name']}`", record.num_train
    if not rows:
        return "No labels were used: the answer is the language model's own."
    validated = bool(record.data.get("validation"))
    learnt = learnt_from(Plan.of(record).posterior, has_validation=validated)
    if "calibration" not in record.results and learnt != "train":
        fitted = f", {name} fitted to the validation rows" * (learnt == "validation")
        return f"The network was trained on {rows:,} labelled rows{fitted}."
    return f"The posterior {name} was {fit_words(record)}."


def _uncertainty(record: ModelRecord) -> str:
    plan = Plan.of(record)
    if plan.training.keep_folds:
        return (
            f"Predictions average {record.num_members} networks, each fitted without one part of "
            "these rows; their disagreement is epistemic uncertainty. The posterior's "
            "measurements below are those of the first network."
        )
    if plan.posterior.is_point:
        return (
            f"It is a point estimate: the uncertainty of each {_unit(record)} is the entropy of "
            "its probabilities, without an epistemic part."
        )
    return f"It gives total, aleatoric and epistemic uncertainty for each {_unit(record)}."


def _calibrated(record: ModelRecord) -> str:
    if "calibration" not in record.results:
        return ""
    layer = record.backbone.get("layer")
    suffix = f", {_code(layer)}" if record.backbone["kind"] != ADAPTED and layer else ""
    return (
        "\n\nThe network was trained beforehand; the posterior covers only its last "
        f"layer{suffix}. If the network was trained on these rows, they hide its mistakes and the "
        "posterior is overconfident."
    )


def _use(record: ModelRecord) -> str:
    more = ", module=module, encode=encode" if record.backbone["kind"] == MODULE else ""
    return (
        "```python\nimport bayeslora as bl\n\n"
        f'clf = bl.BayesianClassifier.from_pretrained("this-directory"{more})\n'
        'predictions = clf.predict("test.jsonl")\n```'
    )


def _measured(record: ModelRecord) -> str:
    lines = []
    if "validation_nll" in record.results:
        lines.append(
            f"- Validation: NLL {record.results['validation_nll']:.3f} nats, "
            f"accuracy {record.results['validation_accuracy']:.3f}.{_chosen_epoch(record)}"
        )
    if calibration := record.results.get("calibration"):
        lines.append(
            f"- Accuracy on the {calibration['rows']:,} calibration rows: "
            f"{calibration['accuracy']:.3f}"
        )
        if share := calibration.get("hold_out"):
            lines.append(
                f"- Validation rows: {calibration['validation_rows']:,}, held out of the labelled "
                f"rows (share {share:g}, seed {record.seed})"
            )
    # The comparison has cross-fitted scores of the same rows.
    shown = {} if is_cross_fitted(record.results) else record.results.get("validation", {})
    for key, scores in shown.items():
        before, after = (scores[when]["value"] for when in ("before", "after"))
        lines.append(
            f"- Validation {_SCORE_NAMES.get(key, key)}: {before:.3f} before calibration, "
            f"{after:.3f} after ({CHOSEN_ON})"
        )
    for key, value in record.results.get("posterior", {}).items():
        lines.append(f"- {key.replace('_', ' ')}: {shown_value(value)}")
    for name, config in record.feature_scores.items():
        parts = ", ".join(f"{key} {shown_value(value)}" for key, value in config.items())
        lines.append(f"- score {name.replace('_', ' ')}" + (f": {parts}" if parts else ""))
    for key in ("stable_rank", "drift"):
        value = record.results.get("adapter", {}).get(key)
        if value is not None:
            lines.append(f"- adapter {key.replace('_', ' ')}: {value:.3g}")
    if held_out := record.results.get("held_out"):
        lines.append(
            f"- {held_out['num_rows']:,} held-out rows, scored by a fit without them: NLL "
            f"{held_out['nll']:.3f} nats, accuracy {held_out['accuracy']:.3f}; they chose epoch "
            f"{held_out['epochs'][0]} and logit scale {held_out['logit_scale']:.3g} for this fit "
            "to all rows"
        )
    if scale := record.results.get("logit_scale"):
        lines.append(
            f"- logit scale {scale['factor']:.3g}: the NLL of {scale['num_rows']:,} rows, by fits "
            f"without them, is {scale['nll']:.3f} nats with it, {scale['nll_before']:.3f} without"
        )
    if cheaper := baseline_words(record.results):
        lines.append(f"- NLL of the same rows under cheaper models: {cheaper}")
    lines += _folds(record)
    return "## Measured\n\n" + "\n".join(lines) if lines else ""


def _folds(record: ModelRecord) -> list[str]:
    """Return lines on the networks of cross-validation."""
    lines = []
    averaged = record.results.get("averaged")
    if losses := record.results.get("epochs"):
        goes_on = not averaged and not Plan.of(record).training.keep_folds
        then = ", then the last ones on all rows" if goes_on else ""
        shown = ", ".join(f"{number}: {loss:.3f}" for number, loss in losses.items())
        best = min(losses, key=losses.get)
        lines.append(f"- epochs: {best}, by the NLL of held-out rows ({shown}){then}")
    if averaged:
        lines.append(f"- average of {averaged} networks, each fitted to a part of the rows")
    return lines


def baseline_words(results: Mapping[str, Any]) -> str:
    """Return the NLL of held-out rows under what a fit should beat; empty if none is known."""
    names = {"linear_probe": "last layer on the frozen backbone", "bag_of_words": "bag of words"}
    known = results.get("baselines", {})
    return ", ".join(f"{words} {known[key]:.3f}" for key, words in names.items() if key in known)


def held_out_words(results: Mapping[str, Any]) -> str:
    """Return the NLL of held-out rows under a fit and what it should beat; empty if unknown."""
    cheaper = baseline_words(results)
    return f"{results['logit_scale']['nll']:.3f}; {cheaper}" if cheaper else ""


def _compared(record: ModelRecord) -> str:
    race = record.results.get("comparison")
    if not race:
        return ""
    lines = [f"{how_compared(race)}. Brackets hold 95 % intervals.", ""]
    lines += ["| posterior | NLL (nats) | ECE | accuracy | ΔNLL vs. chosen |"]
    lines += ["|---|---|---|---|---|"]
    for row in race["rows"]:
        is_chosen = row["posterior"] == race["chosen"]
        scores = [_with_interval(row["scores"][key]) for key in ("nll", "ece", "accuracy")]
        difference = "chosen" if is_chosen else _with_interval(row["nll_difference"])
        lines.append(f"| {row['posterior']} | {' | '.join(scores)} | {difference} |")
    notes = [f"- {note}." for note in race["notes"]]
    return "\n".join(
        ["## Comparison with other posteriors", "", *lines, *([""] if notes else []), *notes]
    )


def how_compared(race: Mapping[str, Any]) -> str:
    """Return how posteriors were compared and on which examples, without a full stop.

    Args:
        race: `comparison` in a record's results.
    """
    chosen, n = repr(race["chosen"]), f"{race['n']:,}"
    description = f"{race['folds']}-fold cross-validation over {n} calibration examples"
    if race["examples"] != "train":
        description = f"Cross-fitted on {n} validation examples: one half chooses, the other scores"
    if race.get("is_best"):
        description += (
            f". {chosen} had the lowest NLL of {len(race['rows'])} here, so expect a slightly "
            "higher one on new examples"
        )
    if race.get("as_fitted"):
        description += f". {chosen} is scored as fitted, with options chosen on these examples"
    return description


def is_cross_fitted(results: Mapping[str, Any]) -> bool:
    """Return whether the comparison is cross-fitted on validation examples.

    Args:
        results: Results of a record.
    """
    race = results.get("comparison") or {"examples": "train"}
    return bool(race["examples"] == "validation")


def _with_interval(score: Mapping[str, float | None]) -> str:
    # Adding zero turns −0.0 into 0.0.
    ends = [score[key] for key in ("value", "low", "high")]
    shown = [f"{round(end, 3) + 0.0:.3f}" for end in ends if end is not None]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(shown) == 3 else shown[0]


def shown_value(value: object) -> str:
    """Return a value chosen by a fit as text: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _chosen_epoch(record: ModelRecord) -> str:
    if not any("validation_nll" in item for item in record.results.get("history") or []):
        return ""
    best = (
        "Each member's epoch" if record.num_members > 1 else f"Epoch {record.results['best_epoch']}"
    )
    return f" {best} was chosen on these rows, so expect slightly less on new ones."


def _made(record: ModelRecord, fingerprint: str) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    length = f", at most {record.max_length} tokens per {_unit(record)}"
    length = "" if record.backbone["kind"] == MODULE else length
    lines = [versions, f"seed {record.seed}{length}", *_reading(record)]
    listed = "\n".join(f"- {line}" for line in [*lines, f"fingerprint `{fingerprint}`"])
    return f"## Made with\n\n{listed}"


def _reading(record: ModelRecord) -> list[str]:
    """Return lines on depth, template, class words and prior mean, if not the defaults."""
    lines = []
    if depth := record.backbone.get("depth"):
        lines.append(f"the first {depth} layers of the backbone")
    if template := record.backbone.get("template"):
        lines.append(f"template `{visible(template)}`")
    words = record.backbone.get("verbaliser")
    if isinstance(words, dict):
        listed = ", ".join(f"{_code(name)} as {_code(text)}" for name, text in words.items())
        lines.append(f"words for classes: {listed}")
    factor = record.results.get("prior_factor")
    share = record.results.get("posterior", {}).get("prior_share")
    if factor is not None and share is not None:
        lines.append(f"prior mean: {factor:.2f} times the language model's own answer")
    elif factor is not None and record.adapter and Plan.of(record).adapter.trains:
        lines.append(f"training started at {factor:.2f} times the language model's own answer")
    return lines


def _code(text: str) -> str:
    return "`" + " ".join(str(text).replace("`", "'").split()) + "`"


def answering(record: ModelRecord, num_samples: int | None = None) -> Posterior:
    """Return the posterior that predictions come from.

    Without draws, a posterior around the weights of a finished network is the network's own
    softmax, and predictions carry that name.

    Args:
        record: Record of the classifier.
        num_samples: Draws of the prediction; None for the posterior's own number.
    """
    posterior = Plan.of(record).posterior
    is_around_network = not (posterior.is_point or posterior.moves_mean)
    if num_samples == 0 and record.backbone["kind"] != ADAPTED and is_around_network:
        return own_softmax()
    return posterior


def method_name(record: ModelRecord, num_samples: int | None = None) -> str:
    """Return the name of a classifier in tables, such as `polar-vbll`; see `answering`."""
    adapter = f"{table_name(record.adapter)}-" if record.adapter else ""
    return f"{adapter}{answering(record, num_samples).name}"


def method_notes(adapter: str | None, posterior: Posterior, passes: int) -> dict[str, str]:
    """Return metadata that name and describe a method, for readers who do not know it.

    Args:
        adapter: Name of the adapter; None if the network was not adapted here.
        posterior: Options of the posterior, which may be another package's.
        passes: Number of passes through the adapted layers.
    """
    config = None if adapter is None else CATALOGUE.get(adapter)
    notes = {} if adapter is None else {"adapter": adapter}
    if config is not None:
        notes["adapter_summary"] = config.summary
    sources = ("" if config is None else config.source, posterior.source)
    return {
        **notes,
        "posterior": posterior.name,
        "posterior_summary": posterior.summary,
        "passes": str(passes),
        "sources": "; ".join(filter(None, sources)),
    }


def fit_options(record: ModelRecord) -> str:
    """Return a hash of everything that determines a fit except its seed: 16 hexadecimal digits.

    Fits with the same hash differ in their random numbers, and possibly in their rows: a seed often
    draws the training rows too, so the hash covers their number, not their content, and whether
    there are validation rows. It covers neither library versions nor scores fitted beside the
    posterior nor the location of the backbone.

    Args:
        record: Record of a model, as fitted or as loaded.
    """
    training = {name: value for name, value in record.training.items() if name != "seed"}
    backbone = {
        name: value for name, value in record.backbone.items() if name not in ("name", "settings")
    }
    rows = {
        name: value if name == "before" else value is not None
        for name, value in record.data.items()
        if name != "whole"
    }
    parts = [
        backbone if "fingerprint" in backbone else record.backbone,
        record.adapter,
        record.posterior,
        record.max_length,
        record.classes,
        record.num_train,
        rows,
        training,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def learnt_from(config: Posterior | None, *, has_validation: bool) -> str:
    """Return the rows that a posterior is fitted to: `train`, `validation` or `nothing`.

    Args:
        config: Options of the posterior, or None before it is chosen.
        has_validation: Whether there are validation rows; otherwise training rows replace them.
    """
    rows = "train" if config is None else config.learns_from
    return "train" if rows == "validation" and not has_validation else rows


def fit_words(record: ModelRecord) -> str:
    """Return the rows of the fit in words, such as `fitted to 40 validation rows`."""
    calibration = record.results.get("calibration", {})
    rows = calibration.get("fitted_to", "train")
    if rows == "nothing":
        return "fitted to no rows"
    if rows == "validation":
        return f"fitted to {calibration['validation_rows']:,} validation rows"
    kind = "calibration" if calibration else "training"
    return f"fitted to {record.num_train:,} {kind} rows"
