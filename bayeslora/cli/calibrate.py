"""`bayeslora calibrate`: fit a posterior to a finished classifier, without changing its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bayeslora.cli import arguments, data, output
from bayeslora.cli.arguments import CLASSIFIER, LOADED, PLACE, argument, given, option, refuse
from bayeslora.errors import InputError
from bayeslora.io import check_writable, real_path, refuse_inputs, refuse_target

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.posteriors.base import Posterior


class Options(arguments.Rows, arguments.Overwriting):
    """Arguments of the verb."""

    model: str = argument("MODEL", "model")
    """a Hugging Face sequence classifier, a PEFT checkpoint, or a bayeslora model directory"""
    train: Any = argument("TRAIN", "train", nargs="?")
    """labelled examples, preferably held out: MODEL makes too few errors on its training data"""
    out: str = option("DIR", required=True)
    """output directory"""
    posterior: Any = option(arguments.METHOD)
    """posterior of the last layer, or `laplace_lora` or `tfb` for the adapter of a bayeslora model
    or a LoRA checkpoint; see `bayeslora methods`. `best`, the default, chooses the lowest
    cross-validated NLL on TRAIN among mle, temperature, laplace and vbll; for fewer rows than it
    needs, the default is laplace"""
    validation: Any = option("[NAME=]FILE", action="append")
    """held-out rows, used to choose options of the posterior, such as a prior, and to compute
    scores; with --multi-task one file per task, as NAME=FILE"""
    hold_out: Any = option("SHARE", f"{CLASSIFIER}.calibrate")
    layer: str | None = option("NAME")
    """name of the final linear layer, if it is not found automatically"""
    classes: str | None = option("A,B[,…]")
    """class names in index order, if MODEL has no names or other names than the data"""
    trust_remote_code: bool = option(of=PLACE)
    feature_scores: list[str] | None = option(of=f"{CLASSIFIER}.calibrate", further=True)
    max_length: Any = option(of=f"{CLASSIFIER}.from_transformers", further=True)
    backbone: str | None = option(of=LOADED, further=True)
    device: str | None = option(of=PLACE, further=True)


def run(args: Options) -> None:
    """Check the output, the options and the rows; then load, fit, save and print."""
    from bayeslora.engine.calibrate import check_calibration
    from bayeslora.posteriors.registry import BEST, resolve_posterior

    data.settle_tasks(args, "train")
    if args.train is None:
        raise InputError("TRAIN is missing; for several tasks use --multi-task NAME=FILE")
    record = _own_record(args)
    _check_out(args, record)
    # Before the rows are read and the model is loaded.
    posterior: Posterior | None = None
    if args.posterior not in (None, BEST):
        posterior = resolve_posterior(args.posterior)
    validated = args.validation is not None
    check_calibration(posterior, args.feature_scores, args.hold_out or 0.0, validated=validated)
    train, validation = data.training_rows(args, record)
    classifier = _load(args, posterior, is_ours=record is not None)
    options = given(args, "feature_scores", "hold_out") | data.column_options(args)
    classifier.calibrate(train, validation, posterior=posterior or BEST, **options)
    classifier.save_pretrained(args.out, overwrite=bool(args.overwrite))
    _show(args, classifier)


def _check_out(args: Options, record: ModelRecord | None) -> None:
    """Check the output against the files and directories that the new model depends on."""
    from bayeslora.backbones.embedded import directories
    from bayeslora.checkpoint import LAYOUTS

    refuse_target(args.out, *LAYOUTS, overwrite=args.overwrite)
    backbone = args.backbone if record is None else args.backbone or record.backbone["name"]
    # The new model may replace the old one, but not contain it.
    model = None if real_path(args.model) == real_path(args.out) else args.model
    files = data.files_of(args.train, args.validation)
    refuse_inputs(args.out, *files, *directories(model, backbone))
    check_writable(args.out)


def _own_record(args: Options) -> ModelRecord | None:
    """Return the record of a bayeslora model; None if MODEL is another classifier."""
    from bayeslora.checkpoint import is_model, read_record

    if not is_model(args.model):
        of_ours = ("backbone", "multi_task")
        refuse(args, of_ours, f"requires a bayeslora model, but {args.model} is not one")
        return None
    fixed = ("layer", "classes", "max_length")
    refuse(args, fixed, f"is fixed in the bayeslora model {args.model}; remove it")
    return read_record(args.model)


def _load(args: Options, posterior: Posterior | None, *, is_ours: bool) -> BayesianClassifier:
    """Load the classifier; a foreign one predicts with its own softmax."""
    from bayeslora.backbones.sequence import is_peft
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


def _show(args: Options, classifier: BayesianClassifier) -> None:
    """Print what was chosen and measured, and a summary line."""
    from bayeslora.engine import card
    from bayeslora.posteriors.registry import own_softmax
    from bayeslora.reporting.text import shown

    record, scores, race = classifier.record, classifier.validation_scores, classifier.side_by_side
    chosen, calibration = record.results["posterior"], record.results["calibration"]
    layer = record.backbone.get("layer")
    if args.json:
        content = {"model": str(args.out), "layer": layer, "posterior": record.posterior}
        content |= {"chosen": chosen, "calibration": calibration}
        if race is not None:
            content["comparison"] = record.results["comparison"]
        for name, result in zip(("before", "after"), scores or (), strict=False):
            content[name] = result.to_json()
        output.print_json(content)
        return
    posterior = f"{record.posterior['name']}, {card.fit_words(record)}"
    rows = [("model", str(args.out)), ("posterior", posterior)]
    if layer is not None:
        rows.append(("layer", layer))
    accuracy = f"{calibration['accuracy']:.3f}; optimistic if the network was trained on these rows"
    rows.append((f"accuracy on {calibration['rows']:,} calibration rows", accuracy))
    rows += [(key.replace("_", " "), card.shown_value(value)) for key, value in chosen.items()]
    if scores is not None:
        rows += output.before_and_after(f"validation ({card.CHOSEN_ON})", *scores)
    output.print_columns(rows)
    measured = ""
    if race is not None:
        how = card.how_compared(record.results["comparison"])
        output.show(f"\n{how}. 95 % intervals in brackets:\n")
        table = [("posterior", *output.SCORE_NAMES.values(), "ΔNLL vs. chosen")]
        for row in race.rows:
            scored = [shown(row.scores[key]) for key in output.SCORE_NAMES]
            difference = "chosen" if row.name == race.reference else shown(row.differences["nll"])
            table.append((row.name, *scored, difference))
        output.print_columns(table)
        nll = {row.name: row.scores["nll"].value for row in race.rows}
        measured = (
            f", cross-validated NLL {nll[race.reference]:.3f} nats "
            f"(the network's own probabilities: {nll[own_softmax().name]:.3f})"
        )
    output.show_last(f"Saved {args.out}: {posterior}{measured}")
