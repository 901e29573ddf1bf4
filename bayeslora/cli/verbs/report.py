"""`bayeslora report`: a self-contained page with figures, tables and findings.

Models whose adapters it shows are checked without their backbones, and loaded when needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import (
    LOADING,
    PART_OPTIONS,
    add_apart,
    add_examples,
    add_json,
    add_loading,
    add_moved_backbone,
    add_options,
    add_overwrite,
    add_parts,
    add_resampling,
    add_scored,
    given,
    refuse,
)
from bayeslora.cli.messages import show
from bayeslora.cli.outputs import print_json
from bayeslora.cli.runs import find
from bayeslora.errors import InputError, unknown_choice
from bayeslora.io.files import read_json, refuse_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bayeslora.adapters.spectrum import SiteSpectrum
    from bayeslora.predictions.collection import Method
    from bayeslora.reporting.run_record import Provenance


class Spectra(Mapping[str, "list[list[SiteSpectrum]]"]):
    """Spectra by model label; a model is loaded only while its spectrum is computed.

    A report thus checks all other inputs before a backbone is loaded.
    """

    def __init__(self, models: Mapping[str, Path], loading: Mapping[str, Any]) -> None:
        self._models = models
        self._loading = loading

    def __getitem__(self, label: str) -> list[list[SiteSpectrum]]:
        """Return the model's `spectrum()`.

        Raises:
            InputError: The model cannot be loaded; the message has its directory and the reason.
        """
        from bayeslora.classifier import BayesianClassifier

        path = self._models[label]
        try:
            clf = BayesianClassifier.from_pretrained(path, progress=False, **self._loading)
            return clf.spectrum()
        except InputError as error:
            raise _refused_model(path, error) from None

    def __iter__(self) -> Iterator[str]:
        """Iterate over the labels."""
        return iter(self._models)

    @property
    def directories(self) -> tuple[Path, ...]:
        """Directories of the models."""
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

        fingerprints = {}
        for label, path in self._models.items():
            try:
                fingerprints[label] = f"{path} (fingerprint {read_model(path).fingerprint})"
            except InputError as error:
                raise _refused_model(path, error) from None
        return fingerprints


def add_spectrum(parser: argparse.ArgumentParser) -> None:
    """Add the option for models to show, and the options for loading them."""
    group = parser.add_argument_group("adapters")
    group.add_argument(
        "--spectrum",
        action="append",
        default=[],
        metavar="[LABEL=]MODEL",
        help="show how much the adapter of this model changed each layer; loads the model; "
        "repeatable (default label: the directory's name)",
    )
    add_moved_backbone(group)
    add_loading(group)


def spectra_of(args: argparse.Namespace) -> Spectra:
    """Return the models of `--spectrum` after all checks that need no backbone.

    Raises:
        InputError: One is not a bayeslora model, has no adapter or shares its label, or a loading
            option is set without any model.
    """
    if not args.spectrum:
        refuse(args, LOADING, "has no effect without --spectrum")
    return Spectra(_labelled(args.spectrum), given(args, *LOADING))


def _labelled(options: Sequence[str]) -> dict[str, Path]:
    models: dict[str, Path] = {}
    for option in options:
        label, path = _label_and_directory(option)
        _check_model(path)
        if label in models:
            raise InputError(
                f"--spectrum {option}: label {label!r} is already used for {models[label]}; use "
                "LABEL=MODEL"
            )
        models[label] = path
    return models


def _label_and_directory(option: str) -> tuple[str, Path]:
    """Return label and directory; the path of a directory may contain an equals sign."""
    label, equals, path = option.partition("=")
    if not equals or Path(option).is_dir():
        return Path(option).resolve().name, Path(option)
    if not (label and path):
        raise InputError(f"--spectrum {option}: expected MODEL or LABEL=MODEL")
    return label, Path(path)


def _check_model(path: Path) -> None:
    from bayeslora.checkpoint import read_record

    try:
        record = read_record(path)
    except InputError as error:
        raise _refused_model(path, error) from None
    if record.adapter is None:
        raise _refused_model(path, "it has no bayeslora adapter, so no weights were changed")


def _refused_model(path: Path, reason: object) -> InputError:
    return InputError(f"--spectrum {path}: {reason}")


SUMMARY = "write a report on predictions: one HTML file that opens offline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser)
    parser.add_argument(
        "--shifted",
        nargs="+",
        default=[],
        metavar="FILE",
        help="predictions on corrupted copies of the same examples (`bayeslora predict "
        "--corrupt`): show calibration against severity (default: those in run directories)",
    )
    add_parts(parser)
    add_resampling(parser)
    add_apart(parser)
    _add_page(parser)
    add_overwrite(parser)
    add_spectrum(parser)
    _add_card(parser)
    add_json(parser)


def _add_page(parser: argparse.ArgumentParser) -> None:
    """Add the options for the page's directory and content."""
    parser.add_argument("--out", required=True, metavar="DIR", help="output directory")
    parser.add_argument(
        "--title",
        metavar="TEXT",
        help="title of the page (default: the names of one or two methods, or the number of "
        "methods)",
    )
    add_examples(parser)
    parser.add_argument(
        "--interactive",
        action="store_const",
        const=True,
        help="also write view.html, to filter and sort all examples in a browser",
    )
    parser.add_argument(
        "--figures",
        nargs="+",
        metavar="FORMAT",
        help="formats of the files in figures/: svg, png, pdf (default: svg)",
    )
    parser.add_argument(
        "--per-class",
        nargs="*",
        metavar="CLASS",
        help="also plot the reliability of each class against the rest, for all classes or the "
        "listed ones",
    )


def _add_card(parser: argparse.ArgumentParser) -> None:
    """Add the options for the model card to update with the scores."""
    card = parser.add_argument_group("model card")
    add_options(
        card,
        {
            "--model-card FILE": "add the reliability section and the metadata to this Hugging "
            "Face model card",
            "--card-method NAME": "method to describe in the card, if there are several",
            "--card-model NAME": "model name in the metadata (default: the first name in the "
            "card, else the name of its directory)",
            "--card-dataset NAME": "name of the data set in the card",
        },
    )


def run(args: argparse.Namespace) -> None:
    """Write the report and print the path of its page."""
    from bayeslora.reporting.model_card import read_card, scores_of_report, update_model_card
    from bayeslora.reporting.report import report

    _refuse_idle(args)
    scored = find(args, args.ood)
    about = ""
    if args.model_card is not None:
        read_card(args.model_card)
        about = _card_method(args.card_method, scored.methods())
    spectra = spectra_of(args)
    card = [] if args.model_card is None else [args.model_card]
    refuse_inputs(args.out, *card, *spectra.directories)
    provenance: Provenance = {"command": args.command}
    if spectra:
        provenance = {**provenance, "Adapters": spectra.fingerprints()}
    look = given(args, "examples", "example_column", "figures", "interactive")
    options = (
        given(args, "title", "ood_score", "num_bins", "seed", "over_seeds", *PART_OPTIONS) | look
    )
    if args.per_class is not None:
        options["per_class"] = args.per_class or True
    page = report(
        scored.files,
        ood=scored.ood,
        shifted=[*scored.shifted, *map(Path, args.shifted)],
        out=args.out,
        overwrite=bool(args.overwrite),
        spectrum=spectra or None,
        provenance=provenance,
        reading=scored.reading,
        **options,
    )
    if args.model_card is not None:
        named = {"model": args.card_model, "dataset": args.card_dataset}
        metadata = {key: value for key, value in named.items() if value is not None}
        update_model_card(Path(args.model_card), scores_of_report(page)[about], **metadata)
    _show(page, card, interactive=bool(args.interactive), as_json=args.json)


def _show(page: Path, card: Sequence[str], *, interactive: bool, as_json: bool) -> None:
    """Print the paths of the pages; JSON also has all files, and the scores as in `evaluate`."""
    from bayeslora.reporting.report import SCORES, VIEW

    if not as_json:
        show(page)
        if interactive:
            show(page.with_name(VIEW))
        return
    written = read_json(page.with_name(SCORES))
    files = [str(page.parent / name) for name in [*written["files"], SCORES]]
    print_json({"page": str(page), "files": [*files, *card], "methods": written["methods"]})


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raise InputError for an option that has no effect beside the others."""
    if args.example_column is not None and args.examples is False:
        raise InputError("--example-column has no effect with --no-examples")
    if args.model_card is None:
        of_card = ("card_method", "card_model", "card_dataset")
        refuse(args, of_card, "has no effect without --model-card")


def _card_method(name: str | None, methods: Sequence[Method]) -> str:
    """Return the label of the method described by the card."""
    labels = [method.label for method in methods]
    if name is None:
        if len(labels) > 1:
            known = ", ".join(labels)
            raise InputError(f"--model-card: choose a method with --card-method, one of {known}")
        return labels[0]
    if name in labels:
        return name
    same = [method.label for method in methods if method.name == name]
    if len(same) == 1:
        return same[0]
    raise unknown_choice("method in --card-method", name, labels)
