"""What it costs to take the scale of features from 64 texts rather than from all.

PoLAR-VBLL on three development sets of `reading`, three draws of rows each, the same fit with
both scales: SmolLM2-135M at its defaults with 128 rows, MiniLM with 640.

Rule, written before the run: 64 texts are enough if the mean difference in NLL is at most .002 nats
or within its 95 % t interval.

    python -m benchmarks.scale_rows --data-dir DIR
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from bayeslora import BayesianClassifier, evaluate
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.template import DEFAULT_FRAME, RAW
from bayeslora.engine import rows
from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import TEXT_TOKENS, development, drawn, frame_tokens
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table
from benchmarks.lib.task_rows import TASKS

SIZES = {"smollm2-135m": (128, DEFAULT_FRAME), "minilm": (640, RAW)}
SEEDS, FEW, ALL = (0, 1, 2), rows.SCALE_ROWS, 10**9


def main() -> None:
    """Run the missing fits, then write the table."""
    args = study_parser(__doc__, "reports/scale-rows").parse_args()
    cells = [(name, task, seed) for name in SIZES for task in TASKS for seed in SEEDS]
    results, losses = Results(args.out, ("backbone", "task", "seed")), {}
    for name, task, seed in cells:
        cell = {"backbone": name, "task": task, "seed": seed}
        if results.get(**cell) is None:
            results.append(cell | compared(name, task, seed, args.data_dir))
        losses[name, task, seed] = results.get(**cell)
        print(name, task, seed, losses[name, task, seed], flush=True)
    results.sort()
    lines = []
    for name, (size, _) in SIZES.items():
        for task in TASKS:
            each = [losses[name, task, seed] for seed in SEEDS]
            few, every = (f"{fmean(row[key] for row in each):.4f}" for key in ("few", "all"))
            change = shown([row["few"] - row["all"] for row in each], 4)
            share = max(abs(row["ratio"] - 1) for row in each)
            lines.append([name, task, str(size), few, every, change, f"{share:.2%}"])
    head = ["backbone", "set", "rows", "64 texts", "all", "Δ NLL", "scale apart, at most"]
    with atomic_file(args.out / "summary.md") as temporary:
        temporary.write_text(
            "# The scale of features from 64 texts\n\nNLL in nats, means of three draws of rows; "
            "differences with half a 95 % t interval. Made by `python -m benchmarks.scale_rows "
            f"--data-dir DIR`.\n\n{table(head, lines)}\n",
            encoding="utf-8",
        )


def compared(name: str, task: str, seed: int, data_dir: Path | None) -> dict[str, float]:
    """Return the NLL with both scales and the ratio of the scales."""
    size, template = SIZES[name]
    backbone = load_backbone(name)
    pools = development(task, data_dir)
    train = drawn(pools.train, size, seed)
    scores, scales = {}, {}
    for key, count in (("few", FEW), ("all", ALL)):
        rows.SCALE_ROWS = count
        clf = BayesianClassifier(
            backbone,
            seed=seed,
            max_length=TEXT_TOKENS + frame_tokens(backbone, template),
            template=template,
            progress=False,
        )
        clf.fit(train, cv=0)
        scales[key] = float(clf.network.feature_scale)
        scores[key] = evaluate(clf.predict(pools.score), num_resamples=20)["nll"].value
    return scores | {"ratio": scales["few"] / scales["all"]}


if __name__ == "__main__":
    main()
