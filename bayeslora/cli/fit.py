"""`bayeslora fit`: adapt a backbone to labelled texts and fit the posterior."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from bayeslora.cli import arguments, data, output
from bayeslora.cli.arguments import CLASSIFIER, PLACE, TRAINING, argument, given, option, refuse
from bayeslora.engine.training_options import CHOSEN
from bayeslora.errors import InputError
from bayeslora.io import refuse_inputs
from bayeslora.option_checks import KINDS
from bayeslora.plain_text import duration
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.checkpoint import ModelRecord

_CONSTRUCTOR = f"{CLASSIFIER}.__init__"
_READING = ("backbone", "max_length", "depth", "template", "verbaliser", "format")
_LOADING = ("seed", "dtype", "device", "trust_remote_code")


class _HeldOut(arguments.Everywhere):
    group = "held-out rows"
    cv: Any = option("N|auto", TRAINING)
    keep_folds: bool = option(of=TRAINING)
    hold_out: Any = option("X", TRAINING)
    refit: bool = option(of=TRAINING)


class _Model(arguments.Everywhere):
    group = "model"
    zero_shot: bool = option()
    """classify with the language model itself, without training; the classes are those of
    --verbaliser CLASS=WORDS and of the labels in TRAIN, which is optional"""
    template: str | None = option("TEXT")
    r"""prompt around each text, such as 'Review: {text}\nSentiment:'; '{text}' for none; or
    columns to join, '{subject}\n{body}' (default: 'Text: {text}\nCategory:', none for an
    encoder)"""
    verbaliser: Any = option("CLASS=WORDS", action="append")
    """words for a class; the language model's own answer becomes the prior mean of the last layer.
    'names': the class names; 'none': a prior mean of zero (default: names for few examples on a
    decoder, see docs/reading.md, else none)"""
    max_length: Any = option(of=_CONSTRUCTOR)
    depth: Any = option("N|SHARE", _CONSTRUCTOR)
    batch_size: Any = option(of=TRAINING)
    report_to: str | None = option(of=TRAINING)
    trust_remote_code: bool = option(of=PLACE)


class Options(arguments.Overwriting, _HeldOut, _Model, arguments.Rows):
    """Arguments of the verb."""

    train: Any = argument("TRAIN", "train", nargs="?")
    """.jsonl, .json, .csv, .tsv or .parquet, also .gz; a directory of images; with --task and a
    known task, the name of a split (default: train)"""
    validation: Any = option("[NAME=]FILE", action="append")
    """held-out examples, used to choose the epoch and options of the posterior; with --multi-task
    one file per task, as NAME=FILE"""
    out: str = option("DIR")
    """output directory"""
    backbone: str | None = option("NAME")
    """minilm (used for texts if none is named), smollm2-135m (questions, --zero-shot), dinov2-s
    (images), a directory, a hub id, or auto: the installed one on whose frozen features a last
    layer has the lowest held-out NLL"""
    adapter: Any = option(arguments.METHOD)
    """adapter and its options, such as polar:r=4,lr=2e-3; see `bayeslora methods` (default: polar)
    """
    posterior: Any = option(arguments.METHOD)
    """posterior and its options, such as vbll:prior_scale=2; see `bayeslora methods` (default:
    vbll)"""
    quick: bool = option()
    """fit only the last layer, on frozen features, in seconds; same as --adapter none"""
    epochs: Any = option(of=TRAINING)
    seed: Any = option(of=TRAINING)
    head_lr: Any = option("X", TRAINING, further=True)
    patience: Any = option(of=TRAINING, further=True)
    format: str | None = option(of=_CONSTRUCTOR, further=True)
    feature_scores: list[str] | None = option(of=f"{CLASSIFIER}.fit", further=True)
    dtype: str | None = option(of="bayeslora.classifier:Loading", further=True)
    device: str | None = option(of=PLACE, further=True)


def run(args: Options) -> None:
    """Check all arguments and data, load, fit, save, and print the results."""
    if args.verbaliser is not None:
        args.verbaliser = _verbaliser(args.verbaliser)
    if args.template is not None:
        args.template = args.template.replace("\\n", "\n")  # as shells pass a line break
        names = re.findall(r"\{(\w+)\}", args.template)
        if names and {"text", "filled"}.isdisjoint(names):  # it joins columns
            args.text_column, args.template = args.template, None
    data.settle_tasks(args, "train")
    if args.task not in (None, *KINDS) and args.train is None and not args.zero_shot:
        args.train = "train"
    if args.zero_shot:
        _refuse_with_zero_shot(args)
    elif args.quick:
        refuse(args, ["adapter"], "has no effect with --quick, which means --adapter none")
        args.adapter = "none"
    for name in ("out",) if args.zero_shot else ("train", "out"):
        if getattr(args, name) is None:
            raise InputError(f"{name} is missing; set it here or in --config", options=(name,))
    inputs = data.files_of(args.train, args.validation, args.config)
    current().first(partial(refuse_inputs, args.out, *inputs))

    began = time.monotonic()
    from bayeslora.classifier import BayesianClassifier
    from bayeslora.data.read import read

    chosen = given(args, "adapter", "posterior", *_READING, *_LOADING)
    classifier = BayesianClassifier(**chosen, progress=not args.quiet)
    if args.zero_shot:
        source = data.named_rows(args.train, args)
        columns, how = data.columns_for(args, None), data.reading(args)
        texts = None if source is None else read(source, columns, reading=how)
        out: dict[str, Any] = {"out": args.out, "overwrite": bool(args.overwrite)}
        classifier.zero_shot(texts=texts, **data.column_options(args), **out)
    else:
        train, validation = current().first_then_all(partial(data.training_rows, args, None))
        options = given(args, *CHOSEN, "feature_scores") | data.column_options(args)
        classifier.fit(train, validation, **options, out=args.out, overwrite=bool(args.overwrite))
    _show(args, classifier.record, time.monotonic() - began)


def _verbaliser(values: Any) -> dict[Any, Any] | str:
    """Return one verbaliser from `CLASS=WORDS`, `names` or `none`; other classes keep their names.

    Raises:
        InputError: One of several is `none`, a class has words twice, or a value has none.
    """
    if isinstance(values, Mapping):  # of --config, where numbers may be class names
        return {_as_text(name): _as_text(words) for name, words in values.items()}
    if values == ["none"]:
        return "none"
    words = [text for text in values if text != "names"]
    return data.pairs(words, "--verbaliser", "CLASS=WORDS, names or none") or "names"


def _as_text(value: Any) -> Any:
    """Return a number as text; true and false may have been yes and no, and are refused later."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _refuse_with_zero_shot(args: Options) -> None:
    """Raise InputError for options that have no effect without training."""
    of_data = ("task", "data_dir", "image_column") if args.train is None else ()
    of_rows = ("validation", "multi_task", *of_data)
    idle = (*of_rows, "quick", "adapter", "posterior", "seed", "feature_scores", *CHOSEN)
    refuse(args, idle, "has no effect with --zero-shot", "no-effect")


def _show(args: Options, record: ModelRecord, seconds: float) -> None:
    """Print what was measured, and a summary line: time, scale, NLL on held-out rows."""
    if args.json:
        output.print_json({"model": str(args.out), **record.results})
        return
    measured = _measured(record)
    output.print_columns([("model", str(args.out)), *measured])
    first = ": ".join(measured[0]) if measured else ""
    words = ", ".join(filter(None, [*_made_of(record), first]))
    output.show_last(f"Saved {args.out} in {duration(seconds)}: {words}")


def _measured(record: ModelRecord) -> list[tuple[str, str]]:
    """Return the scores of a fit, with a name for each; the model card has more."""
    from bayeslora.engine.card import baseline_words

    results, rows = record.results, []
    if scale := results.get("logit_scale"):
        nll = f"NLL {scale['nll']:.3f} nats, {scale['nll_before']:.3f} with unscaled logits"
        rows.append((f"{scale['num_rows']:,} held-out rows", nll))
    if held_out := results.get("held_out"):
        name = f"{held_out['num_rows']:,} held-out rows, before the fit to all"
        rows.append((name, _scores(held_out)))
    if "validation_nll" in results:
        rows.append(("validation", _scores(results, "validation_")))
    if cheaper := baseline_words(results):
        rows.append(("NLL of cheaper models", cheaper))
    for task, scores in results.get("validation_tasks", {}).items():
        rows.append((f"validation, {task}", _scores(scores)))
    return rows


def _made_of(record: ModelRecord) -> list[str]:
    """Return method and rows of a fit in words."""
    from bayeslora.engine.card import fit_words, method_name

    if not record.num_train:
        kind = "options" if record.backbone.get("format") else "classes"
        return ["the language model's own answer", f"{len(record.classes)} {kind}"]
    return [method_name(record), fit_words(record)]


def _scores(scores: Mapping[str, float], prefix: str = "") -> str:
    return f"NLL {scores[f'{prefix}nll']:.3f} nats, accuracy {scores[f'{prefix}accuracy']:.3f}"
