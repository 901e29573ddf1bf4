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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeslora.adapters.registry import resolve_adapter
from bayeslora.data.corruptions import Corruption
from bayeslora.data.examples import class_names, data_hash, encode_labels
from bayeslora.data.questions import is_description, read_description
from bayeslora.errors import InputError
from bayeslora.experiments.grid import Cell, Grid, Search, Task, set_part
from bayeslora.experiments.rows import TaskRows, drawn, num_classes, task_rows
from bayeslora.experiments.search import best_options, search_of, with_options
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
_HASHED_PROMPTS = 100


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
        corruptions: Corruptions of the reported rows by name.
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
    corruptions: Mapping[str, Corruption]
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
        if self.corruptions:
            settings["corruptions"] = {"sets": [*self.corruptions]}
        ready: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return ready

    def fitted(
        self, backbone: Any, train: Examples, kind: Any, out: Path | None, *, progress: bool = False
    ) -> Any:
        """Return the classifier fitted to rows; an interrupted fit in `out` resumes.

        Args:
            backbone: A name or a loaded backbone.
            train: Training rows.
            kind: `BayesianClassifier` or a subclass.
            out: Directory of the fit, whose content is replaced; None for none.
            progress: Whether to show progress bars.
        """
        clf: BayesianClassifier = kind(
            backbone,
            self.adapter,
            self.posterior,
            seed=self.cell.seed,
            progress=progress,
            **self.model,
        )
        return clf.fit(train, out=out, overwrite=out is not None, **self.fit)


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
            corruptions={name: Corruption.of(name, cell.seed) for name in grid.corruptions},
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
                setup.fitted(cell.backbone, setup.train, Checked, None)
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
            names = ("dtype", "device")
            options: dict[str, Any] = {
                key: value for key, value in self.grid.model.items() if key in names
            }
            with quiet_transformers():
                self._backbone = (name, load_backbone(name, **options))
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
        requested = setup = self.setup(cell)
        rows, bins, backbone = setup.rows, self.grid.rules.num_bins, self.backbone(cell.backbone)
        chosen, trials = best_options(setup, backbone, work)
        setup = with_options(setup, chosen)
        _reset_peak_memory()
        begun = time.perf_counter()
        clf = setup.fitted(
            backbone, setup.train, BayesianClassifier, work / "model", progress=self._progress
        )
        fitted = time.perf_counter()
        keep = () if rows.clusters is None else (rows.clusters,)
        options = {"seed": cell.seed, **setup.predict}
        predictions = clf.predict(rows.reported, keep=keep, **options)
        predicted = time.perf_counter()
        ood = {
            name: clf.predict(examples, unknown_labels="ood", **options)
            for name, examples in rows.ood.items()
        }
        shifted = {
            name: clf.predict(corruption.corrupted(rows.reported), keep=keep, **options)
            for name, corruption in setup.corruptions.items()
        }
        for name, result in {rows.split: predictions, **ood, **shifted}.items():
            notes = {**result.metadata, **self._notes(setup)}
            if name in shifted:
                notes |= setup.corruptions[name].notes
            named = replace(result, name=cell.method.name, metadata=notes)
            named.save(work / f"{set_part(name)}.parquet")
        shutil.rmtree(work / "model", ignore_errors=True)
        backbone.prefix_states.clear()  # the next cell reads states of frozen layers from disk
        return {
            **_record(setup, requested, clf),
            "backbone": {
                "name": cell.backbone,
                "fingerprint": backbone.fingerprint,
                "dtype": backbone.dtype,  # by default, what the processor computes in
            },
            "seconds": {
                "fit": fitted - begun,
                "predict_per_1000": 1000 * (predicted - fitted) / len(rows.reported),
            },
            "chosen": chosen,
            "trials": trials,
            "prior": prior_scores(predictions, setup.train, bins),
            "scores": _scores(predictions, ood, shifted, bins, rows.clusters),
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
        expected, current = {**rules.adapter}, as_mapping(adapter)
        for key in [key for key in expected if key not in current]:
            if expected.pop(key):
                deviations.append(f"{key}: adapter {adapter.name} has no such option")
        named = {key: current[key] for key in _named(cell.method.adapter) if key in expected}
        options: dict[str, Any] = _merged(expected, named, deviations)
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
        if rules.steps is None:
            return merged
        if "epochs" in options:
            deviations.append(
                f"steps: {options['epochs']} epochs by the grid, {rules.steps:,} steps by the "
                "protocol"
            )
        elif adapter.trains:
            per_epoch = -(-num_train // int(merged["batch_size"]))
            merged["epochs"] = max(1, round(rules.steps / per_epoch))
            steps = merged["epochs"] * per_epoch
            if steps != rules.steps:
                deviations.append(
                    f"steps: {steps:,} instead of {rules.steps:,}, since training ends after "
                    f"whole epochs ({merged['epochs']})"
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
        expected: dict[str, Any] = {}
        if searched or "num_samples" in _named(cell.method.posterior):
            # The method's own number is more specific than that of the grid or the protocol.
            options.pop("num_samples", None)
            own = "searched" if searched else posterior.num_samples
            if draws not in (None, own):
                deviations.append(f"num_samples: {own} by the grid, {draws} by the protocol")
        elif draws is not None:
            expected["num_samples"] = draws
        elif not (posterior.is_sampled or posterior.link):
            options.pop("num_samples", None)
        return _merged(expected, options, deviations)

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
    for corruption in setup.corruptions.values():
        corruption.corrupted(setup.rows.reported.take([0]))
    options: Any = None if setup.train.choices is None else setup.model.get("format") or "options"
    fitted = class_names(setup.train)
    for name, rows in {setup.rows.split: setup.rows.reported, **setup.rows.ood}.items():
        try:
            check_images(rows, images=setup.train.images)
            check_questions(options, fitted, rows)
            classes = classes_with(options, fitted, most_options(rows))
            if rows is setup.rows.reported:  # an OOD set may have other labels
                encode_labels(rows, classes)
        except InputError as error:
            raise error.within(name) from None


def _record(setup: Setup, requested: Setup, clf: BayesianClassifier) -> dict[str, Any]:
    """Return what is known of a fitted cell besides its scores and durations, JSON-ready.

    Args:
        setup: The cell with the choices of a search.
        requested: The same before the search.
        clf: The fitted classifier.
    """
    from bayeslora.engine.predict import num_passes

    cell, rows, record = setup.cell, setup.rows, clf.record
    training, num_train = record.training, len(setup.train)
    num_held_out = round(training.get("hold_out", 0) * num_train)
    steps = None
    if setup.adapter.trains:
        # An upper bound: early stopping takes fewer.
        steps = training["epochs"] * -(-(num_train - num_held_out) // training["batch_size"])
    num_samples = setup.predict.get("num_samples")
    return {
        "format_version": FORMAT_VERSION,
        "cell": {**cell.key, "adapter": cell.method.adapter, "posterior": cell.method.posterior},
        "settings": requested.settings,
        "deviations": list(setup.deviations),
        "split": rows.split,
        "num_classes": num_classes(rows.reported),
        "num_train": num_train,
        "num_held_out": num_held_out,
        "num_reported": len(rows.reported),
        "num_ood": {name: len(examples) for name, examples in rows.ood.items()},
        "dropped": dict(rows.dropped),
        "steps": {"protocol": setup.steps, "at_most": steps},
        "prompt_hash": _prompt_hash(clf, rows.reported),
        "num_parameters": int(record.results.get("adapter", {}).get("num_parameters", 0)),
        "passes": num_passes(setup.posterior, num_samples, record.num_members),
        "peak_memory_bytes": _peak_memory(),
        "versions": dict(record.versions),
        "processor": _processor(),
    }


def _scores(
    predictions: Predictions,
    ood: Mapping[str, Predictions],
    shifted: Mapping[str, Predictions],
    num_bins: int,
    clusters: str | None,
) -> dict[str, Any]:
    """Return all scores of the reported rows, of labelled OOD sets and of corrupted rows."""
    from bayeslora.metrics.evaluate import evaluate

    results = {
        REPORTED: evaluate(predictions, ood, num_bins=num_bins, cluster_by=clusters),
        **{
            name: evaluate(labelled, num_bins=num_bins)
            for name, labelled in ood.items()
            if labelled.labelled.any()
        },
        **{
            name: evaluate(moved, num_bins=num_bins, cluster_by=clusters)
            for name, moved in shifted.items()
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


def _prompt_hash(clf: BayesianClassifier, rows: Examples) -> str:
    """Return the SHA-256 of the first 100 texts or questions as the model reads them."""
    from bayeslora.backbones.template import Template
    from bayeslora.engine import formats

    reading = clf.record.backbone
    template = Template(reading.get("template") or "{text}")
    if rows.choices is not None:
        return formats.prompt_hash(reading["format"], template, rows)
    digest = hashlib.sha256()
    pairs: Sequence[str | None] = rows.pairs or [None] * len(rows)
    for text, pair in islice(zip(rows.texts, pairs, strict=True), _HASHED_PROMPTS):
        digest.update(template.filled(text, pair).whole.encode() + b"\1")
    return digest.hexdigest()


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
