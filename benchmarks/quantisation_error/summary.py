"""Quantisation error: tables and claims from stored errors."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from bayeslora.io.files import atomic_file
from benchmarks.lib.results import Results, Row
from benchmarks.lib.tables import shown, table
from benchmarks.lib.verdicts import Claim
from benchmarks.quantisation_error.methods import GROUP, STEPS

# Claims of the paper: text, method with the smaller error, and method with the larger error.
COMPARISONS = (
    ("smaller quantisation error than without an adapter", "pissa-1", "none"),
    ("smaller than LoftQ's, both with one step", "pissa-1", "loftq-1"),
    (f"smaller with {STEPS} alternating steps than with one", f"pissa-{STEPS}", "pissa-1"),
    (f"smaller than LoftQ's, both with {STEPS} steps", f"pissa-{STEPS}", f"loftq-{STEPS}"),
)
KEY = ("backbone", "quantiser", "r", "place")
METHODS = ("pissa-1", f"pissa-{STEPS}", "loftq-1", f"loftq-{STEPS}")


def write_summary(out: Path) -> None:
    """Write the tables from the stored scores."""
    parts = [
        "# Quantisation error with principal adapters\n\n"
        "Share of the nuclear norm of a 4-bit quantisation error that an adapter of rank r takes "
        f"away, in %, groups of {GROUP} entries; means over linear layers ± half a 95 % t interval "
        "over them (they are all layers of the model, so the interval applies to layers like "
        "these). `pissa-T` and `loftq-T` take T alternating steps. Weights of `smollm2-135m` were "
        "4-bit when they were published (Q4_1, groups of 32), so they lie on a grid that neither "
        "quantiser has; those of `minilm` were never quantised. Made by `python "
        "-m benchmarks.quantisation_error`."
    ]
    parts += [f"## {title}\n\n{_table(rows)}" for title, rows in _settings(out).items()]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _settings(out: Path) -> dict[str, list[Row]]:
    """Return the rows of all layers by model, quantiser and rank."""
    settings: dict[str, list[Row]] = {}
    for row in Results(out, KEY).rows():
        title = f"{row['backbone']}, {row['quantiser']} r={row['r']}"
        settings.setdefault(title, []).append(row)
    return settings


def _table(results: list[Row]) -> str:
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in results:
        for kind in (_kind(row["layer"]), "all"):
            kinds[kind].append(row)
    head = ["layer", "number", *METHODS, "worse than without: pissa-1", "loftq-1"]
    rows = []
    for kind, layers in sorted(kinds.items(), key=lambda item: item[0] == "all"):
        cells = [shown([100 * layer[method] for layer in layers], 2) for method in METHODS]
        worse = [str(sum(layer[key] < 0 for layer in layers)) for key in ("pissa-1", "loftq-1")]
        rows.append([kind, str(len(layers)), *cells, *worse])
    return table(head, rows)


def _kind(name: str) -> str:
    """Return the name of a layer inside its transformer layer."""
    parts = name.split(".")
    start = max((place + 1 for place, part in enumerate(parts) if part.isdigit()), default=0)
    return ".".join(parts[start:])


def claims(out: Path) -> list[Claim]:
    """Return the paper's claims with the stored gains."""
    listed = []
    for title, rows in _settings(out).items():
        for text, better, worse in COMPARISONS:
            gains = tuple(100 * (row[better] - row.get(worse, 0.0)) for row in rows)
            listed.append(Claim("QPiSSA", f"{text} ({title})", "%", gains, "layers", exact=True))
    return listed
