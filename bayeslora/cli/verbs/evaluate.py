"""`bayeslora evaluate`: accuracy, NLL, calibration errors and OOD detection, with intervals."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bayeslora.cli.arguments import (
    PART_OPTIONS,
    add_choice_of_scores,
    add_json,
    add_loading,
    add_options,
    add_overwrite,
    add_parts,
    add_resampling,
    add_scored,
    add_task,
    given,
    refuse,
)
from bayeslora.cli.data import add_multi_task, files_of, labelled_rows, named_files
from bayeslora.cli.messages import show, show_last
from bayeslora.cli.outputs import check_new_file, print_json, table_width
from bayeslora.cli.runs import find
from bayeslora.errors import InputError
from bayeslora.plain_text import counted, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bayeslora.metrics.scores import Scores
    from bayeslora.predictions.collection import Method

SUMMARY = "score predictions: accuracy, NLL, calibration, out-of-distribution detection"

_COLUMNS = ("text_column", "label_column", "text_pair_column", "image_column", "blank")
OPTIONS = ("ood_score", "num_bins", "seed", "closed", *PART_OPTIONS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_scored(parser)
    add_parts(parser)
    add_resampling(parser)
    parser.add_argument(
        "--closed",
        choices=("left", "right"),
        help="closed edge of the bins for calibration errors (default: left)",
    )
    parser.add_argument(
        "--over-seeds",
        action="store_true",
        help="treat files of the same method as its seeds: means with t intervals",
    )
    add_options(
        parser,
        {
            "--attack KEY=VALUE,…": "perturb the inputs of a fitted classifier adversarially; the "
            "arguments are then MODEL and labelled DATA. For example "
            "eps=0.05,0.1,steps=10,restarts=2: radii (fractions of an embedding's norm, or of the "
            "pixel range), steps and random starts",
            "--out FILE": "with --attack: .json file to write, for report --robustness",
        },
    )
    add_multi_task(parser, "DATA, with --attack")
    add_task(parser)
    # An attack reads the model's own columns.
    parser.set_defaults(**dict.fromkeys(_COLUMNS))
    add_choice_of_scores(parser, "a standard selection")
    add_loading(parser)
    add_overwrite(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Score every file and print one table, or JSON: an object, or a list for several files."""
    if args.attack is not None:
        _attack(args)
        return
    of_attack = ("out", "multi_task", "task", "data_dir", *LOADING_HERE, "overwrite")
    refuse(args, of_attack, "has no effect without --attack; remove it")
    from bayeslora.reporting.console import scores_table, summary_line

    keys = _keys(args)
    options = given(args, *OPTIONS)
    columns = (*options.get("group_by", ()), *filter(None, [options.get("cluster_by")]))
    methods = find(args, args.ood).methods(tuple(dict.fromkeys(columns)))
    if args.over_seeds:
        from bayeslora.metrics.seeds import over_seeds

        scores = [
            over_seeds([_scores(method, options) for method in seeds], name)
            for name, seeds in _by_seed(methods).items()
        ]
    else:
        scores = [_scores(method, options) for method in methods]
    if args.json:
        content = [result.to_json() for result in scores]
        print_json(content[0] if len(content) == 1 else content)
    else:
        show(scores_table(scores, table_width(), keys))
        line, warns = summary_line(scores)
        if line and keys is None:
            show_last(line, warns=warns)


LOADING_HERE = ("device", "trust_remote_code")
_OF_FILES = ("ood_score", "num_bins", "closed", *PART_OPTIONS, "scores", "interval")


def _attack(args: argparse.Namespace) -> None:
    """Score a classifier on perturbed inputs."""
    from bayeslora.io.files import atomic_file
    from bayeslora.metrics.robustness import Attack

    model, data = _model_and_data(args)
    refuse(args, _OF_FILES, "has no effect with --attack; remove it", "no-effect")
    if args.ood or args.over_seeds or args.all:
        raise InputError("--ood, --over-seeds and --all have no effect with --attack; remove them")
    attack = Attack.of(args.attack)
    if args.seed is not None:
        attack = replace(attack, seed=args.seed)
    if args.out is not None:
        inputs = [*files_of(data), model]
        check_new_file(args.out, overwrite=args.overwrite, inputs=inputs, ending=".json")

    from bayeslora.checkpoint import read_record
    from bayeslora.engine.data import columns_of

    record = read_record(model)
    columns = columns_of(record)
    rows = labelled_rows(data, args, columns, record)

    from bayeslora.classifier import BayesianClassifier
    from bayeslora.reporting.shift import robustness_table
    from bayeslora.reporting.tables import to_text

    loading = given(args, *LOADING_HERE)
    clf = BayesianClassifier.from_pretrained(model, progress=not args.quiet, **loading)
    curve = clf.robustness(rows, attack)
    if args.out is not None:
        with atomic_file(args.out) as temporary:
            curve.save(temporary)
    if args.json:
        print_json(curve.to_json())
    else:
        show(to_text(robustness_table([curve]), sparse=table_width() is None))
        show_last(f"Robustness score: {curve.score:.3f} (mean accuracy over the radii above 0)")


def _model_and_data(args: argparse.Namespace) -> tuple[str, str | dict[str, str]]:
    """Return the model and the data file, or the files of several tasks by name."""
    files = args.files
    if args.multi_task is None and len(files) == 2:
        return files[0], files[1]
    if args.multi_task is not None and len(files) == 1:
        return files[0], named_files(args.multi_task, "--multi-task")
    raise InputError(
        "--attack requires a model and labelled data, MODEL DATA or MODEL --multi-task NAME=FILE "
        f"…, got {counted(len(files), 'argument')}"
        + (" and --multi-task" if args.multi_task is not None else "")
    )


def _keys(args: argparse.Namespace) -> tuple[str, ...] | None:
    from bayeslora.metrics.catalogue import ALL_SCORES, chosen_keys

    if args.all:
        return tuple(ALL_SCORES)
    return None if args.scores is None else chosen_keys(args.scores, ALL_SCORES)


def _scores(method: Method, options: dict[str, Any]) -> Scores:
    from bayeslora.metrics.evaluate import evaluate

    ood = {name: source.predictions for name, source in method.ood.items()}
    scores = evaluate(method.predictions, ood, **options)
    return replace(scores, name=method.label, file=method.file)


def _by_seed(methods: Sequence[Method]) -> dict[str, list[Method]]:
    """Return the seeds of each method, at least two, by the method's name."""
    from bayeslora.predictions.collection import by_group

    groups = by_group(methods)
    for name, same in groups.items():
        if len(same) > 1:
            continue
        twins = [method for method in methods if method.name == same[0].name]
        unknown = [method.file for method in twins if not method.seed]
        if len(twins) < 2:
            problem = f"{quoted(name)} has only one file; pass at least two seeds"
        elif unknown:
            problem = f"{unknown[0]} has no seed (fit_seed, or a name ending in seed-1)"
        else:
            problem = (
                f"{same[0].file} has a duplicate seed ({same[0].seed}), or its rows or its "
                "fit_options differ from those of the other seeds"
            )
        raise InputError(f"--over-seeds: {problem}")
    return groups
