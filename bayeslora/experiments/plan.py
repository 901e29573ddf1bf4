"""The plan of a grid: all checks of its cells that need no weights, and what they will take.

Time and memory are what finished cells of the same task, backbone, method and number of rows took;
before the first of them, the number of networks to train says which cells are long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.errors import InputError
from bayeslora.experiments.cells import Setup, Workshop
from bayeslora.experiments.grid import Cell, Grid
from bayeslora.experiments.search import check_search, division
from bayeslora.posteriors.base import FEW_ROWS
from bayeslora.tasks.corruptions import corrupted
from bayeslora.tasks.examples import class_names, encode_labels

if TYPE_CHECKING:
    from bayeslora.backbones.load import Backbone

_AUTO_ROWS, _AUTO_PARTS = 128, 5


@dataclass(frozen=True)
class Plan:
    """A checked grid.

    Attributes:
        grid: The grid.
        settings: The settings of each cell, JSON-ready.
        deviations: Deviations of each cell from its protocol.
        fits: Number of networks that each cell trains in full.
        finished: Records of the finished cells in the directory of the experiment.
        missing: What this machine lacks, in sentences.
    """

    grid: Grid
    settings: Mapping[Cell, dict[str, Any]]
    deviations: Mapping[Cell, tuple[str, ...]]
    fits: Mapping[Cell, int]
    finished: Sequence[Mapping[str, Any]] = ()
    missing: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values, with one entry for all seeds of a cell."""
        groups: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in self.settings:
            groups.setdefault(_but_seed(cell.key), []).append(cell)
        return {
            "protocol": self.grid.protocol.name,
            "protocol_settings": self.grid.protocol.settings(),
            "num_cells": len(self.settings),
            "cells": [self._entry(key, cells) for key, cells in groups.items()],
            "missing": list(self.missing),
        }

    def _entry(self, key: tuple[Any, ...], cells: Sequence[Cell]) -> dict[str, Any]:
        """Return the entry of cells that differ in their seed."""
        alike = [record for record in self.finished if _but_seed(record["cell"]) == key]
        seeds = {cell.seed for cell in cells}
        seconds = [
            record["seconds"]["fit"]
            + record["seconds"]["predict_per_1000"] * record["num_reported"] / 1000
            for record in alike
        ]
        return {
            **{name: value for name, value in cells[0].key.items() if name != "seed"},
            "seeds": len(cells),
            "finished": sum(record["cell"]["seed"] in seeds for record in alike),
            "fits": self.fits[cells[0]],
            "seconds": sum(seconds) / len(seconds) if seconds else None,
            "memory_bytes": max((record["peak_memory_bytes"] for record in alike), default=None),
            "deviations": list(self.deviations[cells[0]]),
        }


def _but_seed(key: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the parts of a cell's key that are not its seed."""
    return tuple(key[name] for name in ("protocol", "task", "backbone", "method", "rows"))


def made_plan(
    workshop: Workshop, cells: Sequence[Cell], finished: Sequence[Mapping[str, Any]] = ()
) -> Plan:
    """Check cells and count what they train.

    Args:
        workshop: The workshop of the grid.
        cells: Cells of the grid.
        finished: Records of finished cells, which tell time and memory.

    Raises:
        InputError: A cell is impossible, or its rows cannot be read.
    """
    if workshop.grid.search is not None:
        check_search(workshop.grid)
    setups = {cell: check_cell(workshop, cell) for cell in cells}
    _check_effects([*setups.values()], workshop.grid)
    return Plan(
        workshop.grid,
        {cell: setup.settings() for cell, setup in setups.items()},
        {cell: setup.deviations for cell, setup in setups.items()},
        {cell: _num_fits(setup) for cell, setup in setups.items()},
        finished,
    )


def missing_backbones(grid: Grid) -> list[str]:
    """Return a sentence for each backbone that is not available; no weights are read."""
    from bayeslora.backbones.embedded import EMBEDDED_MODELS, embedded_directory
    from bayeslora.backbones.load import source_of
    from bayeslora.foreign import check_reachable

    missing = []
    for name in dict.fromkeys(cell.backbone for cell in grid.cells):
        try:
            if name in EMBEDDED_MODELS:
                embedded_directory(name)
            else:
                check_reachable(source_of(name))
        except InputError as error:
            missing.append(str(error))
    return missing


def _num_fits(setup: Setup) -> int:
    """Return the networks that are trained in full; the last epochs on all rows are few."""
    fit, posterior, rows = setup.fit, setup.posterior, len(setup.train)
    folds: Any = fit.get("cv")
    if folds is None:
        scales = setup.adapter.trains or rows > FEW_ROWS
        folds = "auto" if posterior.scales_logits and not fit.get("hold_out") and scales else 0
    if folds == "auto":
        needed = math.ceil(_AUTO_ROWS * _AUTO_PARTS / rows)
        folds = _AUTO_PARTS if fit.get("keep_folds") else min(_AUTO_PARTS, needed)
    trials = 0 if setup.search is None else setup.search.trials
    parts = int(folds) or 1 + bool(fit.get("refit"))
    return trials + posterior.num_members * parts


def check_cell(workshop: Workshop, cell: Cell) -> Setup:
    """Return the setup of a cell after checking its fit and its predictions.

    Checks that need a tokenizer run only if the backbone is on this machine.

    Raises:
        InputError: The cell is impossible; the message names it.
    """
    from bayeslora.classifier import BayesianClassifier

    class Checked(BayesianClassifier):
        """Ends a fit at the point of loading the backbone."""

        def _load_backbone(self, name: str | None = None) -> Backbone:
            raise _ChecksPassedError

    try:
        setup = workshop.setup(cell)
        clf = setup.classifier(Checked, cell.backbone)
        clf.fit(setup.train, **setup.fit)
    except _ChecksPassedError:
        try:
            _check_predictions(setup)
            _check_reading(workshop, setup)
        except InputError as error:
            raise error.within(f"cell {cell}") from None
        return setup
    except (InputError, TypeError) as error:
        raise InputError(f"cell {cell}: {error}") from None
    raise AssertionError("the fit ended without a backbone")


class _ChecksPassedError(Exception):
    """All checks have passed."""


def _check_effects(setups: Sequence[Setup], grid: Grid) -> None:
    """Raise InputError for an option of `predict` that no method of the grid has."""
    for key in grid.predict:
        if not any(key in setup.predict for setup in setups):
            raise InputError(
                f"predict: {key} has no effect: no method of the grid has this option",
                code="no-effect",
            )


def _check_predictions(setup: Setup) -> None:
    """Raise InputError for options or rows that the fitted model would refuse."""
    from bayeslora.engine.data import check_images, check_questions, classes_with, most_options
    from bayeslora.engine.fitted.pieces import Drawing

    Drawing.of(setup.posterior, **setup.predict)
    if setup.search is not None:
        try:
            division(setup, setup.search.hold_out)
        except InputError as error:
            raise error.within(f"search: hold_out {setup.search.hold_out}") from None
    for corruption in setup.corruptions.values():
        corrupted(setup.rows.reported.take([0]), corruption)
    form, fitted = _format(setup), class_names(setup.train)
    for name, rows in {setup.rows.split: setup.rows.reported, **setup.rows.ood}.items():
        try:
            check_images(rows, images=setup.train.images)
            check_questions(form, fitted, rows)
            classes = classes_with(form, fitted, most_options(rows))
            if rows is setup.rows.reported:  # an OOD set may have other labels
                encode_labels(rows, classes)
        except InputError as error:
            raise error.within(name) from None


def _check_reading(workshop: Workshop, setup: Setup) -> None:
    """Raise InputError if a backbone on this machine cannot read the rows in their format."""
    from bayeslora.backbones.template import Template
    from bayeslora.engine.data import check_images
    from bayeslora.engine.formats import check_letters, letters_template

    name, train = setup.cell.backbone, setup.train
    if name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
        raise InputError(f"backbone {name} does not exist")
    by_letter = _format(setup) == "letters"
    modules = getattr(setup.adapter, "target_modules", None)
    if not _is_here(name, needed=bool(by_letter or modules or train.images)):
        return
    kind, tokenizer = workshop.reader(name)
    if modules and setup.adapter.trains:
        setup.adapter.targets(workshop.skeleton(name))
    check_images(train, images=kind == "vision")
    if by_letter:
        custom = setup.model.get("template")
        has_context = train.pairs is not None
        template = letters_template(pairs=has_context) if custom is None else Template(custom)
        check_letters(name, kind, tokenizer, template, len(class_names(train)))


def _is_here(name: str, *, needed: bool) -> bool:
    """Return whether a backbone is a directory, or an installed embedded one that is needed."""
    from bayeslora.backbones.embedded import EMBEDDED_MODELS, installed_file

    if name in EMBEDDED_MODELS:
        return needed and installed_file(name) is not None
    return (Path(name) / "config.json").is_file()


def _format(setup: Setup) -> Any:
    """Return the format of questions; None for texts."""
    return None if setup.train.choices is None else setup.model.get("format") or "options"
