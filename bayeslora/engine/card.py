"""The model card of a model directory, with measured numbers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from bayeslora.adapters.registry import CATALOGUE
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


def rendered(template: str, **facts: Any) -> str:
    """Return a Markdown file for a model's directory, from a template beside this file."""
    from jinja2 import Environment, PackageLoader

    jinja = Environment(
        loader=PackageLoader("bayeslora.engine"),
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 (Markdown, whose names are code spans)
    )
    jinja.filters |= {
        "code": _code,
        "literal": repr,
        "visible": visible,
        "with_interval": _with_interval,
        "shown": shown_value,
    }
    return jinja.get_template(template).render(facts)


def model_card(record: ModelRecord, fingerprint: str) -> str:
    """Return the Markdown of a model's `README.md`, from the template `card.md.j2`."""
    plan, question = Plan.of(record), format_of(record)
    unit = "question" if question else "image" if record.columns.get("image") else "text"
    title, task = _KINDS[unit]
    has_validation = bool(record.data.get("validation"))
    text = rendered(
        "card.md.j2",
        adapted=ADAPTED,
        base_model=json.dumps(str(record.backbone["name"]), ensure_ascii=False),
        cheaper=baseline_words(record.results),
        chosen_on=CHOSEN_ON,
        comparison=record.results.get("comparison"),
        fingerprint=fingerprint,
        fitted_to=fit_words(record),
        how_compared=how_compared,
        in_memory=record.backbone["kind"] == MODULE,
        learnt_from=learnt_from(plan.posterior, has_validation=has_validation),
        plan=plan,
        question=question,
        record=record,
        results=record.results,
        task=task,
        title=title,
        trains=bool(record.adapter) and plan.adapter.trains,
        unit=unit,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def baseline_words(results: Mapping[str, Any]) -> str:
    """Return the NLL of held-out rows under what a fit should beat; empty if none is known."""
    losses = results.get("baselines", {})
    return ", ".join(f"{name.replace('_', ' ')} {loss:.3f}" for name, loss in losses.items())


def held_out_words(results: Mapping[str, Any]) -> str:
    """Return the NLL of held-out rows under a fit and what it should beat; empty if unknown."""
    cheaper = baseline_words(results)
    held_out = results.get("held_out") or results.get("logit_scale") or {}
    own = results.get("validation_nll", held_out.get("nll"))
    return f"this fit {own:.3f}, {cheaper}" if cheaper else ""


def how_compared(race: Mapping[str, Any]) -> str:
    """Return how posteriors were compared and on which examples, without a full stop.

    Args:
        race: `comparison` in a record's results.
    """
    return (
        f"{race['folds']}-fold cross-validation over {race['n']:,} calibration examples. "
        f"{race['chosen']!r} had the lowest NLL of {len(race['rows'])} here, so expect a slightly "
        "higher one on new examples"
    )


def _with_interval(score: Mapping[str, float | None]) -> str:
    # Adding zero turns −0.0 into 0.0.
    ends = [score[key] for key in ("value", "low", "high")]
    shown = [f"{round(end, 3) + 0.0:.3f}" for end in ends if end is not None]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(shown) == 3 else shown[0]


def shown_value(value: object) -> str:
    """Return a value chosen by a fit as text: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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
    adapter = f"{record.adapter['name']}-" if record.adapter else ""
    return f"{adapter}{answering(record, num_samples).name}"


def method_notes(record: ModelRecord, num_samples: int | None = None) -> dict[str, str]:
    """Return metadata that name and describe a method, for readers who do not know it.

    Args:
        record: Record of the classifier, whose posterior may be another package's.
        num_samples: Draws of the prediction; None for the posterior's own number.
    """
    posterior = answering(record, num_samples)
    adapter = None if record.adapter is None else record.adapter["name"]
    known = CATALOGUE.get(adapter or "")
    sources = [known.source] if known else []
    return {
        **({"adapter": adapter} if adapter else {}),
        **({"adapter_summary": known.summary} if known else {}),
        "posterior": posterior.name,
        "posterior_summary": posterior.summary,
        "sources": "; ".join(filter(None, [*sources, posterior.source])),
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
        if name not in ("whole", "inputs")
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
