"""Tables of an experiment: one row per score per cell, and means over seeds in Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bayeslora.experiments.protocols import PROTOCOLS
from bayeslora.io.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

REPORTED = "reported"
SCORES = ("accuracy", "nll", "ece", "brier")
"""Scores in `summary.md`; `results.parquet` has all."""

_COST = "cost"
_DETECTION = ("auroc", "aupr", "fpr95", "aupr_in")
_SHOWN = {f"{score} {'↑' if score == 'accuracy' else '↓'}": (score, None) for score in SCORES}
_SHOWN_OF_SET = {
    "AUROC by max probability ↑": ("auroc", "max_probability"),
    "AUROC by epistemic ↑": ("auroc", "epistemic"),
    **_SHOWN,
}
_SHOWN_COSTS = {
    "fit, s": ("seconds_fit", None),
    "1,000 predictions, s": ("seconds_predict_per_1000", None),
    "passes": ("passes", None),
    "peak memory, bytes": ("peak_memory_bytes", None),
    "adapter parameters": ("num_parameters", None),
}
_PRIOR = "*no model*"

Record = Mapping[str, Any]
Column = tuple[str, str, str | None]
"""A set of rows, a score, and the uncertainty of a detection score."""
Values = dict[Column, dict[str, dict[int, float]]]
"""Values by column, method and seed."""


def results_table(records: Sequence[Record]) -> pa.Table:
    """Return one row per score per cell.

    Columns: the key of the cell (`protocol`, `task`, `backbone`, `method`, `rows`, `seed`),
    `adapter`, `posterior`, `split`, `num_classes`, `num_bins`, `num_train`, `prompt_hash`, `set`
    (the reported split, an OOD set, or `cost`), `score`, `by` (the uncertainty of a detection
    score) and `value` with `low` and `high`, its 95 % interval over rows.
    """
    import pyarrow as pa

    columns = {
        **dict.fromkeys(("protocol", "task", "backbone", "method"), pa.string()),
        **dict.fromkeys(("rows", "seed"), pa.int64()),
        **dict.fromkeys(("adapter", "posterior", "split"), pa.string()),
        **dict.fromkeys(("num_classes", "num_bins", "num_train"), pa.int64()),
        **dict.fromkeys(("prompt_hash", "set", "score", "by"), pa.string()),
        **dict.fromkeys(("value", "low", "high"), pa.float64()),
    }
    rows = [
        {
            **record["cell"],
            **{key: record[key] for key in ("split", "num_classes", "num_train", "prompt_hash")},
            "num_bins": record["scores"][REPORTED]["num_bins"],
            "set": record["split"] if name == REPORTED else name,
            "score": score,
            "by": by,
            **(result if isinstance(result, Mapping) else {"value": result}),
        }
        for record in records
        for (name, score, by), result in _results(record)
    ]
    return pa.Table.from_pylist(rows, pa.schema(columns))


def _results(record: Record) -> Iterable[tuple[Column, Any]]:
    """Yield every score of a record: a number, or a mapping with `value`, `low` and `high`."""
    for name, scores in record["scores"].items():
        for key, result in scores["scores"].items():
            yield (name, key, None), result
    for name, detected in record["scores"][REPORTED]["ood"].items():
        for by, scores in detected["by_score"].items():
            for key in _DETECTION:
                if key in scores:
                    yield (name, key, by), scores[key]
    for key, value in record["seconds"].items():
        yield (_COST, f"seconds_{key}", None), value
    for key in ("passes", "peak_memory_bytes", "num_parameters"):
        yield (_COST, key, None), float(record[key])


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
    groups = [_tables(group, reference) for group in by_key.values()]
    template = jinja.get_template("summary.md.j2")
    return template.render(groups=groups, reference=reference, protocols=PROTOCOLS)


def _tables(records: Sequence[Record], reference: str) -> dict[str, Any]:
    """Return records of one task and size with their tables and deviations, for the template."""
    values, deviations = _values(records), defaultdict(list)
    differences = _differences(values, reference)
    for record in records:
        for deviation in record["deviations"]:
            deviations[deviation].append(record["cell"]["method"])
    sets = dict.fromkeys(name for name, *_ in values if name not in {REPORTED, _COST})
    return {
        "records": records,
        "deviations": deviations,
        "scores": _table(values, REPORTED, _SHOWN, shown),
        "differences": differences
        and _table(differences, REPORTED, _SHOWN, partial(shown, sign=True)),
        "sets": {name: _table(values, name, _SHOWN_OF_SET, shown) for name in sets},
        "cost": _table(values, _COST, _SHOWN_COSTS, _cost),
    }


def _values(records: Sequence[Record]) -> Values:
    """Return the values of all scores, with the forecast without a model as a method."""
    values: Values = defaultdict(lambda: defaultdict(dict))
    for record in records:
        method, seed = record["cell"]["method"], record["cell"]["seed"]
        for column, result in _results(record):
            number = result["value"] if isinstance(result, Mapping) else result
            values[column][method][seed] = number
    for record in records:  # the last row of a table
        for key, number in record["prior"].items():
            values[REPORTED, key, None][_PRIOR][record["cell"]["seed"]] = number
    return values


def _differences(values: Values, reference: str) -> Values:
    """Return the differences of the scores from those of the reference with the same seed."""
    differences: Values = {}
    for score in SCORES:
        methods = values[REPORTED, score, None]
        base = methods.get(reference, {})
        for method, by_seed in methods.items():
            pairs = {seed: by_seed[seed] - base[seed] for seed in by_seed.keys() & base.keys()}
            if pairs and method not in {reference, _PRIOR}:
                differences.setdefault((REPORTED, score, None), {})[method] = pairs
    return differences


def _table(
    values: Values,
    name: str,
    columns: Mapping[str, tuple[str, str | None]],
    show: Callable[[Sequence[float]], str],
) -> str:
    """Return a row for each method, with a column for each score and the number of seeds.

    Args:
        values: The values.
        name: Name of the set of rows.
        columns: Score and uncertainty by title; scores without values have no column.
        show: Returns the values of a method in words.
    """
    found = {
        title: values[name, *column]
        for title, column in columns.items()
        if (name, *column) in values
    }
    first = next(iter(found.values()))
    rows = [
        [
            method,
            *(show([*each.get(method, {}).values()]) for each in found.values()),
            str(len(seeds)),
        ]
        for method, seeds in first.items()
    ]
    return markdown_table(["method", *found, "seeds"], rows)


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
