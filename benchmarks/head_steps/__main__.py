"""Which bound and which head step should be the default of PoLAR-VBLL?

One fit for each (bound in the adapter's loss, head step) on each data set and seed; after every
epoch the dense Knowles-Minka refit is fitted to the training features and scored by validation
NLL. Nothing here looks at a test row.

    python -m benchmarks.head_steps --data-dir DIR
"""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from pathlib import Path
from statistics import fmean

from bayeslora import VBLL
from bayeslora.adapters.polar.options import PoLAR
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.evaluation import TRAIN, VALIDATION, Evaluation, FitSpec, fitted_head
from benchmarks.lib.experiment_data import ExperimentData
from benchmarks.lib.results import Results
from benchmarks.lib.task_rows import TASKS, load_experiment
from benchmarks.lib.trajectories import nll, training_options, trajectory

KEY = ("task", "variant", "seed")
EPOCHS, SCORED_EPOCHS, MAX_LENGTH = 8, (1, 2, 3, 4, 6, 8), 32


def _gradient(bound: str, head_lr: float) -> VBLL:
    return VBLL(
        bound=bound,
        head_step="gradient",
        training_covariance="diagonal",
        training_prior_scale=2.0,
        head_lr=head_lr,
    )


def _refit(bound: str, scale: float) -> VBLL:
    return VBLL(
        bound=bound,
        head_step="refit",
        training_covariance="dense",
        training_prior_scale=scale,
    )


VARIANTS = {
    "jensen, gradient": _gradient("jensen", 5e-3),
    "knowles_minka, gradient": _gradient("knowles_minka", 5e-3),
    "jensen, gradient, fast head": _gradient("jensen", 2e-2),
    "knowles_minka, gradient, fast head": _gradient("knowles_minka", 2e-2),
    "knowles_minka, refit, scale 2": _refit("knowles_minka", 2.0),
    "knowles_minka, refit, scale 0.5": _refit("knowles_minka", 0.5),
    "jensen, refit, scale 2": _refit("jensen", 2.0),
}


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = study_parser(__doc__, "reports/head-steps")
    parser.add_argument("--runs", type=Path, default=Path("runs/head-steps"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    args = parser.parse_args()
    backbone = load_backbone("smollm2-135m", dtype="bfloat16")
    results = Results(args.out, KEY)
    for seed, task in product(range(args.seeds), args.tasks):
        data = load_experiment(task, data_dir=args.data_dir)
        for name in args.variants:
            cell = {"task": task, "variant": name, "seed": seed}
            if results.get(**cell) is None:
                spec = FitSpec(PoLAR(), VARIANTS[name], EPOCHS, seed, MAX_LENGTH)
                label = name.replace(", ", "-").replace(" ", "-")
                curve = curve_of(backbone, spec, data, args.runs / f"{task}-{label}-seed-{seed}")
                results.append(cell | {"spec": training_options(spec), "curve": curve})
                write_summary(args.out)
        backbone.prefix_states.clear()
    results.sort()
    write_summary(args.out)


def curve_of(
    backbone: Backbone, spec: FitSpec, data: ExperimentData, folder: Path
) -> list[dict[str, float | str]]:
    """Return the validation NLL of a fit's states, as trained and after several polishes."""
    states = trajectory(backbone, spec, data, folder, title=folder.name)
    lab = Evaluation(backbone, spec, data)
    curve = []
    for epoch in SCORED_EPOCHS:
        features = lab.features(states[epoch], [TRAIN, VALIDATION])
        train, held_out = features[TRAIN], features[VALIDATION]
        trained = lab.network.head
        logits = trained.predict(held_out)
        row: dict[str, float | str] = {"epoch": epoch, "trained": nll(logits, held_out.targets)}
        for scale in (2.0, "validation", "empirical-bayes"):
            config = VBLL(prior_scale=scale, polish_mean="refit")
            head = fitted_head(config, trained, train, held_out)
            logits = head.predict(held_out)
            row[f"polished, {scale}"] = nll(logits, held_out.targets)
            row[f"prior scale, {scale}"] = head.report()["prior_scale"]
        curve.append(row)
        print(folder.name, row, flush=True)
    return curve


def write_summary(out: Path) -> None:
    """Write the mean validation NLL over seeds of every variant by data set."""
    by_variant: dict[tuple[str, str], list[list[dict[str, float]]]] = defaultdict(list)
    for content in Results(out, KEY).rows():
        by_variant[content["task"], content["variant"]].append(content["curve"])
    lines = [
        "# Head steps of PoLAR-VBLL",
        "",
        f"Validation NLL in nats, {EPOCHS} epochs on 640 rows, {MAX_LENGTH} tokens, bfloat16. "
        "Every state is scored after a dense closed-form refit under the Knowles-Minka bound. "
        "Best and last are over the epochs scored; the prior scale of that refit is chosen on the "
        "same validation rows (columns 4 to 6), is 2 (column 7), or is empirical Bayes (column 8), "
        "which look at no validation row. "
        "Made by `python -m benchmarks.head_steps --data-dir DIR`.",
        "",
        "| data | bound, head step, prior scale in training | seeds | best (epochs) | mean | last "
        "| last, scale 2 | last, empirical Bayes | last, as trained |",
        "|" + "---|" * 9,
    ]
    for (task, variant), curves in sorted(by_variant.items()):
        chosen = [[row["polished, validation"] for row in curve] for curve in curves]
        epochs = [
            str(curve[values.index(min(values))]["epoch"])
            for curve, values in zip(curves, chosen, strict=True)
        ]
        cells = [
            f"{fmean(map(min, chosen)):.3f} ({', '.join(epochs)})",
            f"{fmean(map(fmean, chosen)):.3f}",
            *(
                f"{fmean(curve[-1][key] for curve in curves):.3f}"
                for key in (
                    "polished, validation",
                    "polished, 2.0",
                    "polished, empirical-bayes",
                    "trained",
                )
            ),
        ]
        lines.append("| " + " | ".join([task, variant, str(len(curves)), *cells]) + " |")
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
