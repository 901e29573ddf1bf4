"""A resumable search over options with Optuna, with the same number of trials for every cell.

Trials are stored in a SQLite file beside the cell. Each suggestion depends only on the finished
trials, so a killed and resumed search makes the same choice as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError, MissingAssetError
from bayeslora.experiments.grid import Range, Search

if TYPE_CHECKING:
    from bayeslora.adapters.base import Adapter
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


def best_options(
    search: Search,
    loss: Callable[[dict[str, Any]], float],
    folder: Path,
    *,
    settings: Mapping[str, Any],
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the options of the best trial, and all trials.

    Args:
        search: The search.
        loss: Returns the NLL with some options, by names such as `adapter.lr`.
        folder: Directory of the trials' file.
        settings: Everything else that determines a trial; with other settings, earlier trials in
            the file are not used.
        seed: Seed of the suggestions.

    Raises:
        InputError: Every trial failed.
    """
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    study: Any = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    while (done := len(study.get_trials(states=ended))) < search.trials:
        # A new sampler for each trial, so that its suggestion depends only on the trials.
        study.sampler = optuna.samplers.TPESampler(seed=(_SEEDS * seed + done) % 2**32)
        trial = study.ask()
        options = {name: _suggested(trial, name, value) for name, value in search.ranges.items()}
        try:
            study.tell(trial, loss(options))
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
