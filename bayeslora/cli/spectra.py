"""Models whose adapters a report shows: checked without their backbones, loaded when asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import LOADING, add_loading, add_moved_backbone, given
from bayeslora.errors import InputError

if TYPE_CHECKING:
    from bayeslora.adapters.spectrum import SiteSpectrum


class Spectra(Mapping[str, "list[list[SiteSpectrum]]"]):
    """Spectra by the model's label; a model is loaded when its spectrum is taken, and let go.

    So a report refuses everything else that it must before a backbone is loaded.
    """

    def __init__(self, models: Mapping[str, Path], loading: Mapping[str, Any]) -> None:
        self._models = models
        self._loading = loading

    def __getitem__(self, label: str) -> list[list[SiteSpectrum]]:
        """Return what the model's `spectrum()` does.

        Raises:
            InputError: The model cannot be loaded; the message names its directory and says why.
        """
        from bayeslora.classifier import BayesianClassifier

        path = self._models[label]
        try:
            clf = BayesianClassifier.from_pretrained(path, progress=False, **self._loading)
            return clf.spectrum()
        except InputError as error:
            raise _refused(path, error) from None

    def __iter__(self) -> Iterator[str]:
        """Iterate over the labels."""
        return iter(self._models)

    @property
    def directories(self) -> tuple[Path, ...]:
        """Where the models are."""
        return tuple(self._models.values())

    def __len__(self) -> int:
        """Return the number of models."""
        return len(self._models)

    def fingerprints(self) -> dict[str, str]:
        """Return each model's directory and fingerprint by its label, without loading backbones.

        Raises:
            InputError: The model's own files are damaged.
        """
        from bayeslora.checkpoint import read_model

        found = {}
        for label, path in self._models.items():
            try:
                found[label] = f"{path} (fingerprint {read_model(path).fingerprint})"
            except InputError as error:
                raise _refused(path, error) from None
        return found


def add_spectrum(parser: argparse.ArgumentParser) -> None:
    """Add the option that names models, and those that say how they are loaded."""
    group = parser.add_argument_group("adapters")
    group.add_argument(
        "--spectrum",
        action="append",
        default=[],
        metavar="[LABEL=]MODEL",
        help="a model directory: show what its adapter changed, layer by layer; loads the model "
        "(default label: the directory's name)",
    )
    add_moved_backbone(group)
    add_loading(group)


def spectra_of(args: argparse.Namespace) -> Spectra:
    """Return the models that `--spectrum` names, as far as can be told not to be refused.

    Raises:
        InputError: One is no model of ours, has no adapter or shares its label, or there is none
            but an option says how to load it.
    """
    loading = given(args, *LOADING)
    if loading and not args.spectrum:
        option = next(iter(loading)).replace("_", "-")
        raise InputError(f"--{option} is about the models of --spectrum; give --spectrum with it")
    return Spectra(_labelled(args.spectrum), loading)


def _labelled(options: Sequence[str]) -> dict[str, Path]:
    models: dict[str, Path] = {}
    for option in options:
        label, path = _parts(option)
        _check(path)
        if label in models:
            raise InputError(
                f"--spectrum {option}: {label!r} is {models[label]} already; say LABEL=MODEL"
            )
        models[label] = path
    return models


def _parts(option: str) -> tuple[str, Path]:
    """Return label and directory; a directory that has an equals sign in its path is one."""
    label, equals, path = option.partition("=")
    if not equals or Path(option).is_dir():
        return Path(option).resolve().name, Path(option)
    if not (label and path):
        raise InputError(f"--spectrum {option}: expected MODEL or LABEL=MODEL")
    return label, Path(path)


def _check(path: Path) -> None:
    from bayeslora.checkpoint import read_record

    try:
        record = read_record(path)
    except InputError as error:
        raise _refused(path, error) from None
    if record.adapter is None:
        raise _refused(path, "it has no adapter of ours, so no weight was changed")


def _refused(path: Path, reason: object) -> InputError:
    return InputError(f"--spectrum {path}: {reason}")
