"""Tables of an experiment: one row per score per cell, and means over seeds in Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bayeslora.experiments.protocols import PROTOCOLS
from bayeslora.experiments.records import REPORTED, SCORES
from bayeslora.io.files import atomic_file
from bayeslora.plain_text import counted

if TYPE_CHECKING:
    import pyarrow as pa

OOD_SCORES = ("max_probability", "epistemic")
"""Uncertainties whose AUROC is in `summary.md`."""

_HIGHER = frozenset({"accuracy"})
_PRIOR = "*no model*"
_DETECTION = ("auroc", "aupr", "fpr95", "aupr_in")

Record = Mapping[str, Any]
Values = dict[str, dict[int, float]]
"""Values by method and seed."""


def results_table(records: Sequence[Record]) -> pa.Table:
    """Return one row per score per cell.

    Columns: the key of the cell (`protocol`, `task`, `backbone`, `method`, `rows`, `seed`),
    `adapter`, `posterior`, `split`, `num_classes`, `num_bins`, `num_train`, `prompt_hash`, `set`
    (the reported split, an OOD set, or `cost`), `score`, `by` (the uncertainty of a detection
    score) and `value` with `low` and `high`, its 95 % interval over rows.
    """
    import pyarrow as pa

    rows = [row for record in records for row in _rows(record)]
    columns = {
        **dict.fromkeys(("protocol", "task", "backbone", "method"), pa.string()),
        **dict.fromkeys(("rows", "seed"), pa.int64()),
        **dict.fromkeys(("adapter", "posterior", "split"), pa.string()),
        **dict.fromkeys(("num_classes", "num_bins", "num_train"), pa.int64()),
        **dict.fromkeys(("prompt_hash", "set", "score", "by"), pa.string()),
        **dict.fromkeys(("value", "low", "high"), pa.float64()),
    }
    return pa.table(
        {name: pa.array([row[name] for row in rows], kind) for name, kind in columns.items()}
    )


def _rows(record: Record) -> Iterable[dict[str, Any]]:
    reported = record["scores"]["reported"]
    shared = {
        **record["cell"],
        **{key: record[key] for key in ("split", "num_classes", "num_train", "prompt_hash")},
        "num_bins": reported["num_bins"],
    }

    def row(set_name: str, score: str, by: str | None, result: Any) -> dict[str, Any]:
        value = result if isinstance(result, Mapping) else {"value": result}
        ends = {end: value.get(end) for end in ("low", "high")}
        return {
            **shared,
            "set": set_name,
            "score": score,
            "by": by,
            "value": value["value"],
            **ends,
        }

    for name, scores in record["scores"].items():
        set_name = record["split"] if name == "reported" else name
        for key, result in scores["scores"].items():
            yield row(set_name, key, None, result)
    for name, detected in reported["ood"].items():
        for by, scores in detected["by_score"].items():
            for key in (key for key in _DETECTION if key in scores):
                yield row(name, key, by, scores[key])
    for key, value in record["seconds"].items():
        yield row("cost", f"seconds_{key}", None, value)
    for key in ("passes", "peak_memory_bytes", "num_parameters"):
        if key in record:  # records of earlier versions lack the last
            yield row("cost", key, None, float(record[key]))


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
    """Return the tables in Markdown: scores, differences, detection and cost."""
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
    for (name, task, backbone, rows), group in groups.items():
        size = "" if rows is None else f", {rows:,} labelled rows"
        blocks += [f"## {task}, {backbone}{size}: protocol {name}", _caption(name, group)]
        blocks += _score_tables(group, reference)
    blocks += ["## Cost", "Mean over seeds.", _cost_table(groups)]
    return "\n\n".join(blocks) + "\n"


def _caption(name: str, records: Sequence[Record]) -> str:
    first = records[0]
    known = PROTOCOLS.get(name)
    settings = "" if known is None else f" {known.described()}."
    seeds = sorted({record["cell"]["seed"] for record in records})
    facts = [
        f"{first['num_reported']:,} {first['split']} rows",
        _classes(first),
        f"{_span(record['num_train'] for record in records)} training rows",
        f"seeds {', '.join(map(str, seeds))}",
        f"prompts {', '.join(sorted({record['prompt_hash'][:12] for record in records}))}",
    ]
    lines = [f"Protocol {name}:{settings} Here: {'; '.join(facts)}."]
    if first["dropped"]:
        dropped = ", ".join(f"{count:,} {why}" for why, count in first["dropped"].items())
        lines.append(f"Dropped rows: {dropped}.")
    machines = Counter(_machine(record) for record in records)
    if len(machines) > 1:
        counts = ", ".join(f"{name} ({counted(n, 'cell')})" for name, n in machines.items())
        lines.append(f"Processors, between which fits differ as between seeds: {counts}.")
    deviations: dict[str, list[str]] = {}
    for record in records:
        for deviation in record["deviations"]:
            methods = deviations.setdefault(deviation, [])
            if record["cell"]["method"] not in methods:
                methods.append(record["cell"]["method"])
    everyone = len({record["cell"]["method"] for record in records})
    notes = [
        deviation if len(methods) == everyone else f"{deviation} ({', '.join(methods)})"
        for deviation, methods in deviations.items()
    ]
    if notes:
        lines.append("Deviations from the protocol:\n\n" + "\n".join(f"- {note}" for note in notes))
    choices = [_choice(record) for record in records if record["chosen"]]
    if choices:
        lines.append("Chosen by search:\n\n" + "\n".join(f"- {choice}" for choice in choices))
    return "\n\n".join(lines)


def _machine(record: Record) -> str:
    """Return the processor and the dtype of the weights; records of earlier versions have none."""
    if "processor" not in record:
        return "not recorded"
    return f"{record['processor']}, {record['backbone']['dtype']}"


def _choice(record: Record) -> str:
    options = ", ".join(f"{name} = {value}" for name, value in record["chosen"].items())
    cell = record["cell"]
    return f"{cell['method']}, seed {cell['seed']}: {options} ({len(record['trials'])} trials)"


def _score_tables(records: Sequence[Record], reference: str) -> list[str]:
    methods = list(dict.fromkeys(record["cell"]["method"] for record in records))
    values = {key: _values(records, lambda record, k=key: _score(record, k)) for key in SCORES}
    rows = [
        [method, *(_mean(values[key].get(method, {})) for key in SCORES), _seeds(records, method)]
        for method in methods
    ]
    if all("prior" in record for record in records):  # records of earlier versions have none
        priors = {key: [record["prior"][key] for record in records] for key in SCORES}
        rows.append([_PRIOR, *(f"{fmean(priors[key]):.3f}" for key in SCORES), ""])
    arrows = [f"{key} {'↑' if key in _HIGHER else '↓'}" for key in SCORES]
    blocks = [markdown_table(["method", *arrows, "seeds"], rows)]
    if reference in methods and len(methods) > 1:
        rows = [
            [method, *(_difference(values[key], method, reference) for key in SCORES)]
            for method in methods
            if method != reference
        ]
        blocks += [f"Difference from *{reference}*:", markdown_table(["method", *arrows], rows)]
    return blocks + _shift_tables(records, methods) + _ood_tables(records, methods)


def _shift_tables(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    """Return NLL and ECE of the reported rows under each corruption."""
    names = records[0]["settings"].get("corruptions", {}).get("sets", [])
    blocks = []
    for key in ("nll", "ece") if names else ():
        columns = [
            _values(records, lambda record, n=name, k=key: _score(record, k, n)) for name in names
        ]
        rows = [
            [method, *(_mean(values.get(method, {})) for values in columns)] for method in methods
        ]
        blocks += [f"{key} ↓ of corrupted rows:", markdown_table(["method", *names], rows)]
    return blocks


def _ood_tables(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    first = records[0]["scores"]["reported"]["ood"]
    if not first:
        return []
    head, columns = ["method"], []
    for name in first:
        for by in OOD_SCORES:
            values = _values(records, lambda record, n=name, b=by: _auroc(record, n, b))
            if values:
                head.append(f"{name} by {by.replace('_', ' ')}")
                columns.append(values)
        labelled = _values(records, lambda record, n=name: _score(record, "accuracy", n))
        if labelled:
            nll, ece = (
                _values(records, lambda record, n=name, k=key: _score(record, k, n))
                for key in ("nll", "ece")
            )
            head += [f"{name} accuracy", f"{name} NLL", f"{name} ECE"]
            columns += [labelled, nll, ece]
    rows = [[method, *(_mean(values.get(method, {})) for values in columns)] for method in methods]
    counts = _options_beside(records[0])
    sizes = ", ".join(f"{name} {detection['n_out']:,}" for name, detection in first.items())
    inside = next(iter(first.values()))["n_in"]
    return [
        f"Detection of out-of-distribution rows, AUROC ↑ ({inside:,} in-distribution rows; "
        f"{sizes}), and scores of the labelled sets:",
        markdown_table(head, rows),
        *counts,
    ]


def _classes(record: Record) -> str:
    """Return the number of classes or options of the reported rows, and the chance accuracy."""
    mean, most = _mean_options(record).get(REPORTED), record["num_classes"]
    classes = f"{most} classes" if mean is None else f"up to {most} options, {mean:.3g} on average"
    chance = record["scores"][REPORTED].get("chance_accuracy")
    return classes if chance is None else f"{classes}, chance accuracy {chance:.3f}"


def _options_beside(record: Record) -> list[str]:
    """Return a note on OOD sets with a different mean number of options, if there are any."""
    means = _mean_options(record)
    inside = means.pop(REPORTED, None)
    differing = [
        f"{name} {mean:.3g}"
        for name, mean in means.items()
        if inside is not None and mean is not None and f"{mean:.3g}" != f"{inside:.3g}"
    ]
    if not differing:
        return []
    return [
        "Entropies and the highest probability depend on the number of options, which may "
        f"explain part of their detection: {inside:.3g} options on average in the reported rows, "
        f"{', '.join(differing)}."
    ]


def _mean_options(record: Record) -> dict[str, float | None]:
    return dict(record.get("mean_options", {}))  # records of earlier versions have none


def _cost_table(groups: Mapping[tuple[Any, ...], Sequence[Record]]) -> str:
    rows = []
    for (_, task, backbone, size), records in groups.items():
        for method in dict.fromkeys(record["cell"]["method"] for record in records):
            fits = [record for record in records if record["cell"]["method"] == method]

            def mean(value: Any, fits: Sequence[Record] = fits) -> float:
                return float(sum(value(record) for record in fits)) / len(fits)

            rows.append(
                [
                    *(task, backbone, "all" if size is None else f"{size:,}", method),
                    f"{mean(lambda record: record['seconds']['fit']):.1f}",
                    f"{mean(lambda record: record['seconds']['predict_per_1000']):.2f}",
                    f"{mean(lambda record: record['passes']):.0f}",
                    f"{mean(lambda record: record['peak_memory_bytes']) / 1e9:.2f}",
                    f"{mean(lambda record: record.get('num_parameters', 0)):,.0f}",
                ]
            )
    head = ["task", "backbone", "rows", "method", "fit, s", "1,000 predictions, s", "passes"]
    return markdown_table([*head, "peak memory, GB", "adapter parameters"], rows)


def cell_scores(record: Record) -> dict[str, Any]:
    """Return the key of a cell, its scores on the reported rows by name, and its cost."""
    scores = record["scores"][REPORTED]["scores"]
    return {
        **record["cell"],
        "scores": {key: score["value"] for key, score in scores.items()},
        "seconds": record["seconds"],
    }


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % t interval, infinite for one value."""
    if len(values) < 2:
        return sum(values) / len(values), math.inf
    from bayeslora.metrics.seeds import t_interval

    score = t_interval(values)
    return score.value, score.value - score.low


def shown(values: Sequence[float], *, sign: bool = False) -> str:
    """Return `mean ± half`, only the mean for one value, or an empty text for none."""
    if not values:
        return ""
    mean, half = mean_and_half(values)
    text = f"{mean:+.3f}" if sign else f"{mean:.3f}"
    return text + (f" ± {half:.3f}" if math.isfinite(half) else "")


def _mean(by_seed: Mapping[int, float]) -> str:
    return shown([by_seed[seed] for seed in sorted(by_seed)])


def _difference(values: Values, method: str, reference: str) -> str:
    compared, baseline = values.get(method, {}), values.get(reference, {})
    seeds = sorted(compared.keys() & baseline.keys())
    return shown([compared[seed] - baseline[seed] for seed in seeds], sign=True)


def _values(records: Sequence[Record], value: Any) -> Values:
    values: Values = {}
    for record in records:
        number = value(record)
        if number is not None:
            cell = record["cell"]
            values.setdefault(cell["method"], {})[cell["seed"]] = number
    return values


def _score(record: Record, key: str, set_name: str = "reported") -> float | None:
    scores = record["scores"].get(set_name, {}).get("scores", {})
    return scores[key]["value"] if key in scores else None


def _auroc(record: Record, name: str, by: str) -> float | None:
    detected = record["scores"]["reported"]["ood"].get(name, {})
    scores = detected.get("by_score", {}).get(by)
    return None if scores is None else scores["auroc"]["value"]


def _seeds(records: Sequence[Record], method: str) -> str:
    return str(sum(record["cell"]["method"] == method for record in records))


def _span(numbers: Iterable[int]) -> str:
    unique = sorted({*numbers})
    return f"{unique[0]:,}" if len(unique) == 1 else f"{unique[0]:,} to {unique[-1]:,}"
