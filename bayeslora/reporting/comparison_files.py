"""The paired comparison as files: Markdown, LaTeX and CSV, for a page, a paper and a program.

A directory of all three has `comparison.json` beside them, which marks it as ours to replace.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bayeslora._version import __version__
from bayeslora.errors import InputError
from bayeslora.files import (
    atomic_file,
    check_writable,
    refuse_existing,
)
from bayeslora.layouts import Layout
from bayeslora.metrics.catalogue import SCORES
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.output import atomic_directory, refuse_target
from bayeslora.plain_text import clean
from bayeslora.reporting.difference_table import difference_table
from bayeslora.reporting.latex import PREAMBLE, to_latex
from bayeslora.reporting.spreadsheet import write_rows
from bayeslora.reporting.tables import escape_markdown, to_markdown
from bayeslora.reporting.text import NAME_END, NAME_START, whole

STEM = "comparison"
"""Name of the files in a directory, without the suffix."""

FORMAT_VERSION = 1
LAYOUT = Layout(
    "a comparison",
    f"{STEM}.json",
    FORMAT_VERSION,
    frozenset({"bayeslora", "reference", "rows"}),
    tuple(f"{STEM}{suffix}" for suffix in (".md", ".tex", ".csv")),
)
"""What a comparison's directory holds."""

COLUMNS = (
    "method",
    "reference",
    "score",
    "value",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "n",
)
"""Columns of the CSV; p-values follow where there are any, then `HOW_COLUMNS`."""

HOW_COLUMNS = (
    "seeds",
    "reference_seeds",
    "clusters",
    "intervals",
    "resamples",
    "permutations",
    "seed",
    "holm_family",
)
"""How the numbers of a line were made.

How many fits each of the two scores is the mean of; clusters, where rows were drawn in clusters;
what the intervals are; what stands behind them and behind p; of how many p-values a score's Holm
correction takes account. None of the intervals is corrected.
"""


def comparison_files(out: str | Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Return the tables that a comparison is written to, before it is computed.

    Args:
        out: A file whose suffix says the format, or a directory for one of each.
        overwrite: Whether what is there may be replaced.

    Raises:
        InputError: The suffix stands for no format, or `out` exists and may not be replaced, or
            cannot be written.
    """
    target = Path(out)
    is_directory = target.is_dir() or not target.suffix
    if not is_directory and target.suffix not in _WRITERS:
        raise InputError(
            f"{target} has the suffix {target.suffix!r}; choose from {', '.join(_WRITERS)}, or name"
            " a directory for all of them"
        )
    if is_directory and target.is_file():
        raise InputError(f"{target} is in the way of a directory; choose another path")
    check_writable(target)
    if not is_directory:
        refuse_existing(target, overwrite=overwrite)
        return (target,)
    refuse_target(target, LAYOUT, overwrite=overwrite)
    return tuple(target / f"{STEM}{suffix}" for suffix in _WRITERS)


def write_comparison(
    comparison: Comparison, out: str | Path, *, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write what `compare` returned, whole or not at all, and return the tables.

    Args:
        comparison: The paired differences.
        out: A file that ends in `.md`, `.tex` or `.csv`, or a directory for all three, which also
            gets `comparison.json`.
        overwrite: Whether a file, or the directory of an earlier comparison, may be replaced.

    Raises:
        InputError: As `comparison_files`.
    """
    files = comparison_files(out, overwrite=overwrite)
    if len(files) == 1:
        with atomic_file(out) as aside:
            _write(aside, files[0].suffix, comparison)
        return files
    with atomic_directory(out, LAYOUT, overwrite=overwrite) as aside:
        for file in files:
            _write(aside / file.name, file.suffix, comparison)
        about = {"format_version": FORMAT_VERSION, "bayeslora": __version__}
        # In ASCII, as names may hold marks that turn what follows them.
        text = json.dumps({**about, **comparison.to_json()}, indent=2, allow_nan=False)
        (aside / LAYOUT.marker).write_text(f"{text}\n", encoding="ascii")
    return files


def _write(path: Path, suffix: str, comparison: Comparison) -> None:
    path.write_text(_WRITERS[suffix](comparison), encoding="utf-8", newline="\n")


def _markdown(comparison: Comparison) -> str:
    table = difference_table(comparison).noted()
    caption = escape_markdown(table.caption).replace(NAME_START, "**").replace(NAME_END, "**")
    return f"{caption}\n\n{to_markdown(table)}\n"


def _latex(comparison: Comparison) -> str:
    return f"{PREAMBLE}\n{to_latex('differences', difference_table(comparison).noted())}"


def _csv(comparison: Comparison) -> str:
    stream = io.StringIO()
    tests = ("p", "p_holm") if comparison.num_permutations else ()
    write_rows(stream, [(*COLUMNS, *tests, *HOW_COLUMNS)])
    for row in comparison.rows:
        write_rows(stream, _lines(row, comparison, tests))
    return stream.getvalue()


def _lines(
    row: ComparisonRow, comparison: Comparison, tests: tuple[str, ...]
) -> Iterator[tuple[object, ...]]:
    for key, score in row.scores.items():
        change = row.differences[key]
        yield (
            clean(row.name),
            clean(comparison.reference),
            key,
            *map(whole, (score.value, score.low, score.high)),
            *map(whole, (change.value, change.low, change.high)),
            comparison.n,
            *(_number(getattr(row, name), key) for name in tests),
            *_how(row, comparison, SCORES[key].reflected),
        )
    for key, score in row.distances.items():
        ends = map(whole, (score.value, score.low, score.high))
        blank = ("",) * len(tests)
        counts = (*[""] * 3, comparison.n, *blank)
        how = _how(row, comparison, reflected=False)
        yield (clean(row.name), clean(comparison.distance_to or ""), key, *ends, *counts, *how)


def _how(row: ComparisonRow, comparison: Comparison, reflected: bool) -> tuple[object, ...]:
    """Return the values of `HOW_COLUMNS`."""
    over_seeds = comparison.intervals_over == "seeds"
    [reference] = [one for one in comparison.rows if one.name == comparison.reference]
    kind = "t, paired by seed" if comparison.same_seeds else "t (Welch)"
    shape = "reflected" if reflected else comparison.interval
    drawn = "rows" if comparison.num_clusters is None else "clusters"
    return (
        len(row.seeds) or 1,
        len(reference.seeds) or 1,
        "" if comparison.num_clusters is None else comparison.num_clusters,
        f"{kind}, over seeds" if over_seeds else f"{shape} bootstrap over {drawn}",
        "" if over_seeds else comparison.num_resamples,
        comparison.num_permutations,
        comparison.seed,
        comparison.num_comparisons if comparison.num_permutations else "",
    )


def _number(values: Mapping[str, float], key: str) -> str:
    return repr(values[key]) if key in values else ""


_WRITERS: Mapping[str, Callable[[Comparison], str]] = {
    ".md": _markdown,
    ".tex": _latex,
    ".csv": _csv,
}
