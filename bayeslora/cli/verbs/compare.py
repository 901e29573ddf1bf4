"""`bayeslora compare`: paired differences of methods on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bayeslora.cli import arguments
from bayeslora.cli.arguments import SCORING_OPTIONS, given, option, score_keys
from bayeslora.cli.data import find
from bayeslora.cli.output import next_step, print_json, show, show_last, table_width
from bayeslora.errors import InputError
from bayeslora.io.files import STDIN, refuse_inputs, shown_path
from bayeslora.plain_text import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bayeslora.predictions.collection import Method

COMPARE = "bayeslora.metrics.compare:compare"


class Options(
    arguments.Compared,
    arguments.ScoreChoice,
    arguments.Apart,
    arguments.Scoring,
    arguments.Overwriting,
):
    """Arguments of the verb."""

    by: str | None = option("SCORE", COMPARE)
    reference: str | None = option(of=COMPARE)
    distance_to: str | None = option(of=COMPARE)
    out: str | None = option("FILE_OR_DIR")
    """also write the table: to a file ending in .md, .tex or .csv, or to a directory in all three
    formats with comparison.json"""


def run(args: Options) -> None:
    """Compare all methods and print one table, or JSON."""
    from bayeslora.metrics.catalogue import SCORE_KEYS
    from bayeslora.metrics.compare import compare
    from bayeslora.predictions.collection import named_predictions
    from bayeslora.reporting.comparison import comparison_files, write_comparison
    from bayeslora.reporting.console import compare_table, comparison_line

    if args.out is not None:
        comparison_files(args.out, overwrite=bool(args.overwrite))
        refuse_inputs(args.out, *args.files)
    keys = score_keys(args, SCORE_KEYS)
    methods = find(args).methods(args.cluster_by)
    together = args.over_seeds is None and len({method.group for method in methods}) > 1
    options: dict[str, Any] = given(args, "by", *SCORING_OPTIONS)
    for name, called in given(args, "reference", "distance_to").items():
        options[name] = _called(args.typed[name], called, methods, together=together)
    comparison = compare(
        [named_predictions(method, over_seeds=together) for method in methods],
        scores=keys,
        over_seeds=together,
        **options,
    )
    if args.out is not None:
        write_comparison(comparison, args.out, overwrite=bool(args.overwrite))
    if args.json:
        print_json(comparison.to_json())
        return
    show(compare_table(comparison, table_width()))
    saved = "" if args.out is None else f"; saved in {args.out}"
    show_last(f"{comparison_line(comparison)}{saved}")
    if STDIN not in map(shown_path, args.files):
        next_step("report", *args.files, "--out", "report")


def _called(option: str, name: str, methods: Sequence[Method], *, together: bool) -> str:
    """Return the comparison's name of a method given by its name or label."""
    labels = [method.group if together else method.label for method in methods]
    pairs = zip(labels, methods, strict=True)
    same = [*dict.fromkeys(label for label, each in pairs if name in {each.name, each.label})]
    if name in labels or not same:
        return name
    if len(same) > 1:
        raise InputError(f"{option} {quoted(name)} is ambiguous; choose one of {listed(same)}")
    return same[0]
