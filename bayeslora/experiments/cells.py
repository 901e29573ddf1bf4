"""Computation of a cell: rows, fit, predictions, scores and the record."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslora.adapters.registry import resolve_adapter
from bayeslora.data.examples import class_names, data_hash, encode_labels
from bayeslora.data.questions import is_description, read_description
from bayeslora.data.splits import split_examples
from bayeslora.errors import InputError, located
from bayeslora.experiments.grid import Cell, Grid, Search, Task, best_options, search_of, set_part
from bayeslora.experiments.rows import TaskRows, drawn, num_classes, task_rows
from bayeslora.experiments.summary import REPORTED, SCORES
from bayeslora.options import as_mapping, parsed
from bayeslora.posteriors.registry import resolve_posterior

if TYPE_CHECKING:
    from bayeslora.adapters.base import Adapter
    from bayeslora.backbones.load import Backbone
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.data.examples import Examples
    from bayeslora.posteriors.base import Posterior
    from bayeslora.predictions.record import Predictions

FORMAT_VERSION = 1
_HASHED = 100


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
        steps: Optimiser steps of the protocol; None if it sets none.
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
    steps: int | None
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
            settings["search"] = {"hold_out": self.search.hold_out} | self.search.model_dump(
                exclude_unset=True
            )
        ready: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return ready

    def fitted(self, kind: Any, backbone: Any, train: Examples, **options: Any) -> Any:
        """Return the classifier fitted to rows.

        Args:
            kind: `BayesianClassifier` or a subclass.
            backbone: A name or a loaded backbone.
            train: Training rows.
            options: `progress` of the classifier, and `out` of its fit, whose content is replaced,
                except that an interrupted fit resumes.
        """
        clf: BayesianClassifier = kind(
            backbone,
            self.adapter,
            self.posterior,
            seed=self.cell.seed,
            progress=options.get("progress", False),
            **self.model,
        )
        return clf.fit(train, out=options.get("out"), overwrite=True, **self.fit)

    def with_options(self, options: Mapping[str, Any]) -> Setup:
        """Return the setup with options by names such as `adapter.lr`."""
        parts: dict[str, dict[str, Any]] = {"adapter": {}, "posterior": {}, "fit": {}}
        for name, value in options.items():
            part, _, key = name.partition(".")
            parts[part][key] = value
        adapter: Any = self.adapter
        posterior: Any = self.posterior
        return replace(
            self,
            adapter=replace(adapter, **parts["adapter"]),
            posterior=replace(posterior, **parts["posterior"]),
            fit={**self.fit, **parts["fit"]},
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
        grid, rows = self.grid, self._task_rows(cell.task)
        train = rows.train if cell.rows is None else drawn(rows.train, cell.rows, cell.seed)
        deviations = [*grid.rules.deviations, *rows.deviations]
        adapter = self._adapter(cell, deviations)
        posterior = resolve_posterior(cell.method.posterior)
        fit = self._fit_options(cell, adapter, len(train), deviations)
        model = self._model_options(self._tasks[cell.task], train, deviations)
        predict = self._predict_options(cell, posterior, deviations)
        return Setup(
            *(cell, adapter, posterior, model, fit, predict, train, rows),
            steps=grid.rules.steps if adapter.trains else None,
            search=search_of(grid.search, adapter, posterior),
            deviations=tuple(deviations),
        )

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
                setup.fitted(Checked, cell.backbone, setup.train)
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
            options: dict[str, Any] = {
                key: value for key, value in self.grid.model.items() if key in ("dtype", "device")
            }
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
        chosen: dict[str, Any] = {}
        trials: list[dict[str, Any]] = []
        if setup.search is not None:
            loss = partial(_loss, setup, backbone, work / "trial")
            chosen, trials = best_options(
                setup.search, loss, work, settings=settings, seed=cell.seed
            )
            setup = setup.with_options(chosen)
        _reset_peak_memory()
        begun = time.perf_counter()
        clf = setup.fitted(
            BayesianClassifier,
            backbone,
            setup.train,
            out=work / "model",
            progress=self._progress,
        )
        fitted = time.perf_counter()
        keep = () if rows.clusters is None else (rows.clusters,)
        options = {"seed": cell.seed, **setup.predict}
        sets = {rows.split: clf.predict(rows.reported, keep=keep, **options)}
        predicted = time.perf_counter()
        for name, examples in rows.ood.items():
            sets[name] = clf.predict(examples, unknown_labels="ood", **options)
        for name, result in sets.items():
            notes = {**result.metadata, **self._notes(setup)}
            named = result.replace(name=cell.method.name, metadata=notes)
            named.save(work / f"{set_part(name)}.parquet")
        shutil.rmtree(work / "model", ignore_errors=True)
        backbone.prefix_states.clear()  # the next cell reads states of frozen layers from disk
        num_bins = self.grid.rules.num_bins
        return {
            **_record(setup, clf),
            "settings": settings,
            "seconds": {
                "fit": fitted - begun,
                "predict_per_1000": 1000 * (predicted - fitted) / len(rows.reported),
            },
            "chosen": chosen,
            "trials": trials,
            "prior": prior_scores(sets[rows.split], setup.train, num_bins),
            "scores": _scores(sets, rows, num_bins),
        }

    def _task_rows(self, task: str) -> TaskRows:
        """Return the rows of a task, read once."""
        if task not in self._rows:
            rules = self.grid.rules
            by_letter = {**rules.model, **self.grid.model}.get("format") == "letters"
            self._rows[task] = task_rows(
                self._tasks[task], rules, self._data_dir, by_letter=by_letter
            )
        return self._rows[task]

    def _adapter(self, cell: Cell, deviations: list[str]) -> Adapter:
        """Return the adapter with the protocol's options, unless the grid sets others."""
        adapter: Adapter = resolve_adapter(cell.method.adapter)
        rules = self.grid.rules
        if not rules.adapter:
            return adapter
        if not adapter.trains:
            deviations.append("training: the last layer alone is fitted, on frozen features")
            return adapter
        current = as_mapping(adapter)
        expected = {key: value for key, value in rules.adapter.items() if key in current}
        deviations += [
            f"{key}: adapter {adapter.name} has no such option"
            for key, value in rules.adapter.items()
            if key not in current and value
        ]
        own = {key: current[key] for key in _named(cell.method.adapter) if key in expected}
        options: dict[str, Any] = _merged(expected, own, deviations)
        return replace(adapter, **options)  # type: ignore[type-var]

    def _fit_options(
        self, cell: Cell, adapter: Adapter, num_train: int, deviations: list[str]
    ) -> dict[str, Any]:
        rules = self.grid.rules
        expected = {**rules.fit}
        if not adapter.trains:
            expected.pop("batch_size", None)
        options = {**self.grid.fit, **cell.method.fit}
        merged = _merged(expected, options, deviations)
        if rules.steps is None or not adapter.trains:
            return merged
        per_epoch = -(-num_train // int(merged["batch_size"]))
        merged.setdefault("epochs", max(1, round(rules.steps / per_epoch)))
        steps = int(merged["epochs"]) * per_epoch
        if steps != rules.steps:
            deviations.append(
                f"steps: {steps:,} instead of {rules.steps:,}, since training ends after whole "
                f"epochs ({merged['epochs']})"
            )
        return merged

    def _model_options(self, task: Task, train: Examples, deviations: list[str]) -> dict[str, Any]:
        expected, options = {**self.grid.rules.model}, {**self.grid.model}
        if is_description(task.task) and (prompt := read_description(str(task.task)).prompt):
            expected["template"] = options.get("template", prompt)
        if train.choices is None:  # texts have no format
            expected.pop("format", None)
            options.pop("format", None)
        return _merged(expected, options, deviations)

    def _predict_options(
        self, cell: Cell, posterior: Posterior, deviations: list[str]
    ) -> dict[str, Any]:
        rules, search = self.grid.rules, self.grid.search
        options = self.grid.predict.model_dump(exclude_unset=True)
        draws = rules.weight_samples if posterior.is_sampled else None
        if posterior.link is None:
            options.pop("link", None)
        else:
            draws = rules.logit_samples
        searched = search is not None and "posterior.num_samples" in search.ranges
        if searched or "num_samples" in _named(cell.method.posterior):
            # The method's own number is more specific than that of the grid or the protocol.
            options.pop("num_samples", None)
            own = "searched" if searched else posterior.num_samples
            if draws not in (None, own):
                deviations.append(f"num_samples: {own} by the grid, {draws} by the protocol")
            draws = None
        elif not (posterior.is_sampled or posterior.link):
            options.pop("num_samples", None)
        return _merged({} if draws is None else {"num_samples": draws}, options, deviations)

    def _notes(self, setup: Setup) -> dict[str, str]:
        """Return the metadata that a report on the cell's predictions shows."""
        rules = self.grid.rules
        return {
            "protocol": f"{rules.name}: {rules.described()}",
            "deviations": "; ".join(setup.deviations) or "none",
            "task": f"{setup.cell.task}, {setup.rows.split}",
            "training_rows": str(len(setup.train)),
        }


class _ChecksPassedError(Exception):
    """All checks of a fit have passed."""


def _named(text: str) -> set[str]:
    """Return the options that a method's text names: `r` and `lr` for `polar:r=4,lr=1e-3`."""
    return {*parsed("method", text.partition(":")[2])}


def _merged(
    expected: Mapping[str, Any], options: Mapping[str, Any], deviations: list[str]
) -> dict[str, Any]:
    """Return the protocol's options updated by the grid's; add differences to `deviations`."""
    for key, value in options.items():
        if key not in expected:
            deviations.append(f"{key}: {value} by the grid")
        elif value != expected[key]:
            deviations.append(f"{key}: {value} by the grid, {expected[key]} by the protocol")
    return {**expected, **options}


def _check_predictions(setup: Setup) -> None:
    """Raise InputError for options or rows that the fitted model would refuse."""
    from bayeslora.engine.data import check_images, check_questions, classes_with, most_options
    from bayeslora.engine.fitted.pieces import Drawing

    Drawing.of(setup.posterior, **setup.predict)
    options: Any = None if setup.train.choices is None else setup.model.get("format") or "options"
    fitted = class_names(setup.train)
    for name, rows in {setup.rows.split: setup.rows.reported, **setup.rows.ood}.items():
        with located(name):
            check_images(rows, images=setup.train.images)
            check_questions(options, fitted, rows)
            classes = classes_with(options, fitted, most_options(rows))
            if rows is setup.rows.reported:  # an OOD set may have other labels
                encode_labels(rows, classes)


def _loss(setup: Setup, backbone: Backbone, work: Path, options: dict[str, Any]) -> float:
    """Return the NLL of held-out training rows after a fit to the others with some options.

    Neither reported rows nor rows of another draw affect the choice.
    """
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.metrics.evaluate import evaluate

    rows, trial = setup.train, setup.with_options(options)
    share = setup.search.hold_out if setup.search else 0.0
    labels = encode_labels(rows, class_names(rows))
    train, held_out = split_examples(rows, labels, share, setup.cell.seed)
    clf = trial.fitted(BayesianClassifier, backbone, rows.take(train), out=work)
    predictions = clf.predict(rows.take(held_out), seed=setup.cell.seed, **trial.predict)
    shutil.rmtree(work, ignore_errors=True)
    return float(evaluate(predictions, num_resamples=20)["nll"].value)


def _record(setup: Setup, clf: BayesianClassifier) -> dict[str, Any]:
    """Return what is known of a fitted cell besides its scores and durations, JSON-ready."""
    from bayeslora.engine.predict import num_passes

    cell, rows, record = setup.cell, setup.rows, clf.record
    training, reading, num_train = record.training, record.backbone, len(setup.train)
    num_held_out = round(training.get("hold_out", 0) * num_train)
    steps = None
    if setup.adapter.trains:
        # An upper bound: early stopping takes fewer.
        steps = training["epochs"] * -(-(num_train - num_held_out) // training["batch_size"])
    num_samples = setup.predict.get("num_samples")
    return {
        "format_version": FORMAT_VERSION,
        "cell": {**cell.key, "adapter": cell.method.adapter, "posterior": cell.method.posterior},
        "deviations": list(setup.deviations),
        "split": rows.split,
        "num_classes": num_classes(rows.reported),
        "num_train": num_train,
        "num_held_out": num_held_out,
        "num_reported": len(rows.reported),
        "num_ood": {name: len(examples) for name, examples in rows.ood.items()},
        "dropped": dict(rows.dropped),
        "steps": {"protocol": setup.steps, "at_most": steps},
        "backbone": {
            "name": cell.backbone,
            "fingerprint": reading["fingerprint"],
            "dtype": reading["dtype"],  # by default, what the processor computes in
        },
        "prompt_hash": _prompt_hash(reading, rows.reported),
        "num_parameters": int(record.results.get("adapter", {}).get("num_parameters", 0)),
        "passes": num_passes(setup.posterior, num_samples, record.num_members),
        "peak_memory_bytes": _peak_memory(),
        "versions": dict(record.versions),
        "processor": _processor(),
    }


def _prompt_hash(reading: Mapping[str, Any], rows: Examples) -> str:
    """Return the hexadecimal SHA-256 of the first 100 texts or questions as a model reads them.

    Args:
        reading: `backbone` in the record of the model.
        rows: The rows.
    """
    from bayeslora.backbones.encoder import with_letters
    from bayeslora.backbones.template import Template

    rows = rows.take(np.arange(min(len(rows), _HASHED)))
    frame, letters = (
        Template(reading.get("template") or "{text}"),
        reading.get("format") == "letters",
    )
    pairs, choices = rows.pairs or [None] * len(rows), rows.choices or [()] * len(rows)
    digest = hashlib.sha256()
    for text, pair, options in zip(rows.texts, pairs, choices, strict=True):
        prompt = frame.filled(with_letters(text, options) if letters else text, pair).whole
        digest.update("\0".join([prompt, *(() if letters else options)]).encode())
    return digest.hexdigest()


def _scores(sets: Mapping[str, Predictions], rows: TaskRows, num_bins: int) -> dict[str, Any]:
    """Return all scores of the reported rows, and of labelled OOD sets."""
    from bayeslora.metrics.evaluate import evaluate

    ood = {name: sets[name] for name in rows.ood}
    results = {
        REPORTED: evaluate(sets[rows.split], ood, num_bins=num_bins, cluster_by=rows.clusters),
        **{
            name: evaluate(predictions, num_bins=num_bins)
            for name, predictions in ood.items()
            if predictions.labelled.any()
        },
    }
    # Curves can be recomputed from the predictions.
    curves = {"risk_coverage", "confusion", "bins"}
    return {
        name: {key: value for key, value in scores.to_json().items() if key not in curves}
        for name, scores in results.items()
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


def _processor() -> str:
    """Return the model of the GPU, or of the CPU if there is none."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


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
