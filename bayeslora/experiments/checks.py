"""All checks of cells that need no weights, run before the first cell is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.data.corruptions import corrupted
from bayeslora.data.examples import class_names, encode_labels
from bayeslora.errors import InputError
from bayeslora.experiments.search import division

if TYPE_CHECKING:
    from bayeslora.backbones.load import Backbone
    from bayeslora.experiments.cells import Setup, Workshop
    from bayeslora.experiments.grid import Cell, Grid


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


def check_effects(setups: Sequence[Setup], grid: Grid) -> None:
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
