"""A resumable search over options with Optuna, with the same number of trials for every cell.

A trial fits to a part of the cell's own training rows and is scored by its NLL on the others, so
that neither reported rows nor rows of another draw affect the choice. The cell is then fitted to
all of its training rows with the best options. Trials are stored in a SQLite file beside the cell.
Each suggestion depends only on the finished trials, so a killed and resumed search makes the same
choice as an uninterrupted one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.adapters.registry import resolve_adapter
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError, unknown_choice
from bayeslora.experiments.grid import Grid, Search, settings_digest
from bayeslora.posteriors.registry import resolve_posterior

if TYPE_CHECKING:
    from bayeslora.adapters.base import Adapter
    from bayeslora.experiments.cells import Setup, Workshop
    from bayeslora.posteriors.base import Posterior

FILE = "search.sqlite3"
_SEEDS = 1_000_003
_FIT = frozenset({"epochs", "batch_size", "head_lr", "patience"})


def import_optuna() -> Any:
    """Import and return optuna.

    Raises:
        InputError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("search requires Optuna; run `pip install 'bayeslora[tune]'`") from None
    return optuna


def check_search(grid: Grid) -> None:
    """Raise InputError if Optuna is missing or a range is invalid.

    Raises:
        InputError: Optuna is missing, no method has the option of a range, or a value in a range
            is not allowed; the message names it.
    """
    import_optuna()
    if grid.search is None:
        return
    allowed: set[str] = set()
    parts: dict[str, Any]
    for method in grid.methods:
        parts = {
            "adapter": resolve_adapter(method.adapter),
            "posterior": resolve_posterior(method.posterior),
            "fit": TrainingSettings(epochs=1),
        }
        options = _options(parts["adapter"], parts["posterior"])
        allowed |= options
        for name in options & grid.search.ranges.keys():
            part, _, key = name.partition(".")
            for value in _ends(grid.search.ranges[name]):
                replace(parts[part], **{key: value})
    for name in grid.search.ranges:
        if name not in allowed:
            raise unknown_choice("option of search", name, allowed)


def _ends(value: Any) -> list[Any]:
    """Return the values of a list, or the ends of a range."""
    return value if isinstance(value, list) else [value["low"], value["high"]]


def search_of(grid: Grid, adapter: Adapter, posterior: Posterior) -> Search | None:
    """Return the grid's search over the options that a method has; None if it has none."""
    if grid.search is None:
        return None
    allowed = _options(adapter, posterior)
    ranges = {name: value for name, value in grid.search.ranges.items() if name in allowed}
    return replace(grid.search, ranges=ranges) if ranges else None


def searched(
    workshop: Workshop, setup: Setup, search: Search, work: Path
) -> tuple[Setup, list[dict[str, Any]]]:
    """Return a cell's setup with the best options, and all trials.

    Args:
        workshop: Provides the backbone.
        setup: Setup of the cell.
        search: The options to search.
        work: A directory of this cell alone.

    Raises:
        InputError: The rows cannot be split, or every trial failed.
    """
    ranges = search.ranges
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    work.mkdir(parents=True, exist_ok=True)
    # No other process writes to the file, since it is inside the cell's directory.
    storage = optuna.storages.RDBStorage(f"sqlite:///{work / FILE}")
    states = optuna.trial.TrialState
    # Trials of an interrupted search with other settings are another study.
    study: Any = optuna.create_study(
        storage=storage,
        study_name=settings_digest(setup.settings()),
        load_if_exists=True,
        direction="minimize",
    )
    while (done := _num_ended(study, states)) < search.trials:
        # A new sampler for each trial, so that its suggestion depends only on the trials.
        seed = (_SEEDS * setup.cell.seed + done) % 2**32  # NumPy's limit
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = study.ask()
        tried = _with_options(
            setup, {name: _suggested(trial, name, ranges[name]) for name in ranges}
        )
        try:
            loss = _loss(workshop, tried, search.hold_out, work / "trial")
        except InputError as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=states.FAIL)
        else:
            study.tell(trial, loss)
    ended = [trial for trial in study.trials if trial.state in (states.COMPLETE, states.FAIL)]
    trials = [
        {
            "options": dict(trial.params),
            "nll": trial.value,
            **({"error": trial.user_attrs["error"]} if "error" in trial.user_attrs else {}),
        }
        for trial in ended
    ]
    if all(trial["nll"] is None for trial in trials):
        raise InputError(f"every trial of the search failed; last error: {trials[-1].get('error')}")
    best = min(
        (trial for trial in trials if trial["nll"] is not None), key=lambda trial: trial["nll"]
    )
    storage.engine.dispose()
    return _with_options(setup, best["options"]), trials


def _num_ended(study: Any, states: Any) -> int:
    return sum(trial.state in (states.COMPLETE, states.FAIL) for trial in study.trials)


def _suggested(trial: Any, name: str, value: Any) -> Any:
    if isinstance(value, list):
        return trial.suggest_categorical(name, value)
    low, high, log = value["low"], value["high"], bool(value.get("log"))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, float(low), float(high), log=log)


def _options(adapter: Any, posterior: Any) -> set[str]:
    """Return the options of a method that can be searched."""
    options = {f"posterior.{field.name}" for field in fields(posterior)}
    if adapter.trains:
        options |= {f"adapter.{field.name}" for field in fields(adapter)}
        options |= {f"fit.{name}" for name in _FIT}
    return options


def _with_options(setup: Setup, options: Mapping[str, Any]) -> Setup:
    parts: dict[str, dict[str, Any]] = {"adapter": {}, "posterior": {}, "fit": {}}
    for name, value in options.items():
        part, _, key = name.partition(".")
        parts[part][key] = value
    posterior: Any = setup.posterior
    adapter: Any = setup.adapter
    return replace(
        setup,
        adapter=replace(adapter, **parts["adapter"]),
        posterior=replace(posterior, **parts["posterior"]),
        fit={**setup.fit, **parts["fit"]},
    )


def division(setup: Setup, share: float) -> tuple[Any, Any]:
    """Return the indices of the training rows to fit and to hold out in every trial.

    Raises:
        InputError: The rows cannot be divided by that share.
    """
    from bayeslora.data.examples import class_names, encode_labels
    from bayeslora.data.splits import split_examples

    labels = encode_labels(setup.train, class_names(setup.train))
    return split_examples(setup.train, labels, share, setup.cell.seed)


def _loss(workshop: Workshop, setup: Setup, share: float, work: Path) -> float:
    """Return the NLL of held-out training rows after a fit to the others."""
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.metrics.evaluate import evaluate

    rows = setup.train
    train, held_out = division(setup, share)
    clf = setup.classifier(BayesianClassifier, workshop.backbone(setup.cell.backbone))
    clf.fit(rows.take(train), **setup.fit, out=work, overwrite=True)
    predictions = clf.predict(rows.take(held_out), seed=setup.cell.seed, **setup.predict)
    shutil.rmtree(work, ignore_errors=True)
    return float(evaluate(predictions, num_resamples=20)["nll"].value)
