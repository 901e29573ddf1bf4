"""`bayeslora fit`: adapt a backbone to labelled texts and fit the posterior."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import (
    CLASSIFIER,
    add_fields,
    add_loading,
    add_options,
    add_overwrite,
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
    named_rows,
    reading,
    settle_tasks,
)
from bayeslora.cli.output import hint_to_predict, print_columns, print_json, show_last
from bayeslora.cli.parser import VerbParser
from bayeslora.engine.training_options import CHOSEN, TrainingSettings
from bayeslora.errors import InputError
from bayeslora.option_checks import KINDS
from bayeslora.plain_text import duration
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord

_OF_ROWS = ("cv", "keep_folds", "hold_out", "refit")
_READING = ("backbone", "max_length", "depth", "template", "verbaliser", "format")
_LOADING = ("seed", "dtype", "device", "trust_remote_code")
_NAMED = ("epochs", "batch_size", "report_to", *_OF_ROWS)
"""Options of training that have an option of their own; the others are set by `--set`."""


def add_arguments(parser: VerbParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "train",
        nargs="?",
        metavar="TRAIN",
        help=".jsonl, .json, .csv, .tsv or .parquet, also .gz; '-' for stdin; a directory or "
        ".npz file of images; with --task and a known task, the name of a split "
        "(default: train)",
    )
    parser.add_argument(
        "--validation",
        action="append",
        metavar="[NAME=]FILE",
        help="held-out examples, used to choose the epoch and options of the posterior; with "
        "--multi-task one file per task, as NAME=FILE",
    )
    add_options(
        parser,
        {
            "--out DIR": "output directory",
            "--backbone NAME": "minilm (used for texts if none is named), smollm2-135m (questions, "
            "--zero-shot), dinov2-s (images), a directory, a hub id, or auto: the installed one on "
            "whose frozen features a last layer has the lowest held-out NLL",
            "--adapter NAME[:KEY=VALUE,…]": "adapter and its options, such as polar:r=4,lr=2e-3; "
            "see `bayeslora methods` (default: polar)",
            "--posterior NAME[:KEY=VALUE,…]": "posterior and its options, such as "
            "vbll:prior_scale=2; see `bayeslora methods` (default: vbll)",
            "--quick": "fit only the last layer, on frozen features, in seconds; same as "
            "--adapter none",
        },
    )
    add_fields(parser, TrainingSettings, ["epochs", "seed"])
    add_overwrite(parser)
    add_fields(parser.add_argument_group("held-out rows"), TrainingSettings, _OF_ROWS)
    _add_model(parser.add_argument_group("model"))
    add_rows(parser, "TRAIN")
    further = [name for name in CHOSEN if name not in _NAMED]
    add_fields(parser.further, TrainingSettings, further)
    add_parameters(parser.further, f"{CLASSIFIER}.__init__", "format")
    add_parameters(parser.further, f"{CLASSIFIER}.fit", "feature_scores")
    add_parameters(parser.further, "bayeslora.classifier:Loading", "dtype")
    add_loading(parser.further, "device")


def _add_model(group: argparse._ArgumentGroup) -> None:
    add_options(
        group,
        {
            "--zero-shot": "classify with the language model itself, without training; the "
            "classes are those of --verbaliser CLASS=WORDS and of the labels in TRAIN, which is "
            "optional"
        },
    )
    group.add_argument(
        "--template",
        type=lambda text: text.replace("\\n", "\n"),  # as shells pass a line break
        metavar="TEXT",
        help=r"prompt around each text, such as 'Review: {text}\nSentiment:'; '{text}' "
        r"for none (default: 'Text: {text}\nCategory:', none for an encoder)",
    )
    group.add_argument(
        "--verbaliser",
        action="append",
        metavar="CLASS=WORDS",
        help="words for a class; the language model's own answer becomes the prior mean of "
        "the last layer. 'names': the class names; 'none': a prior mean of zero "
        "(default: names for few examples on a decoder, see docs/reading.md, else none)",
    )
    add_parameters(group, f"{CLASSIFIER}.__init__", "max_length", "depth N|SHARE|auto")
    add_fields(group, TrainingSettings, ["batch_size", "report_to"])
    add_loading(group, "trust_remote_code")


def run(args: argparse.Namespace) -> None:
    """Check all arguments and data, load, fit, save, and print the results."""
    if args.verbaliser is not None:
        args.verbaliser = _verbaliser(args.verbaliser)
    settle_tasks(args, "train")
    if args.zero_shot:
        _refuse_with_zero_shot(args)
    elif args.quick:
        if args.adapter is not None:
            raise InputError(f"--quick means --adapter none; remove --adapter {args.adapter}")
        args.adapter = "none"
    _settle_task(args)
    needed = () if args.zero_shot or args.multi_task else (("train", "TRAIN"),)
    for name, shown in (*needed, ("out", "--out")):
        if getattr(args, name) is None:
            raise InputError(f"{shown} is missing; set it on the command line or in --config")
    world = current()
    world.first(partial(_check_out, args))

    began = time.monotonic()
    from bayeslora.classifier import BayesianClassifier

    chosen = given(args, "adapter", "posterior", *_READING, *_LOADING)
    classifier = BayesianClassifier(**chosen, progress=not args.quiet)
    _refuse_idle(args, classifier)
    columns = columns_for(args, None)
    if args.zero_shot:
        from bayeslora.data.read import read

        data = named_rows(args.train, args)
        texts = None if data is None else read(data, columns, reading=reading(args))
        classifier.zero_shot(
            texts=texts,
            text_column=columns.text,
            label_column=columns.label,
            pair_column=columns.pair,
            out=args.out,
            overwrite=bool(args.overwrite),
        )
    else:
        train, validation = world.first_then_all(
            lambda: [
                labelled_rows(data, args, columns, None)
                for data in (args.multi_task or args.train, args.validation)
            ]
        )
        options = given(args, *CHOSEN, "feature_scores") | column_options(args)
        classifier.fit(train, validation, **options, out=args.out, overwrite=bool(args.overwrite))
    _show(args, classifier.record, time.monotonic() - began)


def _verbaliser(values: Any) -> dict[Any, Any] | str:
    """Return one verbaliser from `CLASS=WORDS`, `names` or `none`; other classes keep their names.

    Raises:
        InputError: One of several is `none`, a class has words twice, or a value has none.
    """
    if isinstance(values, Mapping):  # of --config, where numbers may be class names
        return {_as_text(name): _as_text(words) for name, words in values.items()}
    if "none" in values and len(values) > 1:
        raise InputError("--verbaliser none cannot be combined with other values")
    mapping: dict[str, str] = {}
    for text in values:
        name, equals, words = text.partition("=")
        if text in ("names", "none"):
            continue
        if not (name and equals and words.strip()):
            raise InputError(f"--verbaliser must be CLASS=WORDS, names or none, got {text!r}")
        if name in mapping:
            raise InputError(f"--verbaliser sets class {name!r} twice")
        mapping[name] = words
    return mapping or str(values[-1])


def _as_text(value: Any) -> Any:
    """Return a number as text; true and false may have been yes and no, and are refused later."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _settle_task(args: argparse.Namespace) -> None:
    """Set the prompt of a described task, and the default split of a known task."""
    from bayeslora.backbones.template import check_prompt
    from bayeslora.data.questions import is_description, read_description

    if is_description(args.task):
        if args.template is None:
            args.template = read_description(args.task).prompt
            check_prompt(args.task, args.template)
        return
    has_rows = args.train is not None or args.multi_task or args.zero_shot
    if args.task not in (None, *KINDS) and not has_rows:
        args.train = "train"


def _refuse_with_zero_shot(args: argparse.Namespace) -> None:
    """Raise InputError for options that have no effect without training."""
    if current().size > 1:
        raise InputError("--zero-shot does not train; run it without torchrun or accelerate")
    of_data = ("task", "data_dir", "image_column") if args.train is None else ()
    of_rows = ("validation", "multi_task", *of_data)
    idle = (*of_rows, "quick", "adapter", "posterior", "seed", "feature_scores", *CHOSEN)
    refuse(args, idle, "has no effect with --zero-shot", "no-effect")


def _check_out(args: argparse.Namespace) -> None:
    """Check the output against the input files, which `fit` does not know."""
    from bayeslora.io.files import refuse_inputs

    refuse_inputs(args.out, *files_of(args.train, args.multi_task, args.validation, args.config))


def _refuse_idle(args: argparse.Namespace, classifier: Any) -> None:
    """Raise InputError for method options in --config without effect; see `options`."""
    from bayeslora import options

    for name in ("adapter", "posterior"):
        value = getattr(args, name)
        if isinstance(value, Mapping):
            options.refuse_idle(name, getattr(classifier, name), value.keys() - {"name"})


def _show(args: argparse.Namespace, record: ModelRecord, seconds: float) -> None:
    """Print what was measured, and a summary line: time, scale, NLL on held-out rows."""
    if args.json:
        print_json({"model": str(args.out), **record.results})
        return
    print_columns([("model", str(args.out)), *_measured(record)])
    show_last(f"Saved {args.out} in {duration(seconds)}: {_summary(record)}")
    if args.task is None and not args.multi_task:
        hint_to_predict(args.out, args.train)


def _measured(record: ModelRecord) -> list[tuple[str, str]]:
    """Return the scores of a fit, with a name for each; the model card has more."""
    from bayeslora.engine.fitted.card import baseline_words

    results, rows = record.results, []
    if scale := results.get("logit_scale"):
        nll = f"NLL {scale['nll']:.3f} nats, {scale['nll_before']:.3f} with unscaled logits"
        rows.append((f"{scale['num_rows']:,} held-out rows", nll))
    if held_out := results.get("held_out"):
        name = f"{held_out['num_rows']:,} held-out rows, before the fit to all"
        rows.append((name, _scores(held_out)))
    if cheaper := baseline_words(results):
        rows.append(("NLL of cheaper models", cheaper))
    if "validation_nll" in results:
        rows.append(("validation", _validation(results)))
    for task, scores in results.get("validation_tasks", {}).items():
        rows.append((f"validation, {task}", _scores(scores)))
    return rows


def _summary(record: ModelRecord) -> str:
    """Return the fit in words: rows, scale, and scores on held-out rows."""
    from bayeslora.engine.fitted.card import fit_words, method_name

    if not record.num_train:
        kind = "options" if record.backbone.get("format") else "classes"
        return f"the language model's own answer, {len(record.classes)} {kind}"
    results = record.results
    words = [method_name(record), fit_words(record), _scale(results)]
    if held_out := results.get("held_out") or results.get("logit_scale"):
        words.append(f"held-out NLL {held_out['nll']:.3f} nats")
    elif "validation_nll" in results:
        words.append(f"validation {_validation(results)}")
    return ", ".join(filter(None, words))


def _validation(results: Mapping[str, Any]) -> str:
    return _scores({name: results[f"validation_{name}"] for name in ("nll", "accuracy")})


def _scores(scores: Mapping[str, float]) -> str:
    return f"NLL {scores['nll']:.3f} nats, accuracy {scores['accuracy']:.3f}"


def _scale(results: Mapping[str, Any]) -> str:
    """Return the quantity that sets the scale of the logits: factor, temperature or prior scale."""
    if chosen := results.get("logit_scale"):
        return f"logits times {chosen['factor']:.2f}"
    of_posterior = results.get("posterior", {})
    for key in ("temperature", "prior_scale"):
        if key in of_posterior:
            return f"{key.replace('_', ' ')} {of_posterior[key]:.3g}"
    return ""
