"""Does any method gain on another if all have the same grid of learning rates?

PoLAR and LoRA, each with VBLL and by maximum likelihood: the adapter's rate at a third, once and
three times its default, the head's at 0.006, 0.02 and 0.05. MiniLM, 128 rows, five epochs, nothing
held out; the three development sets of `reading`, 32 tokens of a text. The defaults are a pair of
the grid: the adapter's own rate, and 0.02 or, for VBLL, 0.05, to which it raises its rate of 0.005
in fits as short as these. (So the lowest rate is 0.006, which it takes as it is.)

Rules, written before any cell:

1. Each method takes the pair of rates with the lowest mean NLL over the sets and two draws (seeds 5
   and 6), at the scale of the logits that is best on the scoring rows, as in `parts`: `cv` chooses
   a scale in the comparison that matters.
2. With these rates and with its defaults it is fitted to five other draws (seeds 0 to 4). A method
   is said to be ahead there if the 95 % t interval of the paired differences in that NLL leaves out
   zero. The scoring rows are the same, so this says nothing about other rows.
3. Rates that lower it for a method by more than that interval, and by .01, become its defaults if
   they also do so with `cv` (`label_budget`).

Outcome: the defaults are the best pair of the grid for all but LoRA-VBLL, whose choice (.001 better
there) is .010 ± .015 worse on the other draws, so no default changes. LoRA is ahead of PoLAR-VBLL
by .021 ± .013 (over sets .021 ± .027; as fitted .014 ± .032), LoRA-VBLL at its defaults by .015 ±
.011 (15 pairs each). The highest head rate of the grid is the best for VBLL, and also the highest
that `fit` chooses.

    python -m benchmarks.equal_rates --data-dir DIR
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from bayeslora import MLE, VBLL, LoRA, PoLAR
from bayeslora.backbones.load import load_backbone
from bayeslora.experiments.rows import drawn
from bayeslora.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import pools_of
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table
from benchmarks.lib.task_rows import TASKS
from benchmarks.parts.__main__ import fit, scores

KEY = ("task", "method", "rates", "seed")
SIZE, EPOCHS, BACKBONE = 128, 5, "minilm"
CHOOSING, JUDGING = (5, 6), (0, 1, 2, 3, 4)
HEAD_RATES, SHARES = (0.006, 0.02, 0.05), {"a third": 1 / 3, "default": 1.0, "three times": 3.0}
METHODS: dict[str, tuple[type[Any], type[Any]]] = {
    "PoLAR-VBLL": (PoLAR, VBLL),
    "LoRA-VBLL": (LoRA, VBLL),
    "PoLAR": (PoLAR, MLE),
    "LoRA": (LoRA, MLE),
}
OURS = "PoLAR-VBLL"
Cells = dict[tuple[str, int], dict[str, float]]


def main() -> None:
    """Run the missing fits, then write the table."""
    args = study_parser(__doc__, "reports/equal-rates").parse_args()
    results = Results(args.out, KEY)
    backbone = load_backbone(BACKBONE)
    pools = {task: pools_of(task, args.data_dir) for task in TASKS}

    def run(seeds: tuple[int, ...], plan: dict[str, list[str]]) -> None:
        for seed, task in product(seeds, TASKS):
            train = drawn(pools[task].train, SIZE, seed)
            for method, names in plan.items():
                for rates in names:
                    cell = {"task": task, "method": method, "rates": rates, "seed": seed}
                    if results.get(**cell) is not None:
                        continue
                    adapter, posterior, options = options_of(method, rates)
                    clf = fit(backbone, adapter, posterior, train, seed, epochs=EPOCHS, **options)
                    row = scores(clf.predict(pools[task].score))
                    results.append({**cell, **row})
                    print(*cell.values(), round(row["nll_scaled"], 3), flush=True)
            backbone.prefix_states.clear()
            write_summary(args.out)

    grid = [named(share, rate) for share, rate in product(SHARES, HEAD_RATES)]
    run(CHOOSING, dict.fromkeys(METHODS, grid))
    run(
        JUDGING,
        {method: [*dict.fromkeys((defaults(), chosen(results, method)))] for method in METHODS},
    )
    results.sort()
    write_summary(args.out)


def named(share: str, head_rate: float) -> str:
    """Return the name of a pair of rates."""
    return f"{share}, {head_rate:g}"


def defaults() -> str:
    """Return the name of the default rates."""
    return named("default", 0.02)


def options_of(method: str, rates: str) -> tuple[Any, Any, dict[str, float]]:
    """Return the adapter, the posterior and the options of `fit` for a method's rates."""
    adapter, posterior = METHODS[method]
    share, rate = rates.rsplit(", ", 1)
    scaled = adapter(lr=SHARES[share] * adapter.default_lr)
    if posterior is VBLL:
        return scaled, VBLL(head_lr=float(rate)), {}
    return scaled, posterior(), {"head_lr": float(rate)}


def chosen(results: Results, method: str) -> str:
    """Return the rates of lowest mean NLL at the best scale over the choosing draws."""
    return min(averages(results, method), key=averages(results, method).__getitem__)


def averages(results: Results, method: str) -> dict[str, float]:
    """Return the mean NLL at the best scale of each pair of rates over the choosing draws."""
    stored: dict[str, list[float]] = {}
    for row in results.rows(method=method):
        if row["seed"] in CHOOSING:
            stored.setdefault(row["rates"], []).append(row["nll_scaled"])
    return {rates: fmean(values) for rates, values in stored.items()}


def write_summary(out: Path) -> None:
    """Write the grid, and the methods at their chosen rates and at their defaults."""
    results = Results(out, KEY)
    parts = [
        "# Equal grids of rates",
        f"MiniLM, {SIZE} rows, {EPOCHS} epochs, nothing held out, three development sets. NLL in "
        "nats at the scale of the logits that is best on the scoring rows. Made by `python -m "
        "benchmarks.equal_rates --data-dir DIR`, whose first lines have the rules.",
        f"## Mean over the sets and {len(CHOOSING)} draws",
    ]
    grid = [named(share, rate) for share, rate in product(SHARES, HEAD_RATES)]
    lines = []
    for method in METHODS:
        means = averages(results, method)
        least = min(means.values(), default=0.0)
        written = [f"{means[rates]:.3f}" if rates in means else "" for rates in grid]
        lines.append(
            (method, *(f"**{text}**" if text == f"{least:.3f}" else text for text in written))
        )
    parts.append(table(("adapter's rate, head's", *grid), lines))
    judged = {
        (method, rates): cells
        for method in METHODS
        for rates in judged_rates(results, method)
        if (cells := _judged(results, method, rates))
    }
    if judged:
        ours = judged.get((OURS, judged_rates(results, OURS)[-1]), {})
        lines = [
            (
                method,
                f"{rates} ({roles_of(results, method, rates)})",
                f"{fmean(row['nll_scaled'] for row in cells.values()):.3f}",
                _gap(cells, ours),
                _gap(cells, judged.get((method, defaults()), {})),
            )
            for (method, rates), cells in judged.items()
        ]
        heads = ("method", "rates", "NLL", f"less {OURS} at its chosen rates", "less defaults")
        parts += [
            f"## {len(JUDGING)} other draws",
            "Differences are paired by set and draw, ± half a 95 % interval.",
            table(heads, lines),
        ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def judged_rates(results: Results, method: str) -> list[str]:
    """Return the default rates of a method, then those chosen for it, if they are others."""
    of_choice = [chosen(results, method)] if averages(results, method) else []
    return [*dict.fromkeys((defaults(), *of_choice))]


def roles_of(results: Results, method: str, rates: str) -> str:
    """Return whether rates are the defaults, the chosen ones, or both."""
    roles = {"defaults": defaults(), "chosen": judged_rates(results, method)[-1]}
    return ", ".join(role for role, value in roles.items() if value == rates)


def _judged(results: Results, method: str, rates: str) -> Cells:
    rows = results.rows(method=method, rates=rates)
    return {(row["task"], row["seed"]): row for row in rows if row["seed"] in JUDGING}


def _gap(cells: Cells, others: Cells) -> str:
    if cells is others:
        return ""
    shared = sorted(cells.keys() & others.keys())
    return shown([cells[key]["nll_scaled"] - others[key]["nll_scaled"] for key in shared])


if __name__ == "__main__":
    main()
