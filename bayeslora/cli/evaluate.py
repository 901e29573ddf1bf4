"""`bayeslora evaluate`: accuracy, NLL, calibration errors and OOD detection, with intervals."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import PART_OPTIONS, SCORING_OPTIONS, given, option, score_keys
from bayeslora.cli.data import find
from bayeslora.cli.output import print_json, show, show_last, terminal_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bayeslora.metrics.scores import Scores
    from bayeslora.predictions.collection import Method


class Options(arguments.Evaluated, arguments.ScoreChoice):
    """Arguments of the verb."""

    over_seeds: bool = option()
    """treat files of the same method as its seeds: means with t intervals"""


def run(args: Options) -> None:
    """Score every file and print one table, or JSON: an object, or a list for several files."""
    from bayeslora.metrics.scores import ALL_SCORES
    from bayeslora.metrics.seeds import over_seeds
    from bayeslora.predictions.collection import by_group
    from bayeslora.reporting.console import scores_table, summary_line

    keys = score_keys(args, ALL_SCORES)
    options = given(args, *PART_OPTIONS, *SCORING_OPTIONS)
    methods = find(args).methods(*args.group_by or (), args.cluster_by)
    if args.over_seeds:
        groups = by_group(methods)
        scores = [over_seeds(_scores(seeds, options), name) for name, seeds in groups.items()]
    else:
        scores = _scores(methods, options)
    if args.json:
        content = [result.to_json() for result in scores]
        print_json(content[0] if len(content) == 1 else content)
        return
    show(scores_table(scores, terminal_width(), keys))
    line, warns = summary_line(scores)
    if line and keys is None:
        show_last(line, warns=warns)


def _scores(methods: Sequence[Method], options: dict[str, Any]) -> list[Scores]:
    """Return the scores of each method."""
    from bayeslora.metrics.evaluate import evaluate

    scores = []
    for method in methods:
        ood = {name: source.predictions for name, source in method.ood.items()}
        result = evaluate(method.predictions, ood=ood, **options)
        scores.append(replace(result, name=method.label, file=method.file))
    return scores
