"""Which claims about PoLAR-VBLL hold in the stored results? Nothing is fitted.

Writes `docs/claims.md`.

    python -m benchmarks.claims
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq

from bayeslora.io import atomic_file
from benchmarks.claims.verdicts import SCORES, VERDICTS, Cells, Claim, better, claims_table, gains
from benchmarks.lib.pools import JUDGED
from benchmarks.lib.results import Results, Row
from benchmarks.lib.task_rows import TASKS
from benchmarks.multiple_choice.summary import FILE
from benchmarks.unfamiliarity_weight.__main__ import KEY as DETECTION_KEY
from benchmarks.unfamiliarity_weight.__main__ import TAKEN

PAGE = Path("docs/claims.md")
BACKBONES = ("smollm2-135m", "minilm")
LABEL_BUDGET_KEY = ("backbone", "task", "size", "method", "seed")
SOUPS_KEY = ("backbone", "task", "size", "method", "kind", "seed")
ABLATIONS_KEY = ("task", "fit", "seed")
FITS_KEY = ("kind", "task", "adapter", "fit", "seed")
RUNS_KEY = ("kind", "arm", "lr", "seed")
FEW, FEWEST_TO_LEAD, SOUP_SIZE = 32, 128, 128
LONG_LEAD, PAPER_GAP, FAR_ENOUGH = 0.1, 0.35, 0.9

OURS, LONG, AVERAGED = "polar-vbll, cv", "polar-vbll, long", "PoLAR-VBLL, mean of folds and fit"
# Rivals with one pass per prediction and at most as many fits as ours, then those with more.
RIVALS = {
    "lora-mle, cv": "LoRA with a temperature",
    "lora-temperature, split": "LoRA with a temperature by held-out rows",
    "polar-mle, cv": "PoLAR with a temperature",
    "lora-vbll, cv": "LoRA-VBLL",
    "lora-laplace": "LoRA with last-layer Laplace",
    "last layer alone": "VBLL without an adapter",
}
MORE_PASSES = {
    "lora-ensemble": "an ensemble of three LoRA fits",
    "lora-dropout": "MC dropout over LoRA",
}
LONG_RIVALS = {"lora-mle, long": "LoRA", "polar-mle, long": "PoLAR", "lora-vbll, long": "LoRA-VBLL"}
FEW_RIVALS = {
    "lora-mle, cv": "LoRA with a temperature",
    "lora-mle, 15 epochs, cv": "LoRA with 15 epochs and a temperature",
    "lora-mle, head rate 0.05, cv": "LoRA with VBLL's head rate and a temperature",
    "polar-mle, cv": "PoLAR with a temperature",
    "lora-vbll, cv": "LoRA-VBLL",
}
ALONE = {"PoLAR-VBLL, cv": "its network of all rows alone"}
AVERAGED_RIVALS = ALONE | {
    "LoRA, cv": "LoRA with a temperature",
    "LoRA, mean of folds and fit": "the same, averaged",
    "LoRA-VBLL, mean of folds and fit": "LoRA-VBLL, averaged",
    "PoLAR-VBLL, folds kept (5 passes)": "the folds, kept, at five passes",
}
CHOICE_OURS = "PoLAR VBLL"
CHOICE_RIVALS = (
    *("LoRA MLE", "LoRA temperature", "Laplace-LoRA"),
    *("BLoB", "PoLAR Laplace", "LoRA VBLL"),
)
SHIFTED_FROM, SHIFT_RIVALS = "openbookqa", ("LoRA MLE", "BLoB")
SHIFTS = ("arc-challenge", "arc-easy", "mmlu-college-chemistry", "mmlu-college-physics")
_INTRODUCTION = """\
Claims of Xiang, Li and Lu 2026 (arXiv 2604.03388), and goals of ours, judged by one rule. The \
fits are earlier ones than those of today's defaults, of small models (the paper's have 8 billion \
parameters), mostly on classification. Claims of papers on adapters: \
[adapter-claims](../reports/archive/adapter-claims/summary.md).

| mark | verdict | 95 % t interval of the mean gain |
|---|---|---|
| ✓ | reproduced | above 0 |
| ↑ | in direction only | includes 0, mean above 0: half of all false claims get here by chance |
| ↓ | not reproduced | includes 0, mean not above 0 |
| ✗ | contradicted | below 0 |

A gain of PoLAR-VBLL over a rival is above 0 where the claim holds, paired by set, rows and seed; \
of a threshold, it is how far the value is on its right side. Accuracy and ECE have a number only \
where the interval excludes 0. Claims with fewer than three pairs are only counted. Made by \
`python -m benchmarks.claims` from `reports/`."""
_SHORT = "at most six epochs"
_ALONE = "beside other work"


def main() -> None:
    """Write the page."""
    with atomic_file(PAGE) as temporary:
        temporary.write_text(page(Path("reports")), encoding="utf-8")


def page(reports: Path) -> str:
    """Return the page."""
    parts: list[str | list[Claim]] = [*_one_file(reports)]
    choices, about = _multiple_choice(reports / "multiple-choice")
    parts += [
        *("## Multiple choice", about, choices),
        "## Parts of the method",
        "All layers and raw texts, 640 training and 320 validation rows "
        "([ablations](../reports/archive/ablations/summary.md), "
        "[posteriors](../reports/archive/posteriors/summary.md)).",
        [*_parts_of_it(reports / "archive")],
        "## Stable rank",
        "SmolLM2-135M trained as a language model for 40 steps "
        "([stable-rank](../reports/archive/stable-rank/summary.md)).",
        [*_stable_rank(reports / "archive" / "stable-rank")],
    ]
    counts = Counter(claim.verdict for part in parts if isinstance(part, list) for claim in part)
    tally = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif lines := claims_table(part):
            texts.append(lines)
        else:
            texts.pop()  # the paragraph about claims without enough pairs
    title = "# Claims about PoLAR-VBLL"
    return "\n\n".join([title, f"Claims: {tally}.", _INTRODUCTION, *texts]) + "\n"


def _one_file(reports: Path) -> Iterator[str | list[Claim]]:
    """Yield the paragraphs and claims on one labelled file."""
    archive = reports / "archive"
    budget = Results(archive / "label-budget", LABEL_BUDGET_KEY)
    soups = Results(archive / "soups", SOUPS_KEY)
    scored = Results(reports / "unfamiliarity-weight", DETECTION_KEY)

    def ahead(
        is_counted: Callable[[Row], bool], rivals: Mapping[str, str], ours: str = OURS
    ) -> Iterator[Claim]:
        for backbone in BACKBONES:
            rows = [row for row in budget.rows(backbone=backbone) if is_counted(row)]
            yield from _ahead(rows, rivals, ours, f", {backbone}")

    def averaged(tasks: Collection[str], rivals: Mapping[str, str]) -> Iterator[Claim]:
        for backbone in BACKBONES:
            rows = [
                row | {"method": f"{row['method']}, {row['kind']}"}
                for row in soups.rows(backbone=backbone, size=SOUP_SIZE)
                if row["task"] in tasks
            ]
            yield from _ahead(rows, rivals, AVERAGED, f", {backbone}")

    def detects(tasks: Collection[str]) -> Iterator[Claim]:
        for backbone in BACKBONES:
            yield from _detects(scored.rows(backbone=backbone), tasks, f", {backbone}")

    def is_many(row: Row) -> bool:
        return row["task"] in TASKS and row["size"] >= FEWEST_TO_LEAD

    yield "## One labelled file"
    yield (
        f"{FEWEST_TO_LEAD} rows or more, temperatures by cross-validation; development rows of "
        "three sets ([label-budget](../reports/archive/label-budget/summary.md)). Detection: fits "
        "without `cv` ([unfamiliarity-weight](../reports/unfamiliarity-weight/summary.md))."
    )
    yield [*ahead(is_many, RIVALS | MORE_PASSES), *detects(TASKS)]
    yield (
        "On sets that nothing was chosen on: intents of clinc150, questions of BoolQ without "
        "passages, newswire of Reuters R8."
    )
    yield [
        *ahead(lambda row: row["task"] in JUDGED and row["size"] >= FEWEST_TO_LEAD, RIVALS),
        *detects(JUDGED),
    ]
    yield (
        f"The average of the networks that `cv` trains, {SOUP_SIZE} rows "
        "([soups](../reports/archive/soups/summary.md)); then on sets that nothing was chosen on."
    )
    yield [*averaged(TASKS, AVERAGED_RIVALS)]
    yield [*averaged(JUDGED, ALONE)]
    yield f"{FEW} rows, which chose the number of steps, the scale and the means of VBLL."
    yield [*ahead(lambda row: row["task"] in TASKS and row["size"] == FEW, FEW_RIVALS)]
    yield "5,000 steps of 4 of 640 rows, as in the paper; nothing is chosen."
    many = [row for row in budget.rows(backbone=BACKBONES[1]) if is_many(row)]
    yield [*_ahead(many, LONG_RIVALS, LONG), _far_ahead(many)]


def _cells(rows: Iterable[Row]) -> Cells:
    return {(row["task"], row["size"], row["seed"], row["method"]): row for row in rows}


def _ahead(
    rows: Sequence[Row], rivals: Mapping[str, str], ours: str, suffix: str = ""
) -> Iterator[Claim]:
    """Yield the claims on accuracy, NLL and ECE against each rival."""
    for name, words in rivals.items():
        yield from better(_cells(rows), ours, name, f"{words}{suffix}")


def _far_ahead(rows: Sequence[Row]) -> Claim:
    """Return the claim on the lead over LoRA after long training."""
    leads = gains(
        _cells(rows), LONG, "lora-mle, long", lambda a, b: b["nll"] - a["nll"] - LONG_LEAD
    )
    return Claim(f"NLL at least {LONG_LEAD} nats below LoRA's", "nats", leads)


def _detects(rows: Sequence[Row], tasks: Collection[str], suffix: str) -> Iterator[Claim]:
    """Yield the claims on out-of-distribution rows, by the default score of `evaluate`."""
    for task in tasks:
        margins = tuple(row[f"far {TAKEN}"] - FAR_ENOUGH for row in rows if row["task"] == task)
        text = f"far AUROC of at least {FAR_ENOUGH} on {task}{suffix}"
        yield Claim(text, "", margins, "fits")
    near = tuple(
        row[f"near {TAKEN}"] - row["near max_probability"]
        for row in rows
        if row["task"] in tasks and f"near {TAKEN}" in row
    )
    text = f"near AUROC above the highest probability's{suffix}"
    yield Claim(text, "", near, "fits")


def _multiple_choice(folder: Path) -> tuple[list[Claim], str]:
    """Return the claims on multiple choice, and what was run."""
    rows = pq.read_table(folder / FILE).to_pylist()
    key = ("protocol", "task", "backbone", "rows", "seed", "method")
    cells: dict[str, dict[tuple[str, ...], Row]] = {}
    for row in rows:
        if row["by"] is None:  # a score of predictions, not of detection
            where = "reported" if row["set"] == row["split"] else row["set"]
            cell = cells.setdefault(where, {}).setdefault(tuple(row[name] for name in key), {})
            cell[row["score"]] = row["value"]
    claims: list[Claim] = []
    for rival in CHOICE_RIVALS:
        claims += better(cells["reported"], CHOICE_OURS, rival, rival)
    for where in SHIFTS:
        shifted = {k: row for k, row in cells.get(where, {}).items() if k[1] == SHIFTED_FROM}
        for rival in SHIFT_RIVALS:
            words = f"{rival} on {where}, fitted to {SHIFTED_FROM}"
            claims += better(shifted, CHOICE_OURS, rival, words)
    claims.append(_faster(cells["cost"], CHOICE_OURS, "BLoB", "seconds_predict_per_1000", _ALONE))
    tasks = ", ".join(sorted({row["task"] for row in rows}))
    fits = len({tuple(row[name] for name in key) for row in rows})
    about = (
        f"SmolLM2-135M, every option scored by one weight vector; {tasks}. {fits} cells are stored "
        "([multiple-choice](../reports/multiple-choice/summary.md) has the commands)."
    )
    return claims, about


def _faster(cells: Cells, ours: str, theirs: str, seconds: str, notes: str = "") -> Claim:
    ratios = gains(cells, ours, theirs, lambda a, b: b[seconds] / a[seconds] - 1)
    unit = "" if notes else "times"
    return Claim("predictions faster than ten passes of BLoB", unit, ratios, notes=notes)


def _parts_of_it(archive: Path) -> Iterator[Claim]:
    """Yield the claims on Laplace after VBLL, on the bound, and on BLoB."""
    cells = {
        (row["task"], row["seed"], score["method"]): score
        for row in Results(archive / "ablations", ABLATIONS_KEY).rows()
        for score in row["rows"]
    }
    jensen = "refit, bound jensen"
    for score in ("ece", "nll"):
        for before, after, bound in (
            ("default", "Laplace refinement", "our bound"),
            (jensen, f"{jensen}, Laplace refinement", "Jensen's bound"),
        ):
            words, unit, _ = SCORES[score]
            differences = gains(cells, after, before, lambda a, b, k=score: b[k] - a[k])
            text = f"{words} of VBLL with Laplace than of VBLL, {bound}"
            yield Claim(text, unit, differences)
    gap = tuple(
        PAPER_GAP - row["chosen"]["bound_gap"]
        for (*_, method), row in cells.items()
        if method == jensen
    )
    yield Claim(f"gap of Jensen's bound below {PAPER_GAP} nats a row", "nats", gap, "fits")
    cells = {
        (row["task"], row["seed"], score["method"]): score
        for row in Results(archive / "posteriors", FITS_KEY).rows(kind="fit", adapter="polar")
        for score in row["rows"]
    }
    yield from better(cells, "vbll", "blob", "BLoB on the same adapter", _SHORT)
    yield _faster(cells, "vbll", "blob", "predict_seconds")


def _stable_rank(folder: Path) -> Iterator[Claim]:
    """Yield the claims on the stable rank of the change of the weights."""
    ranks = {
        (row["seed"], f"{row['arm']} {row['lr']:g}"): {
            "rank": fmean(row["marks"][-1]["stable_rank"].values())
        }
        for row in Results(folder, RUNS_KEY).rows(kind="run")
        if row["finished"]
    }
    for arm in ("polar", "polar, landing"):
        for rate, words in (("0.0004", "published rates"), ("0.004", "the same rate")):
            higher = gains(
                ranks, f"{arm} 0.004", f"lora {rate}", lambda a, b: a["rank"] - b["rank"]
            )
            yield Claim(f"{arm}: higher stable rank than LoRA, {words}", "", higher, "seeds")


if __name__ == "__main__":
    main()
