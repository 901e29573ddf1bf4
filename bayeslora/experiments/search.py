"""A resumable search over options with Optuna, with the same number of trials for every cell.

A trial fits to a part of the cell's own training rows and is scored by its NLL on the others, so
that neither reported rows nor rows of another draw affect the choice. The cell is then fitted to
all of its training rows with the best options. Trials are stored in a SQLite file beside the cell.
Each suggestion depends only on the finished trials, so a killed and resumed search makes the same
choice as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.experiments.grid import Range, Search

if TYPE_CHECKING:
    from bayeslora.adapters.base import Adapter
    from bayeslora.backbones.load import Backbone
    from bayeslora.experiments.cells import Setup
    from bayeslora.posteriors.base import Posterior

FILE = "search.sqlite3"
_SEEDS = 1_000_003
_FIT = frozenset({"epochs", "batch_size", "head_lr", "patience"})


def import_optuna() -> Any:
    """Import and return optuna.

    Raises:
        MissingAssetError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingAssetError(
            "search requires Optuna; run `pip install 'bayeslora[tune]'`"
        ) from None
    return optuna


def search_of(search: Search | None, adapter: Adapter, posterior: Posterior) -> Search | None:
    """Return a search over those of its options that a method has; None if it has none.

    Raises:
        InputError: A value in a range is not allowed.
    """
    if search is None:
        return None
    parts: dict[str, Any] = {"posterior": posterior}
    if adapter.trains:
        parts |= {"adapter": adapter, "fit": TrainingSettings(epochs=1)}
    known = {f"{part}.{field.name}" for part, options in parts.items() for field in fields(options)}
    ranges = {}
    for name, values in search.ranges.items():
        part, _, key = name.partition(".")
        if name not in known or (part == "fit" and key not in _FIT):
            continue
        ends = [values.low, values.high] if isinstance(values, Range) else values
        for value in ends:
            replace(parts[part], **{key: value})
        ranges[name] = values
    return search.model_copy(update={"ranges": ranges}) if ranges else None


def with_options(setup: Setup, options: Mapping[str, Any]) -> Setup:
    """Return a setup with options by names such as `adapter.lr`."""
    parts: dict[str, dict[str, Any]] = {"adapter": {}, "posterior": {}, "fit": {}}
    for name, value in options.items():
        part, _, key = name.partition(".")
        parts[part][key] = value
    adapter: Any = setup.adapter
    posterior: Any = setup.posterior
    return replace(
        setup,
        adapter=replace(adapter, **parts["adapter"]),
        posterior=replace(posterior, **parts["posterior"]),
        fit={**setup.fit, **parts["fit"]},
    )


def best_options(
    setup: Setup, backbone: Backbone, work: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the options of a cell's best trial, and all trials; nothing without a search.

    Args:
        setup: Setup of the cell.
        backbone: Its backbone.
        work: A directory of this cell alone.

    Raises:
        InputError: Every trial failed.
    """
    search = setup.search
    if search is None:
        return {}, []
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    settings = json.dumps(setup.settings, sort_keys=True).encode()
    storage = optuna.storages.RDBStorage(f"sqlite:///{work / FILE}")
    study: Any = optuna.create_study(
        storage=storage,
        # Trials of an interrupted search with other settings are another study.
        study_name=hashlib.sha256(settings).hexdigest()[:16],
        load_if_exists=True,
    )
    while (done := len(study.get_trials(states=ended))) < search.trials:
        # A new sampler for each trial, so that its suggestion depends only on the trials.
        seed = (_SEEDS * setup.cell.seed + done) % 2**32  # NumPy's limit
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = study.ask()
        options = {name: _suggested(trial, name, value) for name, value in search.ranges.items()}
        try:
            study.tell(
                trial,
                _loss(with_options(setup, options), backbone, search.hold_out, work / "trial"),
            )
        except InputError as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    trials = [
        {"options": dict(trial.params), "nll": trial.value, **trial.user_attrs}
        for trial in study.get_trials(states=ended)
    ]
    storage.engine.dispose()
    if all(trial["nll"] is None for trial in trials):
        raise InputError(f"every trial of the search failed; last error: {trials[-1].get('error')}")
    best = min((trial for trial in trials if trial["nll"] is not None), key=lambda t: t["nll"])
    return best["options"], trials


def _suggested(trial: Any, name: str, value: list[Any] | Range) -> Any:
    if isinstance(value, list):
        return trial.suggest_categorical(name, value)
    if isinstance(value.low, int) and isinstance(value.high, int):
        return trial.suggest_int(name, value.low, value.high, log=value.log)
    return trial.suggest_float(name, value.low, value.high, log=value.log)


def _loss(setup: Setup, backbone: Backbone, share: float, work: Path) -> float:
    """Return the NLL of held-out training rows after a fit to the others."""
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.data.examples import class_names, encode_labels
    from bayeslora.data.splits import split_examples
    from bayeslora.metrics.evaluate import evaluate

    rows = setup.train
    labels = encode_labels(rows, class_names(rows))
    train, held_out = split_examples(rows, labels, share, setup.cell.seed)
    clf = setup.fitted(backbone, rows.take(train), BayesianClassifier, work)
    predictions = clf.predict(rows.take(held_out), seed=setup.cell.seed, **setup.predict)
    shutil.rmtree(work, ignore_errors=True)
    return float(evaluate(predictions, num_resamples=20)["nll"].value)
