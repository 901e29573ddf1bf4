"""Tables of an experiment: one row per score per cell, and means over seeds in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
_COSTS = {
    "fit, s": "seconds_fit",
    "1,000 predictions, s": "seconds_predict_per_1000",
    "passes": "passes",
    "peak memory, bytes": "peak_memory_bytes",
    "adapter parameters": "num_parameters",
}
_PRIOR = "*no model*"

Record = Mapping[str, Any]
Values = dict[str, dict[int, float]]
"""Values by method and seed."""
Column = tuple[str, str, str | None]
"""A set of rows, a score, and the uncertainty of a detection score."""


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
    blocks = [
        "# Results",
        "Means over seeds ± half of the 95 % t interval (none for a single seed). Differences "
        f"are paired by seed, method minus *{reference}*. NLL in nats. {_PRIOR} predicts the share "
        "of each class in the training rows, or the same probability for every option.",
    ]
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        cell = record["cell"]
        key = (cell["protocol"], cell["task"], cell["backbone"], cell["rows"])
        groups.setdefault(key, []).append(record)
    costs = ["## Cost", "Means over seeds."]
    for (protocol, task, backbone, rows), group in groups.items():
        title = f"{task}, {backbone}" + ("" if rows is None else f", {rows:,} labelled rows")
        blocks += [f"## {title}: protocol {protocol}", _caption(group)]
        values = _values(group)
        scores = {f"{key} {_arrow(key)}": (REPORTED, key, None) for key in SCORES}
        blocks.append(_table(values, scores, shown))
        differences = _differences(values, scores.values(), reference)
        if any(differences.values()):
            blocks += [f"Difference from *{reference}*:", _table(differences, scores, _signed)]
        for name in dict.fromkeys(name for name, _, _ in values if name not in {REPORTED, _COST}):
            columns = {
                "AUROC by max probability ↑": (name, "auroc", "max_probability"),
                "AUROC by epistemic ↑": (name, "auroc", "epistemic"),
                **{f"{key} {_arrow(key)}": (name, key, None) for key in SCORES},
            }
            present = {head: column for head, column in columns.items() if column in values}
            blocks += [f"Set *{name}*:", _table(values, present, shown)]
        columns = {head: (_COST, key, None) for head, key in _COSTS.items()}
        costs += [f"{title}:", _table(values, columns, _cost)]
    return "\n\n".join(blocks + costs) + "\n"


def _arrow(score: str) -> str:
    return "↑" if score == "accuracy" else "↓"


def _values(records: Sequence[Record]) -> dict[Column, Values]:
    """Return the values of all scores, with the forecast without a model as a method."""
    values: dict[Column, Values] = {}
    for record in records:
        method, seed = record["cell"]["method"], record["cell"]["seed"]
        for column, result in _results(record):
            number = result["value"] if isinstance(result, Mapping) else result
            values.setdefault(column, {}).setdefault(method, {})[seed] = number
    for record in records:
        for key, number in record["prior"].items():
            column = (REPORTED, key, None)
            values[column].setdefault(_PRIOR, {})[record["cell"]["seed"]] = number
    return values


def _differences(
    values: Mapping[Column, Values], columns: Iterable[Column], reference: str
) -> dict[Column, Values]:
    """Return the differences of all methods from the reference by seed."""
    return {
        column: {
            method: {
                seed: by_seed[seed] - values[column][reference][seed]
                for seed in by_seed.keys() & values[column][reference].keys()
            }
            for method, by_seed in values[column].items()
            if reference in values[column] and method not in {reference, _PRIOR}
        }
        for column in columns
    }


def _table(
    values: Mapping[Column, Values],
    columns: Mapping[str, Column],
    show: Callable[[Sequence[float]], str],
) -> str:
    """Return a row for each method, with a column for each score and the number of seeds."""
    first = values[next(iter(columns.values()))]
    rows = [
        [
            method,
            *(show([*values[column].get(method, {}).values()]) for column in columns.values()),
            str(len(by_seed)),
        ]
        for method, by_seed in first.items()
    ]
    return markdown_table(["method", *columns, "seeds"], rows)


def _caption(records: Sequence[Record]) -> str:
    """Return the protocol with its settings, the rows, deviations and choices of searches."""
    first = records[0]
    facts = [
        f"{first['num_reported']:,} {first['split']} rows",
        f"up to {first['num_classes']} classes or options",
        f"{_joined(record['num_train'] for record in records)} training rows",
        f"seeds {_joined(record['cell']['seed'] for record in records)}",
        f"prompts {_joined(record['prompt_hash'][:12] for record in records)}",
    ]
    name = first["cell"]["protocol"]
    lines = [f"Protocol {name}: {PROTOCOLS[name].described()}. Here: {'; '.join(facts)}."]
    if first["dropped"]:
        dropped = ", ".join(f"{count:,} {why}" for why, count in first["dropped"].items())
        lines.append(f"Dropped rows: {dropped}.")
    machines = {f"{record['processor']}, {record['backbone']['dtype']}" for record in records}
    if len(machines) > 1:
        names = "; ".join(sorted(machines))
        lines.append(f"Processors, between which fits differ as between seeds: {names}.")
    notes: dict[str, list[str]] = {}
    for record in records:
        for deviation in record["deviations"]:
            notes.setdefault(deviation, []).append(record["cell"]["method"])
    methods = {record["cell"]["method"] for record in records}
    deviations = [
        f"- {note}" if {*those} == methods else f"- {note} ({_joined(those)})"
        for note, those in notes.items()
    ]
    choices = [
        f"- {record['cell']['method']}, seed {record['cell']['seed']}: "
        + ", ".join(f"{name} = {value}" for name, value in record["chosen"].items())
        for record in records
        if record["chosen"]
    ]
    for title, items in (("Deviations from the protocol", deviations), ("Chosen", choices)):
        if items:
            lines += [f"{title}:", "\n".join(items)]
    return "\n\n".join(lines)


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(map(str, sorted({*values})))


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


def _signed(values: Sequence[float]) -> str:
    return shown(values, sign=True)
