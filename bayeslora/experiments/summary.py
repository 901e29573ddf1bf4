"""Tables of an experiment: one row per score per cell, and means over seeds in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bayeslora.experiments.grid import PROTOCOLS
from bayeslora.io import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

REPORTED = "reported"
SCORES = ("accuracy", "nll", "ece", "brier")
"""Scores in `summary.md`; `results.parquet` has all."""

_DETECTION = ("auroc", "aupr", "fpr95", "aupr_in")
_PRIOR = "*no model*"

Record = Mapping[str, Any]
Values = dict[str, dict[str, dict[int, float]]]
"""Values by score, method and seed."""


def results_table(records: Sequence[Record]) -> pa.Table:
    """Return one row per score per cell.

    Columns: the key of the cell (`protocol`, `task`, `backbone`, `method`, `rows`, `seed`),
    `adapter`, `posterior`, `split`, `num_classes`, `num_bins`, `num_train`, `set`
    (the reported split, an OOD set, or `cost`), `score`, `by` (the uncertainty of a detection
    score) and `value` with `low` and `high`, its 95 % interval over rows.
    """
    import pyarrow as pa

    columns = {
        **dict.fromkeys(("protocol", "task", "backbone", "method"), pa.string()),
        **dict.fromkeys(("rows", "seed"), pa.int64()),
        **dict.fromkeys(("adapter", "posterior", "split"), pa.string()),
        **dict.fromkeys(("num_classes", "num_bins", "num_train"), pa.int64()),
        **dict.fromkeys(("set", "score", "by"), pa.string()),
        **dict.fromkeys(("value", "low", "high"), pa.float64()),
    }
    rows = [
        {
            **record,
            **record["cell"],
            "num_bins": record["scores"][REPORTED]["num_bins"],
            "set": record["split"] if name == REPORTED else name,
            "score": score,
            "by": by,
            **result,
        }
        for record in records
        for name, score, by, result in _results(record)
    ]
    return pa.Table.from_pylist(rows, pa.schema(columns))


def _results(record: Record) -> Iterator[tuple[str, str, str | None, dict[str, float]]]:
    """Yield the name of the set, the score, the uncertainty of a detection score, and the value."""
    for name, scores in record["scores"].items():
        for key, result in scores["scores"].items():
            yield name, key, None, result
    for name, detected in record["scores"][REPORTED]["ood"].items():
        for by, scores in detected["by_score"].items():
            for key in _DETECTION:
                if key in scores:
                    yield name, key, by, scores[key]
    costs = {f"seconds_{key}": value for key, value in record["seconds"].items()}
    for key in ("passes", "peak_memory_bytes", "num_parameters"):
        costs[key] = float(record[key])
    for key, value in costs.items():
        yield "cost", key, None, {"value": value}


def write_results(records: Sequence[Record], results: Path, summary: Path, reference: str) -> None:
    """Write `results.parquet` and `summary.md`, each atomically.

    Args:
        records: Records of all finished cells.
        results: The Parquet file.
        summary: The Markdown file.
        reference: The method with which others are compared.
    """
    import pyarrow.parquet as pq

    with atomic_file(results) as temporary:
        pq.write_table(results_table(records), temporary)
    with atomic_file(summary) as temporary:
        temporary.write_text(summary_text(records, reference), encoding="utf-8")


def summary_text(records: Sequence[Record], reference: str) -> str:
    """Return the tables in Markdown: scores, differences, other sets and cost."""
    from jinja2 import Environment, PackageLoader

    jinja = Environment(
        loader=PackageLoader("bayeslora", "experiments"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (Markdown)
    )
    by_key = defaultdict(list)
    for record in records:
        cell = record["cell"]
        by_key[cell["protocol"], cell["task"], cell["backbone"], cell["rows"]].append(record)
    return jinja.get_template("summary.md.j2").render(
        groups=[_group(group, reference) for group in by_key.values()],
        reference=reference,
        protocols=PROTOCOLS,
        table=_table,
        shown=shown,
        signed=partial(shown, sign=True),
        cost=_cost,
    )


def _group(records: Sequence[Record], reference: str) -> dict[str, Any]:
    """Return records of one task and size with their values and deviations, for the template."""
    sets: dict[str, Values] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    deviations = defaultdict(list)
    for record in records:
        method, seed = record["cell"]["method"], record["cell"]["seed"]
        for deviation in record["deviations"]:
            deviations[deviation].append(method)
        for name, score, by, result in _results(record):
            sets[name][f"{score} by {by}" if by else score][method][seed] = result["value"]
    for record in records:  # the last row of a table
        for score, number in record["prior"].items():
            sets[REPORTED][score][_PRIOR][record["cell"]["seed"]] = number
    differences = _differences(sets[REPORTED], reference)
    return {"records": records, "deviations": deviations, "sets": sets, "differences": differences}


def _differences(values: Values, reference: str) -> Values:
    """Return the differences of the scores from those of the reference with the same seed."""
    differences: Values = defaultdict(dict)
    for score in SCORES:
        base = values[score].get(reference, {})
        for method, by_seed in values[score].items():
            pairs = {seed: by_seed[seed] - base[seed] for seed in by_seed.keys() & base.keys()}
            if pairs and method not in {reference, _PRIOR}:
                differences[score][method] = pairs
    return differences


def _table(
    values: Values, columns: Mapping[str, str], show: Callable[[Sequence[float]], str]
) -> str:
    """Return a row for each method, with a column for each score and the number of seeds.

    Args:
        values: The values of a set.
        columns: Score by title; scores without values have no column.
        show: Returns the values of a method in words.
    """
    shown_scores = {title: values[score] for title, score in columns.items() if score in values}
    rows = [
        [
            method,
            *(show([*each.get(method, {}).values()]) for each in shown_scores.values()),
            str(len(seeds)),
        ]
        for method, seeds in next(iter(shown_scores.values())).items()
    ]
    return markdown_table(["method", *shown_scores, "seeds"], rows)


def cell_scores(record: Record) -> dict[str, Any]:
    """Return the key of a cell, its scores on the reported rows by name, and its cost."""
    scores = record["scores"][REPORTED]["scores"]
    return {
        **record["cell"],
        "scores": {key: score["value"] for key, score in scores.items()},
        "seconds": record["seconds"],
    }


def sort_key(value: Any) -> tuple[int, float, str]:
    """Return a sort key that puts missing values before numbers, and numbers before text."""
    if value is None:
        return 0, 0.0, ""
    return (2, 0.0, value) if isinstance(value, str) else (1, value, "")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def shown(values: Sequence[float], *, sign: bool = False) -> str:
    """Return `mean ± half` of the 95 % t interval, the mean of one value, or an empty text."""
    if not values:
        return ""
    style = "+.3f" if sign else ".3f"
    if len(values) == 1:
        return format(values[0], style)
    from bayeslora.metrics.seeds import t_interval

    score = t_interval(values)
    return f"{format(score.value, style)} ± {score.value - score.low:.3f}"


def _cost(values: Sequence[float]) -> str:
    mean = fmean(values)
    return f"{mean:,.0f}" if mean >= 1000 else f"{mean:.3g}"
