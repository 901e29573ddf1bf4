"""Computation of a cell: rows, fit, predictions, scores and the record."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.adapters.registry import resolve_adapter
from bayeslora.data.corruptions import Corruption, corrupted
from bayeslora.data.read import is_description, read_description
from bayeslora.errors import InputError, unknown_choice
from bayeslora.experiments.grid import Cell, Grid, Search, Task, named_options, set_part
from bayeslora.experiments.records import all_scores, prior_scores, recorded, reset_peak_memory
from bayeslora.experiments.rows import TaskRows, drawn, task_rows
from bayeslora.experiments.search import search_of, searched
from bayeslora.options import as_mapping
from bayeslora.posteriors.registry import resolve_posterior

if TYPE_CHECKING:
    from bayeslora.adapters.base import Adapter
    from bayeslora.backbones.load import Backbone, Kind
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.data.examples import Examples
    from bayeslora.posteriors.base import Posterior

_NOT_FIT_OPTIONS = frozenset(
    {"out", "overwrite", "text_column", "label_column", "pair_column", "progress"}
)
_NOT_MODEL_OPTIONS = frozenset({"seed", "progress"})


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

    def settings(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        from bayeslora.data.examples import data_hash

        data = {"train": self.train, self.rows.split: self.rows.reported, **self.rows.ood}
        return {
            "adapter": as_mapping(self.adapter),
            "posterior": as_mapping(self.posterior),
            "model": dict(self.model),
            "fit": dict(self.fit),
            "predict": dict(self.predict),
            "data": {name: data_hash(rows) for name, rows in data.items()},
            **({} if self.search is None else {"search": asdict(self.search)}),
            **({"corruptions": {"sets": [*self.corruptions]}} if self.corruptions else {}),
        }

    def classifier(self, kind: Any, backbone: Any, *, progress: bool = False) -> BayesianClassifier:
        """Return the unfitted classifier.

        Args:
            kind: `BayesianClassifier` or a subclass.
            backbone: A name or a loaded backbone.
            progress: Whether it shows progress bars.
        """
        clf: BayesianClassifier = kind(
            backbone,
            self.adapter,
            self.posterior,
            seed=self.cell.seed,
            progress=progress,
            **self.model,
        )
        return clf


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
        self._rows: dict[str, TaskRows] = {}
        self._readers: dict[str, tuple[Kind, Any]] = {}
        self._skeletons: dict[str, Any] = {}
        self._backbone: tuple[str, Backbone] | None = None

    @cached_property
    def _allowed(self) -> tuple[frozenset[str], frozenset[str]]:
        """Options of `fit` and of `BayesianClassifier` that a grid may set."""
        from bayeslora.classifier import BayesianClassifier

        fit = frozenset(BayesianClassifier.fit.__kwdefaults__ or ()) - _NOT_FIT_OPTIONS
        model = frozenset(BayesianClassifier.__init__.__kwdefaults__ or ()) - _NOT_MODEL_OPTIONS
        return fit, model

    def rows(self, task: str) -> TaskRows:
        """Return the rows of a task, read once.

        Raises:
            InputError: They cannot be read.
        """
        if task not in self._rows:
            grid = self.grid
            form = grid.model.get("format", grid.protocol.format)
            self._rows[task] = task_rows(
                grid.tasks[task], grid.protocol, self._data_dir, by_letter=form == "letters"
            )
        return self._rows[task]

    def setup(self, cell: Cell) -> Setup:
        """Return the setup of a cell, without fitting anything.

        Raises:
            InputError: A name, an option or a file is wrong.
        """
        fit_keys, model_keys = self._allowed
        grid, rows = self.grid, self.rows(cell.task)
        for section, options, allowed in (
            ("fit", {**grid.fit, **cell.method.fit}, fit_keys),
            ("model", grid.model, model_keys),
        ):
            if unknown := [key for key in options if key not in allowed]:
                raise unknown_choice(f"key of {section}", unknown[0], allowed)
        train = rows.train if cell.rows is None else drawn(rows.train, cell.rows, cell.seed)
        deviations = [*grid.protocol.deviations, *rows.deviations]
        adapter = self._adapter(cell, deviations)
        posterior = resolve_posterior(cell.method.posterior)
        fit = self._fit_options(cell, adapter, len(train), deviations)
        model = self._model_options(grid.tasks[cell.task], train, deviations)
        predict = self._predict_options(cell, posterior, deviations)
        steps = grid.protocol.steps if adapter.trains else None
        return Setup(
            *(cell, adapter, posterior, model, fit, predict, train, rows, steps),
            search=search_of(grid, adapter, posterior),
            corruptions={
                f"{corruption.kind}:{corruption.severity}": replace(corruption, seed=cell.seed)
                for corruption in grid.corruptions
            },
            deviations=tuple(deviations),
        )

    def _adapter(self, cell: Cell, deviations: list[str]) -> Adapter:
        """Return the adapter with the protocol's options, unless the grid sets others."""
        adapter: Adapter = resolve_adapter(cell.method.adapter)
        protocol, named = self.grid.protocol, named_options(cell.method.adapter)
        if not protocol.adapter:
            return adapter
        if not adapter.trains:
            deviations.append("training: the last layer alone is fitted, on frozen features")
            return adapter
        expected: dict[str, Any] = {**protocol.adapter}
        if protocol.all_layers:
            expected["num_layers"] = None
        current = as_mapping(adapter)
        changes = {}
        for key, value in expected.items():
            if key not in current:
                if value:
                    deviations.append(f"{key}: adapter {adapter.name} has no such option")
            elif key not in named:
                changes[key] = value
            elif current[key] != value:
                deviations.append(f"{key}: {current[key]} by the grid, {value} by the protocol")
        return replace(adapter, **changes)  # type: ignore[type-var]

    def _fit_options(
        self, cell: Cell, adapter: Adapter, num_train: int, deviations: list[str]
    ) -> dict[str, Any]:
        protocol = self.grid.protocol
        expected: dict[str, Any] = {}
        if protocol.hold_out:
            expected["hold_out"] = protocol.hold_out
        if protocol.steps is not None:
            expected["cv"] = 0
        if adapter.trains and protocol.batch_size is not None:
            expected["batch_size"] = protocol.batch_size
        options = {**self.grid.fit, **cell.method.fit}
        merged = _merged(expected, options, deviations)
        if protocol.steps is not None and adapter.trains and "epochs" not in options:
            per_epoch = -(-num_train // int(merged["batch_size"]))
            merged["epochs"] = max(1, round(protocol.steps / per_epoch))
            steps = merged["epochs"] * per_epoch
            if steps != protocol.steps:
                deviations.append(
                    f"steps: {steps:,} instead of {protocol.steps:,}, since training ends after "
                    f"whole epochs ({merged['epochs']})"
                )
        elif protocol.steps is not None and "epochs" in options:
            deviations.append(
                f"steps: {options['epochs']} epochs by the grid, {protocol.steps:,} steps by the "
                "protocol"
            )
        return merged

    def _model_options(self, task: Task, train: Examples, deviations: list[str]) -> dict[str, Any]:
        protocol = self.grid.protocol
        expected: dict[str, Any] = {}
        if protocol.max_length is not None:
            expected["max_length"] = protocol.max_length
        if protocol.all_layers:
            expected["depth"] = 1.0
        options = dict(self.grid.model)
        about = task.columns.get("task")
        if is_description(about) and (prompt := read_description(str(about)).prompt):
            expected["template"] = options.get("template", prompt)
        if train.choices is None:  # texts have no format
            options.pop("format", None)
        elif protocol.format is not None:
            expected["format"] = protocol.format
        return _merged(expected, options, deviations)

    def _predict_options(
        self, cell: Cell, posterior: Posterior, deviations: list[str]
    ) -> dict[str, Any]:
        protocol = self.grid.protocol
        expected: dict[str, Any] = {}
        draws = protocol.weight_samples if posterior.is_sampled else None
        if posterior.link is not None:
            draws = protocol.logit_samples
        options = dict(self.grid.predict)
        search = self.grid.search
        searched = search is not None and "posterior.num_samples" in search.ranges
        if searched or "num_samples" in named_options(cell.method.posterior):
            # The method's own number is more specific than that of the grid or the protocol.
            options.pop("num_samples", None)
            own = "searched" if searched else posterior.num_samples
            if draws not in (None, own):
                deviations.append(f"num_samples: {own} by the grid, {draws} by the protocol")
        elif draws is not None:
            expected["num_samples"] = draws
        if not (posterior.is_sampled or posterior.link):
            options.pop("num_samples", None)
        if posterior.link is None:
            options.pop("link", None)
        return _merged(expected, options, deviations)

    def reader(self, name: str) -> tuple[Kind, Any]:
        """Return the kind of a backbone on this machine and its tokenizer, read once.

        Raises:
            InputError: One of them cannot be read.
        """
        from bayeslora.backbones.load import model_kind, open_source, source_of

        if name not in self._readers:
            source = source_of(name)
            kind = model_kind(name, open_source("config", source))
            # Images need no tokenizer.
            tokenizer = None if kind == "vision" else open_source("tokenizer", source)
            self._readers[name] = kind, tokenizer
        return self._readers[name]

    def skeleton(self, name: str) -> Any:
        """Return the modules of a backbone on this machine, without weights, built once.

        Raises:
            InputError: Its configuration cannot be read.
        """
        import torch
        from transformers import AutoModel

        from bayeslora.backbones.load import open_source, source_of

        if name not in self._skeletons:
            config = open_source("config", source_of(name))
            with torch.device("meta"):
                self._skeletons[name] = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        return self._skeletons[name]

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
            options = {key: value for key, value in self.grid.model.items() if key in names}
            with quiet_transformers():
                self._backbone = (name, load_backbone(name, **options))
        return self._backbone[1]

    def run(self, cell: Cell, work: Path, fingerprint: str | None = None) -> dict[str, Any]:
        """Fit, predict and score a cell; return its record and write predictions to `work`.

        An interrupted fit resumes from its last checkpoint there.

        Args:
            cell: The cell.
            work: A directory of this cell alone.
            fingerprint: Expected hash of the backbone's weights, or None.

        Raises:
            InputError: The cell cannot be fitted, or the backbone has other weights.
        """
        from bayeslora.classifier import BayesianClassifier

        for left in work.glob("*.parquet"):  # predictions of an interrupted run
            left.unlink()
        setup = self.setup(cell)
        backbone = self.backbone(cell.backbone)
        if fingerprint not in (None, backbone.fingerprint):
            raise InputError(
                f"the weights of backbone {cell.backbone} differ from those of the finished "
                "cells; choose another --out"
            )
        requested = setup
        trials: list[dict[str, Any]] = []
        if setup.search is not None:
            setup, trials = searched(self, setup, setup.search, work)
        reset_peak_memory()
        begun = time.perf_counter()
        clf = setup.classifier(BayesianClassifier, backbone, progress=self._progress)
        clf.fit(setup.train, **setup.fit, out=work / "model", overwrite=True)
        fitted = time.perf_counter()
        rows = setup.rows
        keep = () if rows.clusters is None else (rows.clusters,)
        predictions = clf.predict(rows.reported, seed=cell.seed, keep=keep, **setup.predict)
        predicted = time.perf_counter()
        ood = {
            name: clf.predict(examples, seed=cell.seed, unknown_labels="ood", **setup.predict)
            for name, examples in rows.ood.items()
        }
        seconds = {
            "fit": fitted - begun,
            "predict_per_1000": 1000 * (predicted - fitted) / len(rows.reported),
        }
        shifted = {
            name: clf.predict(
                corrupted(rows.reported, corruption), seed=cell.seed, keep=keep, **setup.predict
            )
            for name, corruption in setup.corruptions.items()
        }
        record = recorded(requested, setup, clf, seconds, trials)
        bins = self.grid.protocol.num_bins
        record["backbone"]["dtype"] = backbone.dtype  # by default, what the processor computes in
        record["prior"] = prior_scores(predictions, setup.train, bins)
        record["scores"] = all_scores(predictions, ood, shifted, bins, rows.clusters)
        for name, result in {rows.split: predictions, **ood, **shifted}.items():
            notes = self._notes(setup)
            if name in shifted:
                notes |= setup.corruptions[name].notes
            named = replace(result, name=cell.method.name, metadata={**result.metadata, **notes})
            named.save(work / f"{set_part(name)}.parquet")
        shutil.rmtree(work / "model", ignore_errors=True)
        self._release()
        return record

    def _notes(self, setup: Setup) -> dict[str, str]:
        """Return the metadata that a report on the cell's predictions shows."""
        protocol, rows = self.grid.protocol, setup.rows
        return {
            "protocol": f"{protocol.name}: {protocol.described()}",
            "deviations": "; ".join(setup.deviations) or "none",
            "task": f"{setup.cell.task}, {rows.split}",
            "training_rows": str(len(setup.train)),
        }

    def _release(self) -> None:
        """Free the cached states of frozen layers in memory; the next cell reads them from disk."""
        if self._backbone is not None:
            self._backbone[1].prefix_states.clear()


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
