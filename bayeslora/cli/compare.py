"""`bayeslora compare`: paired differences of methods on the same rows."""

from __future__ import annotations

from bayeslora.cli import arguments
from bayeslora.cli.arguments import SCORING_OPTIONS, given, option, score_keys
from bayeslora.cli.data import find
from bayeslora.cli.output import print_json, show, show_last, terminal_width
from bayeslora.io import refuse_inputs

COMPARE = "bayeslora.metrics.compare:compare"


class Options(arguments.Compared, arguments.ScoreChoice, arguments.Apart, arguments.Overwriting):
    """Arguments of the verb."""

    by: str | None = option("SCORE", COMPARE)
    reference: str | None = option(of=COMPARE)
    out: str | None = option("FILE")
    """also write the table to a file ending in .md or .tex"""


def run(args: Options) -> None:
    """Compare all methods and print one table, or JSON."""
    from bayeslora.metrics.compare import compare
    from bayeslora.metrics.scores import SCORE_KEYS
    from bayeslora.predictions.collection import named_predictions
    from bayeslora.reporting.console import compare_table, comparison_line
    from bayeslora.reporting.page import write_comparison

    if args.out is not None:
        refuse_inputs(args.out, *args.files)
    keys = score_keys(args, SCORE_KEYS)
    methods = find(args).methods(args.cluster_by)
    together = args.over_seeds is None and len({method.group for method in methods}) > 1
    comparison = compare(
        [named_predictions(method, over_seeds=together) for method in methods],
        scores=keys,
        over_seeds=together,
        **given(args, "by", "reference", *SCORING_OPTIONS),
    )
    if args.out is not None:
        write_comparison(comparison, args.out, overwrite=bool(args.overwrite))
    if args.json:
        print_json(comparison.to_json())
        return
    show(compare_table(comparison, terminal_width()))
    saved = "" if args.out is None else f"; saved in {args.out}"
    show_last(f"{comparison_line(comparison)}{saved}")
