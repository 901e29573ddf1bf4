"""The record of a cell: everything needed to compare its scores."""

from __future__ import annotations

import hashlib
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslora.data.examples import encode_labels
from bayeslora.experiments.grid import settings_digest
from bayeslora.experiments.rows import mean_options, num_classes

if TYPE_CHECKING:
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.data.examples import Examples
    from bayeslora.experiments.cells import Setup
    from bayeslora.predictions.record import Predictions

FORMAT_VERSION = 1
REPORTED = "reported"
SCORES = ("accuracy", "nll", "ece", "brier")
"""Scores in `summary.md`; `results.parquet` has all."""
_HASHED_PROMPTS = 100


def recorded(
    requested: Setup,
    setup: Setup,
    clf: BayesianClassifier,
    seconds: Mapping[str, float],
    trials: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the record of a fitted cell without its scores, JSON-ready.

    Args:
        requested: Setup of the grid and its protocol.
        setup: The same with the choices of a search.
        clf: The fitted classifier.
        seconds: Duration of the fit and of predictions.
        trials: Trials of the search.
    """
    from bayeslora.engine.predict import num_passes

    cell, rows, record = setup.cell, setup.rows, clf.record
    settings = requested.settings()
    training = record.training
    num_held_out = round(training.get("hold_out", 0) * len(setup.train))
    steps = None
    if setup.adapter.trains:
        # An upper bound: early stopping takes fewer.
        steps = training["epochs"] * -(-(len(setup.train) - num_held_out) // training["batch_size"])
    samples = setup.predict.get("num_samples")
    return {
        "format_version": FORMAT_VERSION,
        "cell": {**cell.key, "adapter": cell.method.adapter, "posterior": cell.method.posterior},
        "settings": settings,
        "digest": settings_digest(settings),
        "deviations": list(setup.deviations),
        "split": rows.split,
        "num_classes": num_classes(rows.reported),
        "num_train": len(setup.train),
        "num_held_out": num_held_out,
        "num_reported": len(rows.reported),
        "num_ood": {name: len(examples) for name, examples in rows.ood.items()},
        "mean_options": {
            name: mean_options(examples)
            for name, examples in {REPORTED: rows.reported, **rows.ood}.items()
        },
        "dropped": dict(rows.dropped),
        "epochs": training["epochs"],
        "steps": {"protocol": setup.steps, "at_most": steps},
        "best_epoch": record.results.get("best_epoch"),
        "prompt_hash": prompt_hash(clf, rows.reported),
        "backbone": {"name": cell.backbone, "fingerprint": record.backbone.get("fingerprint")},
        "seconds": dict(seconds),
        "num_parameters": int(record.results.get("adapter", {}).get("num_parameters", 0)),
        "passes": num_passes(setup.posterior, samples, record.num_members),
        "peak_memory_bytes": peak_memory(),
        "versions": dict(record.versions),
        "processor": processor(),
        "chosen": {} if setup is requested else _difference(requested.settings(), setup.settings()),
        "trials": list(trials),
    }


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{part}.{key}": value
        for part in ("adapter", "posterior", "fit")
        for key, value in after[part].items()
        if before[part].get(key) != value
    }


def all_scores(
    predictions: Predictions,
    ood: Mapping[str, Predictions],
    shifted: Mapping[str, Predictions],
    num_bins: int,
    clusters: str | None,
) -> dict[str, Any]:
    """Return all scores of the reported rows, of labelled OOD sets and of corrupted rows."""
    from bayeslora.metrics.evaluate import evaluate

    scores = evaluate(predictions, ood, num_bins=num_bins, cluster_by=clusters)
    results = {REPORTED: scores.to_json()}
    for name, ood_predictions in ood.items():
        if ood_predictions.labelled.any():
            results[name] = evaluate(ood_predictions, num_bins=num_bins).to_json()
    for name, corrupted in shifted.items():
        results[name] = evaluate(corrupted, num_bins=num_bins, cluster_by=clusters).to_json()
    # Curves can be recomputed from the predictions.
    curves = {"risk_coverage", "confusion", "bins"}
    return {
        name: {key: value for key, value in content.items() if key not in curves}
        for name, content in results.items()
    }


def prior_scores(predictions: Predictions, train: Examples, num_bins: int) -> dict[str, float]:
    """Return scores of a forecast without a model, which every method should surpass.

    It is the share of each class in the training rows, or, for questions, the same probability for
    each option.

    Args:
        predictions: Predictions on the reported rows.
        train: The training rows.
        num_bins: Bins of the expected calibration error.
    """
    from bayeslora.metrics.evaluate import evaluate

    if predictions.available is not None:
        probs = predictions.available / predictions.num_options[:, None]
    else:
        labels = encode_labels(train, predictions.classes)
        shares = np.bincount(labels, minlength=predictions.num_classes) / len(labels)
        probs = np.tile(shares, (len(predictions), 1))
    forecast = replace(predictions.with_probs(probs), scores={})
    results = evaluate(forecast, num_bins=num_bins, num_resamples=20)
    return {score: float(results[score].value) for score in SCORES}


def prompt_hash(clf: BayesianClassifier, rows: Examples) -> str:
    """Return the SHA-256 of the first 100 texts or questions as the model reads them."""
    from bayeslora.backbones.template import Template
    from bayeslora.engine import formats

    reading = clf.record.backbone
    template = Template(reading.get("template") or "{text}")
    if rows.choices is not None:
        return formats.prompt_hash(reading["format"], template, rows)
    digest = hashlib.sha256()
    pairs = rows.pairs or [None] * len(rows)
    for text, pair in islice(zip(rows.texts, pairs, strict=True), _HASHED_PROMPTS):
        digest.update(template.filled(text, pair).whole.encode() + b"\1")
    return digest.hexdigest()


def processor() -> str:
    """Return the model of the GPU, or of the CPU if there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def reset_peak_memory() -> None:
    """Reset the measurement of `peak_memory`, if the system supports it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed: the peak is then that of the process
        return


def peak_memory() -> int:
    """Return the peak memory in bytes: of the GPU if there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
