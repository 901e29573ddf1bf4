"""`bayeslora calibrate`: fit a posterior to a finished classifier, without changing its weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bayeslora.cli.arguments import (
    CLASSIFIER,
    add_loading,
    add_options,
    add_out,
    add_parameters,
    add_rows,
    given,
    refuse,
)
from bayeslora.cli.data import (
    column_options,
    columns_for,
    files_of,
    labelled_rows,
    settle_tasks,
)
from bayeslora.cli.output import (
    SCORE_NAMES,
    before_and_after,
    check_new_directory,
    hint_to_predict,
    print_columns,
    print_json,
    show,
    show_last,
)
from bayeslora.cli.parser import VerbParser
from bayeslora.errors import InputError
from bayeslora.io.files import real_path

if TYPE_CHECKING:
    from pathlib import Path

    from bayeslora.checkpoint import ModelRecord
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.engine.fitted.calibrate import SideBySide
    from bayeslora.posteriors.base import Posterior

DEFAULT_POSTERIOR = "laplace"


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a Hugging Face sequence classifier, a PEFT checkpoint, or a bayeslora model "
        "directory",
    )
    parser.add_argument(
        "train",
        nargs="?",
        metavar="TRAIN",
        help="labelled examples, preferably held out: MODEL makes too few errors on its training "
        "data",
    )
    add_out(parser, "DIR output directory")
    add_options(
        parser,
        {
            "--posterior NAME[:KEY=VALUE,…]": "posterior of the last layer, or `laplace_lora` or "
            "`tfb` for the adapter of a bayeslora model or a LoRA checkpoint; see `bayeslora "
            "methods`. `best` chooses the lowest cross-validated NLL on TRAIN among mle, "
            f"temperature, laplace and vbll (default: {DEFAULT_POSTERIOR})",
        },
    )
    parser.add_argument(
        "--validation",
        action="append",
        metavar="[NAME=]FILE",
        help="held-out rows, used to choose options of the posterior, such as a prior, and to "
        "compute scores; with --multi-task one file per task, as NAME=FILE",
    )
    add_parameters(parser, f"{CLASSIFIER}.calibrate", "hold_out SHARE")
    add_options(
        parser,
        {
            "--layer NAME": "name of the final linear layer, if it is not found automatically",
            "--classes A,B[,…]": "class names in index order, if MODEL has no names or other "
            "names than the data",
            "--new-classes": "TRAIN has a few rows of new classes: fit the last layer to these "
            "rows only, and merge a pool of adapters (amt) again. MODEL must be a bayeslora "
            "model; its posterior is the default",
        },
    )
    add_loading(parser, "trust_remote_code")
    add_rows(parser, "TRAIN", "{}, or that of a bayeslora model")
    add_parameters(parser.further, f"{CLASSIFIER}.calibrate", "feature_scores")
    add_parameters(parser.further, f"{CLASSIFIER}.from_transformers", "max_length")
    add_loading(parser.further, "backbone", "device")


def run(args: argparse.Namespace) -> None:
    """Check the output, the options and the rows; then load, fit, save and print."""
    from bayeslora.engine.fitted.calibrate import check_calibration
    from bayeslora.posteriors.registry import BEST, resolve_posterior

    settle_tasks(args, "train")
    if args.train is None and args.multi_task is None:
        raise InputError(
            "TRAIN is missing; for a model of several tasks use --multi-task NAME=FILE"
        )
    check_new_directory(args.out, overwrite=args.overwrite, inputs=_inputs(args))
    if args.new_classes:
        _adapt(args)
        return
    posterior = None
    if args.posterior != BEST:
        posterior = resolve_posterior(args.posterior or DEFAULT_POSTERIOR)
    # Before the rows are read and the model is loaded.
    hold_out = 0.0 if args.hold_out is None else args.hold_out
    validated = args.validation is not None
    check_calibration(posterior, args.feature_scores, hold_out, validated=validated)
    record = _own_record(args)
    columns = columns_for(args, record)
    if record is None and args.multi_task is not None:
        raise InputError("MODEL was not fitted to several tasks; use TRAIN instead of --multi-task")
    train, validation = (
        labelled_rows(files, args, columns, record)
        for files in (args.multi_task or args.train, args.validation)
    )

    classifier = _load(args, posterior, is_ours=record is not None)
    options = given(args, "feature_scores", "hold_out") | column_options(args)
    classifier.calibrate(train, validation, posterior=posterior or BEST, **options)
    classifier.save_pretrained(args.out, overwrite=bool(args.overwrite))
    _show(args, classifier)


def _adapt(args: argparse.Namespace) -> None:
    """Save a classifier for new classes, fitted to a few rows of them."""
    from bayeslora.engine.fitted.card import fit_words
    from bayeslora.posteriors.registry import resolve_posterior

    idle = ("validation", "hold_out", "feature_scores", "multi_task")
    refuse(args, idle, "has no effect with --new-classes; remove it", "no-effect")
    posterior = None if args.posterior is None else resolve_posterior(args.posterior)
    record = _own_record(args)
    if record is None:
        raise InputError(f"--new-classes requires a bayeslora model, but {args.model} is not one")
    rows = labelled_rows(args.train, args, columns_for(args, record), None)
    classifier = _load(args, None, is_ours=True)
    adapted = classifier.adapt(rows, posterior=posterior)
    adapted.save_pretrained(args.out, overwrite=bool(args.overwrite))
    if args.json:
        print_json({"model": str(args.out), "classes": list(adapted.classes)})
        return
    print_columns([("model", str(args.out)), ("classes", ", ".join(adapted.classes))])
    show_last(f"Saved {args.out}: {len(adapted.classes)} new classes, {fit_words(adapted.record)}")
    hint_to_predict(args.out, args.train)


def _inputs(args: argparse.Namespace) -> list[str | Path]:
    """Return the files and directories that the new model depends on."""
    from bayeslora.backbones.embedded import directories
    from bayeslora.checkpoint import is_model, read_record

    backbone = args.backbone
    if backbone is None and is_model(args.model):
        backbone = read_record(args.model).backbone["name"]
    files = files_of(args.train, args.multi_task, args.validation)
    # The new model may replace the old one, but not contain it.
    model = [] if real_path(args.model) == real_path(args.out) else directories(args.model)
    return [*files, *model, *directories(backbone)]


def _own_record(args: argparse.Namespace) -> ModelRecord | None:
    """Return the record of a bayeslora model; None if MODEL is another classifier."""
    from bayeslora.checkpoint import is_model, read_record

    if not is_model(args.model):
        if args.backbone is not None:
            raise InputError(f"--backbone requires a bayeslora model, but {args.model} is not one")
        return None
    fixed = ("layer", "classes", "max_length")
    refuse(args, fixed, f"is fixed in the bayeslora model {args.model}; remove it")
    return read_record(args.model)


def _load(
    args: argparse.Namespace, posterior: Posterior | None, *, is_ours: bool
) -> BayesianClassifier:
    """Load the classifier; a foreign one predicts with its own softmax."""
    from bayeslora.backbones.peft_classifier import is_peft
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.engine.build import check_last_layer

    if posterior is not None:
        check_last_layer(posterior, adapted=is_ours or is_peft(args.model))
    loading = {**given(args, "device", "trust_remote_code"), "progress": not args.quiet}
    if is_ours:
        return BayesianClassifier.from_pretrained(args.model, **loading, **given(args, "backbone"))
    foreign = given(args, "layer", "max_length")
    if args.classes is not None:
        foreign["classes"] = [name.strip() for name in args.classes.split(",")]
    # A checkpoint's adapters are merged unless the posterior is over them.
    start = posterior if posterior is not None and posterior.over_trained else "mle"
    return BayesianClassifier.from_transformers(args.model, start, **loading, **foreign)


def _show(args: argparse.Namespace, classifier: BayesianClassifier) -> None:
    """Print what was chosen and measured, and a summary line."""
    from bayeslora.engine.fitted.card import CHOSEN_ON, fit_words, is_cross_fitted, shown_value

    record, scores = classifier.record, classifier.validation_scores
    chosen, calibration = record.results["posterior"], record.results["calibration"]
    layer, compared = record.backbone.get("layer"), record.results.get("comparison")
    if args.json:
        named = zip(("before", "after"), scores or (), strict=False)
        content = {name: result.to_json() for name, result in named}
        about = {"layer": layer, "posterior": record.posterior, "chosen": chosen}
        if compared is not None:
            content["comparison"] = compared
        content = {"calibration": calibration, **content}
        print_json({"model": str(args.out), **about, **content})
        return
    posterior = f"{record.posterior['name']}, {fit_words(record)}"
    rows = [("model", str(args.out)), ("posterior", posterior)]
    if layer is not None:
        rows.append(("layer", layer))
    accuracy = f"{calibration['accuracy']:.3f}; optimistic if the network was trained on these rows"
    rows.append((f"accuracy on {calibration['rows']:,} calibration rows", accuracy))
    if share := calibration.get("hold_out"):
        origin = f"held out of TRAIN (share {share:g}, seed {record.seed})"
        rows.append(("validation rows", f"{calibration['validation_rows']:,}, {origin}"))
    chooses_prior = record.posterior.get("prior_precision") == "validation"
    if chooses_prior and not calibration["validation_rows"]:
        rows.append(("prior", "the default; use --validation or --hold-out to choose it"))
    rows += [(key.replace("_", " "), shown_value(value)) for key, value in chosen.items()]
    # The scores of a comparison that cross-fits these rows replace the validation scores.
    if scores is not None and not is_cross_fitted(record.results):
        rows += before_and_after(f"validation ({CHOSEN_ON})", *scores)
    print_columns(rows)
    race = classifier.side_by_side
    measured = "" if race is None else _show_side_by_side(race)
    show_last(f"Saved {args.out}: {posterior}{measured}")
    if args.task is None and args.multi_task is None:
        hint_to_predict(args.out, args.train)


def _show_side_by_side(race: SideBySide) -> str:
    """Print the comparison of posteriors, lowest NLL first; return its result in words."""
    from bayeslora.engine.fitted.card import how_compared
    from bayeslora.posteriors.registry import own_softmax
    from bayeslora.reporting.text import shown

    rows = [("posterior", *SCORE_NAMES.values(), "ΔNLL vs. chosen")]
    for row in race.comparison.rows:
        is_chosen = row.name == race.chosen
        difference = "chosen" if is_chosen else shown(row.differences["nll"])
        rows.append((row.name, *(shown(row.scores[key]) for key in SCORE_NAMES), difference))
    show(f"\n{how_compared(race.to_json())}. 95 % intervals in brackets:\n")
    print_columns(rows)
    nll = {row.name: row.scores["nll"].value for row in race.comparison.rows}
    chosen, baseline = nll.pop(race.chosen), nll.get(own_softmax().name)
    against = "" if baseline is None else f" (the network's own softmax: {baseline:.3f})"
    return f", held-out NLL {chosen:.3f} nats{against}"
