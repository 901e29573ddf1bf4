"""Tables of an experiment: one row per score per cell, and means over seeds in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeslora.experiments.protocols import PROTOCOLS
from bayeslora.experiments.records import REPORTED
from bayeslora.files import atomic_file

if TYPE_CHECKING:
    import pyarrow as pa

SCORES = ("accuracy", "nll", "ece", "brier")
"""The scores of `summary.md`; `results.parquet` has all."""
OOD_SCORES = ("max_probability", "epistemic")
"""The uncertainties whose AUROC `summary.md` shows."""

_HIGHER = frozenset({"accuracy"})
_TEXTS = ("protocol", "task", "backbone", "method", "adapter", "posterior", "cell")
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

    def row(where: str, score: str, by: str | None, found: Any) -> dict[str, Any]:
        value = found if isinstance(found, Mapping) else {"value": found}
        ends = {end: value.get(end) for end in ("low", "high")}
        return {**shared, "set": where, "score": score, "by": by, "value": value["value"], **ends}

    for name, scores in record["scores"].items():
        where = record["split"] if name == "reported" else name
        for key, found in scores["scores"].items():
            yield row(where, key, None, found)
    for name, detected in reported["ood"].items():
        for by, scores in detected["by_score"].items():
            for key in (one for one in _DETECTION if one in scores):
                yield row(name, key, by, scores[key])
    for key, value in record["seconds"].items():
        yield row("cost", f"seconds_{key}", None, value)
    for key in ("passes", "peak_memory_bytes"):
        yield row("cost", key, None, float(record[key]))


def write_results(records: Sequence[Record], results: Path, summary: Path, reference: str) -> None:
    """Write `results.parquet` and `summary.md`, each whole or not at all.

    Args:
        records: Of all finished cells.
        results: The Parquet file.
        summary: The Markdown file.
        reference: The method that the others are compared with.
    """
    import pyarrow.parquet as pq

    with atomic_file(results) as aside:
        pq.write_table(results_table(records), aside)
    with atomic_file(summary) as aside:
        aside.write_text(summary_text(records, reference), encoding="utf-8")


def summary_text(records: Sequence[Record], reference: str) -> str:
    """Return the tables in Markdown: scores, differences, detection, and cost at the end."""
    blocks = [
        "# Results",
        "Means over seeds ± half of the 95 % t interval; one seed has none. Differences are paired "
        f"by seed, method less *{reference}*. NLL in nats.",
    ]
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        cell = record["cell"]
        key = (cell["protocol"], cell["task"], cell["backbone"], cell["rows"])
        groups.setdefault(key, []).append(record)
    for (name, task, backbone, rows), found in groups.items():
        size = "" if rows is None else f", {rows:,} labelled rows"
        blocks += [f"## {task}, {backbone}{size}: protocol {name}", _caption(name, found)]
        blocks += _score_tables(found, reference)
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
        gone = ", ".join(f"{count:,} {why}" for why, count in first["dropped"].items())
        lines.append(f"Dropped rows: {gone}.")
    deviations: dict[str, list[str]] = {}
    for record in records:
        for one in record["deviations"]:
            methods = deviations.setdefault(one, [])
            if record["cell"]["method"] not in methods:
                methods.append(record["cell"]["method"])
    everyone = len({record["cell"]["method"] for record in records})
    said = [
        one if len(methods) == everyone else f"{one} ({', '.join(methods)})"
        for one, methods in deviations.items()
    ]
    if said:
        lines.append("Not as in the protocol:\n\n" + "\n".join(f"- {one}" for one in said))
    return "\n\n".join(lines)


def _score_tables(records: Sequence[Record], reference: str) -> list[str]:
    methods = list(dict.fromkeys(record["cell"]["method"] for record in records))
    found = {key: _values(records, lambda one, k=key: _score(one, k)) for key in SCORES}
    rows = [
        [method, *(_mean(found[key].get(method, {})) for key in SCORES), _seeds(records, method)]
        for method in methods
    ]
    arrows = [f"{key} {'↑' if key in _HIGHER else '↓'}" for key in SCORES]
    blocks = [markdown_table(["method", *arrows, "seeds"], rows)]
    if reference in methods and len(methods) > 1:
        rows = [
            [method, *(_difference(found[key], method, reference) for key in SCORES)]
            for method in methods
            if method != reference
        ]
        blocks += [f"Less *{reference}*:", markdown_table(["method", *arrows], rows)]
    return blocks + _ood_tables(records, methods)


def _ood_tables(records: Sequence[Record], methods: Sequence[str]) -> list[str]:
    first = records[0]["scores"]["reported"]["ood"]
    if not first:
        return []
    head, columns = ["method"], []
    for name, detected in first.items():
        for by in OOD_SCORES:
            values = _values(records, lambda one, n=name, b=by: _auroc(one, n, b))
            if values:
                head.append(f"{name} by {by.replace('_', ' ')}")
                columns.append(values)
        labelled = _values(records, lambda one, n=name: _score(one, "accuracy", n))
        if labelled:
            nll, ece = (
                _values(records, lambda one, n=name, k=key: _score(one, k, n))
                for key in ("nll", "ece")
            )
            head += [f"{name} accuracy", f"{name} NLL", f"{name} ECE"]
            columns += [labelled, nll, ece]
        del detected
    rows = [[method, *(_mean(values.get(method, {})) for values in columns)] for method in methods]
    counts = _options_beside(records[0])
    sizes = ", ".join(f"{name} {one['n_out']:,}" for name, one in first.items())
    inside = next(iter(first.values()))["n_in"]
    return [
        f"Detection of out-of-distribution rows, AUROC ↑ ({inside:,} rows inside; {sizes}), and "
        "scores of the sets that have labels:",
        markdown_table(head, rows),
        *counts,
    ]


def _classes(record: Record) -> str:
    """Return how many classes or options the reported rows have, and what guessing gets right."""
    mean, most = _mean_options(record).get(REPORTED), record["num_classes"]
    classes = f"{most} classes" if mean is None else f"up to {most} options, {mean:.3g} in the mean"
    chance = record["scores"][REPORTED].get("chance_accuracy")
    return classes if chance is None else f"{classes}, chance accuracy {chance:.3f}"


def _options_beside(record: Record) -> list[str]:
    """Return a note on OOD sets whose questions have more or fewer options, if there are any."""
    means = _mean_options(record)
    inside = means.pop(REPORTED, None)
    others = [
        f"{name} {mean:.3g}"
        for name, mean in means.items()
        if inside is not None and mean is not None and f"{mean:.3g}" != f"{inside:.3g}"
    ]
    if not others:
        return []
    return [
        "Entropies and the highest probability depend on the number of options, so part of what "
        f"they detect here may be that: {inside:.3g} in the mean of the reported rows, "
        f"{', '.join(others)}."
    ]


def _mean_options(record: Record) -> dict[str, float | None]:
    return dict(record.get("mean_options", {}))  # records of earlier versions have none


def _cost_table(groups: Mapping[tuple[Any, ...], Sequence[Record]]) -> str:
    rows = []
    for (_, task, backbone, size), records in groups.items():
        for method in dict.fromkeys(record["cell"]["method"] for record in records):
            own = [record for record in records if record["cell"]["method"] == method]

            def mean(value: Any, own: Sequence[Record] = own) -> float:
                return float(sum(value(one) for one in own)) / len(own)

            rows.append(
                [
                    *(task, backbone, "all" if size is None else f"{size:,}", method),
                    f"{mean(lambda one: one['seconds']['fit']):.1f}",
                    f"{mean(lambda one: one['seconds']['predict_per_1000']):.2f}",
                    f"{mean(lambda one: one['passes']):.0f}",
                    f"{mean(lambda one: one['peak_memory_bytes']) / 1e9:.2f}",
                ]
            )
    head = ["task", "backbone", "rows", "method", "fit, s", "1,000 predictions, s", "passes"]
    return markdown_table([*head, "peak memory, GB"], rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += ["| " + " | ".join(one.replace("|", "\\|") for one in row) + " |" for row in rows]
    return "\n".join(lines)


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % t interval, which is infinite for one value."""
    if len(values) < 2:
        return sum(values) / len(values), math.inf
    from bayeslora.metrics.seeds import t_interval

    score = t_interval(values)
    return score.value, score.value - score.low


def shown(values: Sequence[float], *, sign: bool = False) -> str:
    """Return `mean ± half`, and the mean alone of one value; nothing of none."""
    if not values:
        return ""
    mean, half = mean_and_half(values)
    text = f"{mean:+.3f}" if sign else f"{mean:.3f}"
    return text + (f" ± {half:.3f}" if math.isfinite(half) else "")


def _mean(by_seed: Mapping[int, float]) -> str:
    return shown([by_seed[seed] for seed in sorted(by_seed)])


def _difference(found: Values, method: str, reference: str) -> str:
    ours, theirs = found.get(method, {}), found.get(reference, {})
    seeds = sorted(ours.keys() & theirs.keys())
    return shown([ours[seed] - theirs[seed] for seed in seeds], sign=True)


def _values(records: Sequence[Record], value: Any) -> Values:
    found: Values = {}
    for record in records:
        number = value(record)
        if number is not None:
            cell = record["cell"]
            found.setdefault(cell["method"], {})[cell["seed"]] = number
    return found


def _score(record: Record, key: str, where: str = "reported") -> float | None:
    scores = record["scores"].get(where, {}).get("scores", {})
    return scores[key]["value"] if key in scores else None


def _auroc(record: Record, name: str, by: str) -> float | None:
    detected = record["scores"]["reported"]["ood"].get(name, {})
    scores = detected.get("by_score", {}).get(by)
    return None if scores is None else scores["auroc"]["value"]


def _seeds(records: Sequence[Record], method: str) -> str:
    return str(sum(record["cell"]["method"] == method for record in records))


def _span(numbers: Iterable[int]) -> str:
    found = sorted({*numbers})
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"
