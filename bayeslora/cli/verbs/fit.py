"""`bayeslora fit`: adapt a backbone to labelled texts and fit the posterior."""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import (
    add_columns,
    add_feature_scores,
    add_fields,
    add_json,
    add_loading,
    add_options,
    add_overwrite,
    add_task,
    given,
    one_verbaliser,
    refuse,
    template,
    verbaliser,
)
from bayeslora.cli.data import (
    add_multi_task,
    column_options,
    columns_for,
    files_of,
    named_rows,
    reading,
    settle_tasks,
)
from bayeslora.cli.messages import show_last
from bayeslora.cli.outputs import hint_to_predict, print_columns, print_json
from bayeslora.engine.training_options import CHOSEN, TrainingSettings
from bayeslora.errors import InputError
from bayeslora.option_checks import DTYPES, FORMATS, KINDS
from bayeslora.plain_text import duration
from bayeslora.processes import current

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bayeslora.checkpoint import ModelRecord
    from bayeslora.data.columns import DataColumns

SUMMARY = "adapt a backbone to labelled texts and fit the posterior"


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    add_multi_task(parser, "TRAIN")
    add_options(
        parser,
        {
            "--out DIR": "output directory",
            "--quick": "fit only the last layer, on frozen features, in seconds; same as "
            "--adapter none",
            "--zero-shot": "classify with the language model itself, without training; the "
            "classes are those of --verbaliser CLASS=WORDS and of the labels in TRAIN, which is "
            "optional",
        },
    )
    _model_options(parser)
    add_fields(parser, TrainingSettings, CHOSEN)
    add_feature_scores(parser, "unfamiliarity, if one pass gives the features")
    add_fields(parser, TrainingSettings, ["seed"])
    add_loading(parser)
    add_columns(parser)
    add_task(parser)
    add_overwrite(parser)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with these options (train, out, batch_size, …); the command line takes "
        "precedence",
    )
    add_json(parser)


def _model_options(parser: argparse.ArgumentParser) -> None:
    add_options(
        parser,
        {
            "--backbone NAME": "minilm (used for texts if none is named), smollm2-135m (questions, "
            "--zero-shot), dinov2-s (images), a directory, a hub id, or auto: the installed one on "
            "whose frozen features a last layer has the lowest held-out NLL",
            "--adapter NAME[:KEY=VALUE,…]": "adapter and its options, such as polar:r=4,lr=2e-3; "
            "see `bayeslora methods` (default: polar)",
            "--posterior NAME[:KEY=VALUE,…]": "posterior and its options, such as "
            "vbll:prior_scale=2; see `bayeslora methods` (default: vbll)",
            "--max-length N": "maximum number of tokens per text, or patches per image; longer "
            "inputs are truncated (default: 128)",
            "--depth N|SHARE|auto": "layers of the backbone to use: a number, a fraction, or "
            "auto, which depends on the training data (default: 0.8 for a decoder, all layers for "
            "an encoder)",
        },
    )
    parser.add_argument(
        "--template",
        type=template,
        metavar="TEXT",
        help=r"prompt around each text, such as 'Review: {text}\nSentiment:'; '{text}' "
        r"for none (default: 'Text: {text}\nCategory:', none for an encoder)",
    )
    parser.add_argument(
        "--verbaliser",
        action="append",
        type=verbaliser,
        metavar="CLASS=WORDS",
        help="words for a class; the language model's own answer becomes the prior mean of "
        "the last layer. 'names': the class names; 'none': a prior mean of zero "
        "(default: names for few examples on a decoder, see docs/reading.md, else none)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="multiple choice: score each option after the question (options), or list all "
        "options in the prompt and answer with a letter (letters) (default: options)",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="data type of the frozen weights (default: auto)"
    )


def run(args: argparse.Namespace) -> None:
    """Check all arguments and data, load, fit, save, and print the results."""
    if isinstance(args.verbaliser, list):  # of the command line; --config has one value
        args.verbaliser = one_verbaliser(args.verbaliser)
    settle_tasks(args)
    if args.zero_shot:
        _zero_shot(args)
        return
    if args.quick:
        if args.adapter is not None:
            raise InputError(f"--quick means --adapter none; remove --adapter {args.adapter}")
        args.adapter = "none"
    _settle_task(args)
    for name, shown in (("train", "TRAIN"), ("out", "--out")):
        if getattr(args, name) is None and not (name == "train" and args.multi_task):
            raise InputError(f"{shown} is missing; set it on the command line or in --config")
    world = current()
    world.first(partial(_check_out, args))
    _refuse_idle(args)

    began = time.monotonic()
    from bayeslora.classifier import BayesianClassifier

    methods = given(args, "adapter", "posterior")
    classifier = BayesianClassifier(**_model(args), **methods, progress=not args.quiet)
    columns = columns_for(args, None)
    train, validation = world.first_then_all(
        lambda: [
            _rows(data, args, columns) for data in (args.multi_task or args.train, args.validation)
        ]
    )
    classifier.fit(
        train,
        validation,
        **given(args, *CHOSEN, "feature_scores"),
        **column_options(args),
        out=args.out,
        overwrite=bool(args.overwrite),
    )
    _show(args, classifier.record, time.monotonic() - began)


def _rows(files: Any, args: argparse.Namespace, columns: DataColumns) -> Any:
    """Return the labelled rows of a file, or of each of several tasks; None without files."""
    from bayeslora.data.read import read

    data, how = named_rows(files, args), reading(args)
    if isinstance(data, dict):
        return {
            task: read(rows, columns, labels="required", reading=how) for task, rows in data.items()
        }
    return None if data is None else read(data, columns, labels="required", reading=how)


def _settle_task(args: argparse.Namespace) -> None:
    """Set the prompt of a described task, and the default split of a known task."""
    from bayeslora.backbones.template import check_prompt
    from bayeslora.data.questions import is_description, read_description

    if is_description(args.task):
        if args.template is None:
            args.template = read_description(args.task).prompt
            check_prompt(args.task, args.template)
    elif args.train is None and args.task not in (None, *KINDS) and not args.multi_task:
        args.train = "train"


def _model(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the backbone and of reading texts, as keyword arguments."""
    return given(
        args,
        *("backbone", "max_length", "depth", "template", "verbaliser", "format"),
        *("seed", "dtype", "device", "trust_remote_code"),
    )


def _zero_shot(args: argparse.Namespace) -> None:
    """Save the language model's own answer as a classifier."""
    if current().size > 1:
        raise InputError("--zero-shot does not train; run it without torchrun or accelerate")
    of_data = ("task", "data_dir", "image_column") if args.train is None else ()
    of_rows = ("validation", "multi_task", *of_data)
    idle = (*of_rows, "quick", "adapter", "posterior", "seed", "feature_scores", *CHOSEN)
    refuse(args, idle, "has no effect with --zero-shot", "no-effect")
    if args.out is None:
        raise InputError("--out is missing; set it on the command line or in --config")
    _check_out(args)
    columns = columns_for(args, None)

    from bayeslora.classifier import BayesianClassifier
    from bayeslora.data.read import read

    data = named_rows(args.train, args)
    texts = None if data is None else read(data, columns, reading=reading(args))

    began = time.monotonic()
    classifier = BayesianClassifier(**_model(args), progress=not args.quiet)
    classifier.zero_shot(
        texts=texts,
        text_column=columns.text,
        label_column=columns.label,
        pair_column=columns.pair,
        out=args.out,
        overwrite=bool(args.overwrite),
    )
    _show(args, classifier.record, time.monotonic() - began)


def _check_out(args: argparse.Namespace) -> None:
    """Check the output against the input files, which `fit` does not know."""
    from bayeslora.io.files import refuse_inputs

    refuse_inputs(args.out, *files_of(args.train, args.multi_task, args.validation, args.config))


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raise InputError for method options in --config without effect; see `options`."""
    from bayeslora import options
    from bayeslora.adapters.registry import resolve_adapter
    from bayeslora.posteriors.registry import resolve_posterior

    for name, resolve in (("adapter", resolve_adapter), ("posterior", resolve_posterior)):
        value = getattr(args, name)
        if isinstance(value, dict):
            options.refuse_idle(name, resolve(value), value.keys() - {"name"})


def _show(args: argparse.Namespace, record: ModelRecord, seconds: float) -> None:
    """Print the results, with a summary line: time, scale, NLL on held-out rows."""
    from bayeslora.engine.fitted.card import baseline_words

    results = record.results
    if args.json:
        print_json({"model": str(args.out), **results})
        return
    whose = ", first member" if record.num_members > 1 else ""
    rows = [("model", str(args.out))]
    if losses := results.get("epochs"):
        rows.append(("epochs, by the folds", f"{min(losses, key=losses.get)} of {[*losses][-1]}"))
    elif results["history"] and "logit_scale" not in results:
        epochs = f"{results['best_epoch']} of {len(results['history'])}"
        rows.append((f"best epoch{whose}", epochs))
    if scale := results.get("logit_scale"):
        nll = f"NLL {scale['nll']:.3f}, without {scale['nll_before']:.3f}"
        chosen = f"{scale['factor']:.2f}, chosen on {scale['num_rows']:,} held-out rows ({nll})"
        rows.append(("scale of the logits", chosen))
    if cheaper := baseline_words(results):
        rows.append(("NLL of cheaper models", cheaper))
    if averaged := results.get("averaged"):
        rows.append(("networks averaged", str(averaged)))
    if held_out := results.get("held_out"):
        scores = f"NLL {held_out['nll']:.3f} nats, accuracy {held_out['accuracy']:.3f}"
        rows.append(
            (f"{held_out['num_rows']:,} held-out rows", f"{scores}; then refitted to all rows")
        )
    if "validation_nll" in results:
        rows += [
            ("validation NLL (nats)", f"{results['validation_nll']:.3f}"),
            ("validation accuracy", f"{results['validation_accuracy']:.3f}"),
        ]
    rows += [
        (f"validation, {task}", f"accuracy {scores['accuracy']:.3f}, NLL {scores['nll']:.3f}")
        for task, scores in results.get("validation_tasks", {}).items()
    ]
    print_columns(rows)
    show_last(f"Saved {args.out} in {duration(seconds)}: {_summary(record)}")
    if args.task is None and not args.multi_task:
        hint_to_predict(args.out, args.train)


def _summary(record: ModelRecord) -> str:
    """Return the fit in words, with its scores on held-out rows."""
    from bayeslora.engine.fitted.card import fit_words, method_name

    results = record.results
    if not record.num_train:
        kind = "options" if record.backbone.get("format") else "classes"
        return f"the language model's own answer, {len(record.classes)} {kind}"
    words = [method_name(record), fit_words(record), _scale(results)]
    if held_out := results.get("held_out") or results.get("logit_scale"):
        words.append(f"held-out NLL {held_out['nll']:.3f} nats")
    elif "validation_nll" in results:
        words.append(f"validation NLL {results['validation_nll']:.3f} nats")
        words.append(f"accuracy {results['validation_accuracy']:.3f}")
    return ", ".join(filter(None, words))


def _scale(results: Mapping[str, Any]) -> str:
    """Return the quantity that sets the scale of the logits: factor, temperature or prior scale."""
    if chosen := results.get("logit_scale"):
        return f"logits times {chosen['factor']:.2f}"
    of_posterior = results.get("posterior", {})
    for key in ("temperature", "prior_scale"):
        if key in of_posterior:
            return f"{key.replace('_', ' ')} {of_posterior[key]:.3g}"
    return ""
