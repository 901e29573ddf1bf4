"""Computation of a cell: rows, fit, predictions, scores and the record."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslora.adapters.registry import resolve_adapter
from bayeslora.data.examples import class_names, data_hash, encode_labels
from bayeslora.data.splits import split_examples
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.errors import InputError, located
from bayeslora.experiments.grid import Cell, Grid, Search, distribution, set_part
from bayeslora.experiments.rows import TaskRows, drawn, num_classes, task_rows
from bayeslora.experiments.summary import REPORTED, SCORES
from bayeslora.metrics.evaluate import evaluate
from bayeslora.options import as_mapping, parsed
from bayeslora.posteriors.registry import resolve_posterior

if TYPE_CHECKING:
    from bayeslora.adapters.base import Adapter
    from bayeslora.backbones.load import Backbone
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.data.examples import Examples
    from bayeslora.posteriors.base import Posterior
    from bayeslora.predictions.record import Predictions

_SEARCHED = {"fit.epochs", "fit.batch_size", "fit.head_lr", "fit.patience"}
"""Options of `fit` that a search may choose."""


@dataclass(frozen=True)
class Setup:
    """Everything that determines the result of a cell.

    Attributes:
        cell: The cell.
        adapter: Options of the adapter, including the protocol's.
        posterior: Options of the posterior.
        model: Other options of `BayesianClassifier`.
        fit: Options of `fit`.
        predict: Options of `predict`.
        train: Training rows.
        rows: The rows of the task.
        search: The search over options that the method has, or None.
        deviations: Deviations from the protocol, and options that only the grid sets.
    """

    cell: Cell
    adapter: Adapter
    posterior: Posterior
    model: Mapping[str, Any]
    fit: Mapping[str, Any]
    predict: Mapping[str, Any]
    train: Examples
    rows: TaskRows
    search: Search | None
    deviations: tuple[str, ...]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings as JSON-ready values."""
        data = {"train": self.train, self.rows.split: self.rows.reported, **self.rows.ood}
        settings: dict[str, Any] = {
            "adapter": as_mapping(self.adapter),
            "posterior": as_mapping(self.posterior),
            "model": self.model,
            "fit": self.fit,
            "predict": self.predict,
            "data": {name: data_hash(rows) for name, rows in data.items()},
        }
        if self.search is not None:
            settings["search"] = self.search.model_dump()
        ready: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return ready

    def classifier(self, kind: Any, backbone: Any, **options: Any) -> Any:
        """Return the classifier to fit.

        Args:
            kind: `BayesianClassifier` or a subclass.
            backbone: A name or a loaded backbone.
            options: Further options of the classifier.
        """
        options |= {"seed": self.cell.seed, **self.model}
        return kind(backbone, self.adapter, self.posterior, **options)

    def with_options(self, options: Mapping[str, Any]) -> Setup:
        """Return the setup with options by names such as `adapter.lr`."""
        parts: dict[str, dict[str, Any]] = {"adapter": {}, "posterior": {}, "fit": {**self.fit}}
        for name, value in options.items():
            part, _, key = name.partition(".")
            parts[part][key] = value
        adapter: Any = self.adapter
        posterior: Any = self.posterior
        return replace(
            self,
            adapter=replace(adapter, **parts["adapter"]),
            posterior=replace(posterior, **parts["posterior"]),
            fit=parts["fit"],
        )


class Workshop:
    """Sets up and runs cells; caches the rows of tasks and the last backbone.

    Args:
        grid: The grid.
        data_dir: Directory of the known tasks' files.
        progress: Whether fits and predictions show progress bars.
    """

    def __init__(
        self, grid: Grid, data_dir: str | Path | None = None, *, progress: bool = False
    ) -> None:
        self.grid = grid
        self._progress = progress
        self._data_dir = data_dir
        self._tasks = {task.name: task for task in grid.tasks}
        self._rows: dict[str, TaskRows] = {}
        self._backbone: tuple[str, Backbone] | None = None

    def setup(self, cell: Cell) -> Setup:
        """Return the setup of a cell, without fitting anything.

        Raises:
            InputError: A name, an option or a file is wrong.
        """
        grid, rules, method = self.grid, self.grid.rules, cell.method
        rows = self._task_rows(cell.task)
        train = rows.train if cell.rows is None else drawn(rows.train, cell.rows, cell.seed)
        adapter: Any = resolve_adapter(method.adapter)
        posterior: Any = resolve_posterior(method.posterior)
        search = search_of(grid.search, adapter, posterior)
        deviations = [*rules.deviations, *rows.deviations]

        fit, model = {**rules.fit}, {**rules.model}
        if not adapter.trains:
            fit.pop("batch_size", None)
        expected = {**fit, **model}
        fit |= {**grid.fit, **method.fit}
        model |= grid.model
        if train.choices is None:  # texts have no format
            expected.pop("format", None)
            model.pop("format", None)
        if adapter.trains:
            expected |= rules.adapter
            theirs = rules.adapter.keys() & as_mapping(adapter).keys() - _named(method.adapter)
            adapter = replace(adapter, **{key: rules.adapter[key] for key in theirs})
        elif rules.adapter:
            deviations.append("training: the last layer alone is fitted, on frozen features")
        actual = {**as_mapping(adapter), **fit, **model}
        if adapter.trains and rules.steps:  # training ends after whole epochs
            per_epoch = -(-len(train) // fit["batch_size"])
            fit.setdefault("epochs", max(1, round(rules.steps / per_epoch)))
            expected["steps"], actual["steps"] = rules.steps, fit["epochs"] * per_epoch

        predict = grid.predict.model_dump(exclude_unset=True)
        draws = rules.logit_samples if posterior.link else rules.weight_samples
        if posterior.link is None:
            predict.pop("link", None)
        if not (posterior.is_sampled or posterior.link):
            predict.pop("num_samples", None)
        elif draws:
            expected["num_samples"] = draws
            predict = {"num_samples": draws, **predict}
        searched = search is not None and "posterior.num_samples" in search.ranges
        if searched or "num_samples" in _named(method.posterior):
            predict.pop("num_samples", None)  # the method's own number is more specific
        actual |= predict

        set_by_grid = (*grid.fit, *method.fit, *grid.model, *grid.predict.model_fields_set)
        deviations += [
            f"{key}: {actual.get(key, 'its own')} instead of {value}"
            for key, value in expected.items()
            if actual.get(key) != value and (value or key in actual)
        ]
        deviations += [
            f"{key}: {actual[key]} by the grid"
            for key in dict.fromkeys(set_by_grid)
            if key in actual and key not in expected
        ]
        options = adapter, posterior, model, fit, predict
        return Setup(cell, *options, train, rows, search, tuple(deviations))

    def checked(self, cell: Cell) -> Setup:
        """Return the setup of a cell after checking its fit and its predictions.

        Raises:
            InputError: The cell is impossible; the message names it.
        """
        from bayeslora.classifier import BayesianClassifier

        class Checked(BayesianClassifier):
            """Ends a fit at the point of loading the backbone."""

            def _load_backbone(self, name: str | None = None) -> Backbone:
                raise _ChecksPassedError

        try:
            setup = self.setup(cell)
            with suppress(_ChecksPassedError):
                setup.classifier(Checked, cell.backbone).fit(setup.train, **setup.fit)
            _check_predictions(setup)
        except (InputError, TypeError) as error:
            raise InputError(f"cell {cell}: {error}", code=getattr(error, "code", "")) from None
        return setup

    def backbone(self, name: str) -> Backbone:
        """Return a backbone, loaded once; only the last one stays in memory.

        Raises:
            InputError: It cannot be loaded.
        """
        from bayeslora.backbones.load import load_backbone
        from bayeslora.engine.progress import quiet_transformers

        if self._backbone is None or self._backbone[0] != name:
            self._backbone = None
            model = self.grid.model
            options: Any = {key: model[key] for key in ("dtype", "device") if key in model}
            with quiet_transformers():
                self._backbone = name, load_backbone(name, **options)
        return self._backbone[1]

    def run(self, cell: Cell, work: Path) -> dict[str, Any]:
        """Fit, predict and score a cell; return its record and write predictions to `work`.

        An interrupted fit resumes from its last checkpoint there.

        Args:
            cell: The cell.
            work: A directory of this cell alone.

        Raises:
            InputError: The cell cannot be fitted.
        """
        from bayeslora.classifier import BayesianClassifier

        for left in work.glob("*.parquet"):  # predictions of an interrupted run
            left.unlink()
        setup, backbone = self.setup(cell), self.backbone(cell.backbone)
        settings, rows = setup.settings, setup.rows
        search: dict[str, Any] = {"chosen": {}, "trials": []}
        if setup.search is not None:
            loss = partial(_loss, setup, backbone)
            search = searched(setup.search, loss, work, settings, cell.seed)
            setup = setup.with_options(search["chosen"])
        _reset_peak_memory()
        begun = time.perf_counter()
        clf = setup.classifier(BayesianClassifier, backbone, progress=self._progress)
        clf.fit(setup.train, out=work / "model", overwrite=True, **setup.fit)
        fitted = time.perf_counter()
        keep = () if rows.clusters is None else (rows.clusters,)
        options = {"seed": cell.seed, **setup.predict}
        sets = {rows.split: clf.predict(rows.reported, keep=keep, **options)}
        predicted = time.perf_counter()
        for name, examples in rows.ood.items():
            sets[name] = clf.predict(examples, unknown_labels="ood", **options)
        notes = {
            "protocol": f"{cell.protocol}: {self.grid.rules.described()}",
            "deviations": "; ".join(setup.deviations) or "none",
            "task": f"{cell.task}, {rows.split}",
            "training_rows": str(len(setup.train)),
        }
        for name, result in sets.items():
            named = result.replace(name=cell.method.name, metadata=result.metadata | notes)
            named.save(work / f"{set_part(name)}.parquet")
        shutil.rmtree(work / "model", ignore_errors=True)
        backbone.prefix_states.clear()  # the next cell reads states of frozen layers from disk
        return {
            **_record(setup, clf),
            "settings": settings,
            "seconds": {
                "fit": fitted - begun,
                "predict_per_1000": 1000 * (predicted - fitted) / len(rows.reported),
            },
            **search,
            "prior": prior_scores(sets[rows.split], setup.train),
            "scores": _scores(sets, rows),
        }

    def _task_rows(self, task: str) -> TaskRows:
        """Return the rows of a task, read once."""
        if task not in self._rows:
            rules = self.grid.rules
            by_letter = {**rules.model, **self.grid.model}.get("format") == "letters"
            rows = task_rows(self._tasks[task], rules, self._data_dir, by_letter=by_letter)
            self._rows[task] = rows
        return self._rows[task]


class _ChecksPassedError(Exception):
    """All checks of a fit have passed."""


def _named(text: str) -> set[str]:
    """Return the options that a method's text names: `r` and `lr` for `polar:r=4,lr=1e-3`."""
    return {*parsed(text.partition(":")[2])}


def _check_predictions(setup: Setup) -> None:
    """Raise InputError for options or rows that the fitted model would refuse."""
    from bayeslora.engine.data import check_images, check_questions, classes_with, most_options
    from bayeslora.engine.pieces import Drawing

    Drawing.of(setup.posterior, **setup.predict)
    options: Any = None if setup.train.choices is None else setup.model.get("format") or "options"
    fitted = class_names(setup.train)
    for name, rows in {setup.rows.split: setup.rows.reported, **setup.rows.ood}.items():
        with located(name):
            check_images(rows, images=setup.train.images)
            check_questions(options, fitted, rows)
            if rows is setup.rows.reported:  # an OOD set may have other labels
                encode_labels(rows, classes_with(options, fitted, most_options(rows)))


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
    known -= {f"fit.{field.name}" for field in fields(TrainingSettings)} - _SEARCHED
    ranges: dict[str, Any] = {
        name: values for name, values in search.ranges.items() if name in known
    }
    for name, values in ranges.items():
        part, _, key = name.partition(".")
        for value in values if isinstance(values, list) else (values["low"], values["high"]):
            replace(parts[part], **{key: value})
    return search.model_copy(update={"ranges": ranges}) if ranges else None


def searched(
    search: Search,
    loss: Callable[[dict[str, Any]], float],
    work: Path,
    settings: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Return the options of the best trial as `chosen`, and all `trials`.

    Args:
        search: The search.
        loss: Returns the NLL with some options, by names such as `adapter.lr`.
        work: Directory of the cell, with the trials' file.
        settings: Everything else that determines a trial; with other settings, earlier trials in
            the file are not used.
        seed: Seed of the suggestions.

    Raises:
        InputError: Every trial failed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{work / 'search.sqlite3'}")
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    study: Any = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    ranges = {name: distribution(values) for name, values in search.ranges.items()}
    while (done := len(study.get_trials(states=ended))) < search.trials:
        # A new sampler for each trial, so that its suggestion depends only on the trials.
        study.sampler = optuna.samplers.TPESampler(seed=(1_000_003 * seed + done) % 2**32)
        trial = study.ask(ranges)
        try:
            study.tell(trial, loss(trial.params))
        except InputError as error:
            trial.set_user_attr("error", str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    trials = [
        {"options": dict(trial.params), "nll": trial.value, **trial.user_attrs}
        for trial in study.get_trials(states=ended)
    ]
    storage.engine.dispose()
    successful = (trial for trial in trials if trial["nll"] is not None)
    best = min(successful, key=lambda trial: trial["nll"], default=None)
    if best is None:
        raise InputError(f"every trial of the search failed; last error: {trials[-1].get('error')}")
    return {"chosen": best["options"], "trials": trials}


def _loss(setup: Setup, backbone: Backbone, options: dict[str, Any]) -> float:
    """Return the NLL of held-out training rows after a fit to the others with some options.

    Neither reported rows nor rows of another draw affect the choice.
    """
    from bayeslora.classifier import BayesianClassifier

    rows, trial = setup.train, setup.with_options(options)
    share = setup.search.hold_out if setup.search else 0.0
    labels = encode_labels(rows, class_names(rows))
    train, held_out = split_examples(rows, labels, share, setup.cell.seed)
    clf = trial.classifier(BayesianClassifier, backbone, progress=False)
    clf.fit(rows.take(train), **trial.fit)
    predictions = clf.predict(rows.take(held_out), seed=setup.cell.seed, **trial.predict)
    return float(evaluate(predictions, num_resamples=20)["nll"].value)


def _record(setup: Setup, clf: BayesianClassifier) -> dict[str, Any]:
    """Return what is known of a fitted cell besides its scores and durations, JSON-ready."""
    from bayeslora.engine.predict import num_passes

    cell, rows, record = setup.cell, setup.rows, clf.record
    training, num_train = record.training, len(setup.train)
    # An upper bound: a held-out part and early stopping take fewer.
    per_epoch = -(-num_train // training["batch_size"]) if setup.adapter.trains else 0
    num_samples = setup.predict.get("num_samples")
    return {
        "cell": {**cell.key, "adapter": cell.method.adapter, "posterior": cell.method.posterior},
        "deviations": list(setup.deviations),
        "split": rows.split,
        "num_classes": num_classes(rows.reported),
        "num_train": num_train,
        "num_reported": len(rows.reported),
        "dropped": dict(rows.dropped),
        "steps": per_epoch and training["epochs"] * per_epoch,
        "backbone": {**record.backbone, "name": cell.backbone},
        "num_parameters": int(record.results.get("adapter", {}).get("num_parameters", 0)),
        "passes": num_passes(setup.posterior, num_samples, record.num_members),
        "peak_memory_bytes": _peak_memory(),
        "versions": dict(record.versions),
    }


def _scores(sets: Mapping[str, Predictions], rows: TaskRows) -> dict[str, Any]:
    """Return all scores of the reported rows, and of labelled OOD sets."""
    ood = {name: sets[name] for name in rows.ood}
    scores = {REPORTED: evaluate(sets[rows.split], ood=ood, cluster_by=rows.clusters)}
    scores |= {name: evaluate(each) for name, each in ood.items() if each.labelled.any()}
    # Curves can be recomputed from the predictions.
    curves = {"risk_coverage", "confusion", "bins"}
    return {
        name: {key: value for key, value in result.to_json().items() if key not in curves}
        for name, result in scores.items()
    }


def prior_scores(predictions: Predictions, train: Examples) -> dict[str, float]:
    """Return scores of a forecast without a model, which every method should surpass.

    It is the share of each class in the training rows, or, for questions, the same probability for
    each option.

    Args:
        predictions: Predictions on the reported rows.
        train: The training rows.
    """
    if predictions.available is not None:
        probs = predictions.available / predictions.num_options[:, None]
    else:
        labels = encode_labels(train, predictions.classes)
        shares = np.bincount(labels, minlength=predictions.num_classes) / len(labels)
        probs = np.tile(shares, (len(predictions), 1))
    results = evaluate(replace(predictions.with_probs(probs), scores={}), num_resamples=20)
    return {score: float(results[score].value) for score in SCORES}


def _reset_peak_memory() -> None:
    """Begin a new measurement of `_peak_memory`, if the system supports it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed: the peak is then that of the process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory() -> int:
    """Return the peak memory in bytes: of the GPU if there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
