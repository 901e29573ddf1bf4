"""The page `docs/claims.md`: claims of the paper on PoLAR-VBLL and results of the studies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablations.__main__ import KEY as ABLATIONS_KEY
from benchmarks.claims import multiple_choice
from benchmarks.label_budget.methods import (
    BACKBONES,
    FEWEST_TO_LEAD,
    KEY,
    LONG,
    LONG_BATCH,
    LONG_STEPS,
    OURS,
)
from benchmarks.lib.pools import JUDGED
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.lib.task_rows import TASKS
from benchmarks.lib.verdicts import NOT_RUN, Claim, claims_of_one, num_not_run
from benchmarks.posteriors.choices import KEY as POSTERIORS_KEY
from benchmarks.stable_rank import summary as stable_rank
from benchmarks.unfamiliarity_weight.__main__ import KEY as DETECTION_KEY
from benchmarks.unfamiliarity_weight.__main__ import TAKEN

Row = dict[str, Any]
Key = tuple[str, int, int, str]
"""Task, labelled rows, seed and method of a cell in `label_budget`."""

# Rivals with one pass per prediction and at most as many fits as ours.
RIVALS = {
    "lora-mle, cv": "LoRA with temperature by cross-validation",
    "lora-temperature, split": "LoRA with temperature by a fifth of the rows",
    "polar-mle, cv": "PoLAR with temperature by cross-validation",
    "lora-vbll, cv": "LoRA-VBLL",
    "lora-laplace": "LoRA with last-layer Laplace",
    "last layer alone": "VBLL without an adapter",
}
MORE_PASSES = {
    "lora-ensemble": "an ensemble of three LoRA fits",
    "lora-dropout": "MC dropout over LoRA",
}
LONG_RIVALS = {
    "lora-mle, long": "LoRA",
    "polar-mle, long": "PoLAR",
    "lora-vbll, long": "LoRA-VBLL",
}
FEW, SOUP_SIZE = 32, 128
# Of a study whose code is gone, on earlier fits.
SOUPS_KEY = ("backbone", "task", "size", "method", "kind", "seed")
ONE, AVERAGE, KEPT = "cv", "mean of folds and fit", "folds kept (5 passes)"
FEW_RIVALS = {
    "lora-mle, cv": "LoRA with temperature by cross-validation",
    "lora-mle, 15 epochs, cv": "LoRA with 15 epochs and a temperature",
    "lora-mle, head rate 0.05, cv": "LoRA with VBLL's head rate and a temperature",
    "polar-mle, cv": "PoLAR with temperature by cross-validation",
    "lora-vbll, cv": "LoRA-VBLL",
}
AVERAGED = f"PoLAR-VBLL, {AVERAGE}"
AVERAGED_RIVALS = {
    f"PoLAR-VBLL, {ONE}": "its network of all rows alone",
    f"LoRA, {ONE}": "LoRA with temperature by cross-validation",
    f"LoRA, {AVERAGE}": "the same, averaged",
    f"LoRA-VBLL, {AVERAGE}": "LoRA-VBLL, averaged",
    f"PoLAR-VBLL, {KEPT}": "the folds, kept, at five passes",
}
AVERAGED_ALONE = dict([*AVERAGED_RIVALS.items()][:1])
LONG_LEAD = 0.1
JENSEN = "refit, bound jensen"
SHORT = "tuned on validation rows, at most six epochs, after which PoLAR goes on learning"
PAPER_GAP, FAR_ENOUGH = 0.35, 0.9
VERDICTS = (
    *("reproduced", "in direction only", "not reproduced"),
    *("contradicted", "too few"),
)


def page(reports: Path) -> str:
    """Return the page."""
    parts = [
        "# What PoLAR-VBLL is said to do, and what we found",
        "Claims of Xiang, Li and Lu 2026 (arXiv 2604.03388), and goals of ours (rivals with a "
        "cross-validated temperature, AUROC, the long budget's lead), each with a verdict by "
        "one rule and the numbers behind it.",
        table(
            ["verdict", "gains"],
            [
                ["reproduced", "95 % t interval of the mean above 0"],
                [
                    "in direction only",
                    "mean above 0, interval includes 0; half of all false claims get here by "
                    "chance",
                ],
                ["not reproduced", "mean not above 0, interval includes 0"],
                ["contradicted", "interval below 0"],
                ["too few", "fewer than three"],
                ["not run", "none; listed below the tables"],
            ],
        ),
        "A gain is above 0 where the claim holds, and "
        "paired by set, rows and seed where there is a rival. Where "
        "a claim names a threshold, the gain is how far the value is on its right side. "
        "Intervals are over pairs of these sets, whose rows overlap between sizes; "
        "[label-budget](../reports/label-budget/summary.md) has those over sets, too. The "
        "paper's numbers are of 8-billion-parameter models on multiple choice; these are of "
        "SmolLM2-135M and MiniLM, mostly on classification, so they describe small models. "
        "Made by `python -m benchmarks.claims` from what is in `reports/`. Claims of papers on "
        "adapters, among them PiSSA, CorDA, iLoRA, EMTAL and AMT, are on a page of their own: "
        "[adapter-claims](../reports/adapter-claims/summary.md).",
    ]
    for backbone in BACKBONES:
        cells = label_budget(reports / "label-budget", backbone)
        few = label_budget(reports / "label-budget", backbone, size=FEW)
        judged = label_budget(reports / "label-budget", backbone, JUDGED)
        scored = Results(reports / "unfamiliarity-weight", DETECTION_KEY).rows(backbone=backbone)
        parts += [
            f"## One labelled file, {backbone}",
            "Every method has the same labelled rows and nothing else, "
            f"{FEWEST_TO_LEAD} or more (from 640 rows on the grid is not complete); development "
            "rows of three sets, the default reading "
            "([label-budget](../reports/label-budget/summary.md)). "
            "With `cv`, the network of all rows predicts alone. Detection is that of fits without "
            "`cv` "
            "([unfamiliarity-weight](../reports/unfamiliarity-weight/summary.md)).",
            claims_of_one([*ahead(cells), *ahead(cells, MORE_PASSES), *detects(scored, TASKS)]),
            "The average of the networks that `cv` trains, and of a fit to all rows, with "
            f"{SOUP_SIZE} rows ([soups](../reports/archive/soups/summary.md)).",
            claims_of_one([*ahead(averages(reports, backbone, TASKS), AVERAGED_RIVALS, AVERAGED)]),
            "The same on sets that nothing was chosen on.",
            claims_of_one([*ahead(averages(reports, backbone, JUDGED), AVERAGED_ALONE, AVERAGED)]),
            f"{FEW} labelled rows, three draws. The same rows chose the number of steps, the scale "
            "and the means of VBLL.",
            claims_of_one([*ahead(few, FEW_RIVALS)]),
            f"{LONG_STEPS:,} steps of {LONG_BATCH} of 640 rows, as in the paper; nothing is "
            "chosen and nothing held out.",
            claims_of_one([*ahead(cells, LONG_RIVALS, LONG), far_ahead(cells)]),
            "On sets that nothing was chosen on: 20 intents of clinc150, questions of BoolQ "
            "without their passages, newswire of Reuters R8.",
            claims_of_one([*ahead(judged), *detects(scored, JUDGED)]),
        ]
    parts += [
        *multiple_choice.section(reports),
        "## Parts of the method",
        "All layers and raw texts, 640 training and 320 validation rows "
        "([ablations](../reports/ablations/summary.md), "
        "[posteriors](../reports/posteriors/summary.md)).",
        claims_of_one([*parts_of_it(reports)]),
        "## Stable rank",
        "SmolLM2-135M trained as a language model for 40 steps "
        "([stable-rank](../reports/stable-rank/summary.md)).",
        claims_of_one(
            [claim for claim in stable_rank.claims(reports / "stable-rank") if "rank" in claim.text]
        ),
    ]
    parts.insert(1, tally("\n".join(parts[3:])))  # without the title and the rule
    return "\n\n".join(parts) + "\n"


def tally(text: str) -> str:
    """Return the number of claims with each verdict in the tables of a page."""
    counts = {verdict: text.count(f"| {verdict} |") for verdict in VERDICTS}
    counts[NOT_RUN] = num_not_run(text)
    return (
        f"Claims: {', '.join(f'{count} {verdict}' for verdict, count in counts.items() if count)}."
    )


def label_budget(
    out: Path, backbone: str, tasks: Collection[str] = TASKS, *, size: int | None = None
) -> dict[Key, Row]:
    """Return the cells of a backbone.

    Args:
        out: Directory of the results.
        backbone: The backbone.
        tasks: Names of the sets.
        size: Labelled rows; None for all that count for a lead.
    """
    return {
        (row["task"], row["size"], row["seed"], row["method"]): row
        for row in Results(out, KEY).rows(backbone=backbone)
        if row["task"] in tasks
        and (row["size"] >= FEWEST_TO_LEAD if size is None else row["size"] == size)
    }


def averages(reports: Path, backbone: str, tasks: Collection[str]) -> dict[Key, Row]:
    """Return the cells of averages of networks on some sets."""
    rows = Results(reports / "archive" / "soups", SOUPS_KEY).rows(backbone=backbone, size=SOUP_SIZE)
    return {
        (row["task"], row["size"], row["seed"], f"{row['method']}, {row['kind']}"): row
        for row in rows
        if row["task"] in tasks
    }


def ahead(
    cells: dict[Key, Row], rivals: Mapping[str, str] = RIVALS, ours: str = OURS
) -> Iterable[Claim]:
    """Yield the claims on accuracy, NLL and ECE against each rival."""
    scores = {"accuracy": ("higher", "", -1), "nll": ("lower", "nats", 1), "ece": ("lower", "", 1)}
    for name, words in rivals.items():
        for score, (which, unit, sign) in scores.items():
            differences = gains(cells, ours, name, lambda a, b, k=score, s=sign: s * (b[k] - a[k]))
            label = score if score == "accuracy" else score.upper()
            yield Claim("PoLAR-VBLL", f"{which} {label} than {words}", unit, differences, "pairs")


def far_ahead(cells: dict[Key, Row]) -> Claim:
    """Return the claim on the lead over LoRA after long training."""
    leads = gains(cells, LONG, "lora-mle, long", lambda a, b: b["nll"] - a["nll"] - LONG_LEAD)
    return Claim(
        "PoLAR-VBLL", f"NLL at least {LONG_LEAD} nats below LoRA's", "nats", leads, "pairs"
    )


def detects(rows: Sequence[Row], tasks: Sequence[str]) -> Iterable[Claim]:
    """Yield the claims on out-of-distribution rows, by the default score of `evaluate`."""
    for task in tasks:
        margins = tuple(row[f"far {TAKEN}"] - FAR_ENOUGH for row in rows if row["task"] == task)
        text = f"far AUROC of at least {FAR_ENOUGH} on {task}, default score"
        yield Claim("PoLAR-VBLL", text, "", margins, "fits")
    near = tuple(
        row[f"near {TAKEN}"] - row["near max_probability"]
        for row in rows
        if row["task"] in tasks and f"near {TAKEN}" in row
    )
    text = "near AUROC above that of the highest probability, default score"
    yield Claim("PoLAR-VBLL", text, "", near, "fits")


def parts_of_it(reports: Path) -> Iterable[Claim]:
    """Yield the claims on Laplace after VBLL, on the bound, and on BLoB."""
    cells = {
        (row["task"], 0, row["seed"], score["method"]): score
        for row in Results(reports / "ablations", ABLATIONS_KEY).rows()
        for score in row["rows"]
    }
    for score, unit in (("ece", ""), ("nll", "nats")):
        for before, after, words in (
            ("default", "Laplace refinement", "VBLL with Laplace than of VBLL, our bound"),
            (
                JENSEN,
                f"{JENSEN}, Laplace refinement",
                "VBLL with Laplace than of VBLL, Jensen's bound",
            ),
        ):
            differences = gains(cells, after, before, lambda a, b, k=score: b[k] - a[k])
            yield Claim(
                "PoLAR-VBLL", f"lower {score.upper()} of {words}", unit, differences, "pairs"
            )
    gap = tuple(
        PAPER_GAP - row["chosen"]["bound_gap"]
        for (*_, method), row in cells.items()
        if method == JENSEN
    )
    text = f"gap of Jensen's bound below {PAPER_GAP} nats a row"
    yield Claim("PoLAR-VBLL", text, "nats", gap, "fits")
    posteriors = {
        (row["task"], 0, row["seed"], score["method"]): score
        for row in Results(reports / "posteriors", POSTERIORS_KEY).rows(kind="fit", adapter="polar")
        for score in row["rows"]
    }
    for score, unit, sign in (("accuracy", "", -1), ("nll", "nats", 1), ("ece", "", 1)):
        differences = gains(
            posteriors, "vbll", "blob", lambda a, b, k=score, s=sign: s * (b[k] - a[k])
        )
        better = "higher accuracy" if score == "accuracy" else f"lower {score.upper()}"
        text = f"{better} than BLoB on the same adapter"
        yield Claim("PoLAR-VBLL", text, unit, differences, "pairs", notes=SHORT)
    seconds = gains(
        posteriors, "vbll", "blob", lambda a, b: b["predict_seconds"] / a["predict_seconds"] - 1
    )
    text = "predictions faster than ten passes of BLoB"
    yield Claim("PoLAR-VBLL", text, "times", seconds, "pairs")


def gains(
    cells: dict[Key, Row], ours: str, theirs: str, gain: Callable[[Row, Row], float]
) -> Sequence[float]:
    """Return the gain of each pair of the same set, rows and seed."""
    return tuple(
        gain(row, cells[*key, theirs])
        for (*key, method), row in sorted(cells.items())
        if method == ours and (*key, theirs) in cells
    )
