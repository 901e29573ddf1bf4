"""Which learning rates should a fit without validation rows have, where nothing can be chosen?

For LoRA and PoLAR a grid of the same size for each kind of last layer, over the adapter's rate and
the last layer's; for the other adapters three rates with a point estimate, the last layer's at its
default. Three data sets, five epochs (`default_epochs` has other numbers), means refitted at the
end. The validation rows play the data sets to come: a fit does not see them, and what has the
lowest NLL on them on average over data sets is meant to be the default. Nothing here looks at a
test row.

    python -m benchmarks.default_rates --data-dir DIR
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from bayeslora import MLE, VBLL
from bayeslora.adapters.base import Adapter
from bayeslora.adapters.corda.options import CorDA
from bayeslora.adapters.lisa import LISA
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar.options import PoLAR
from bayeslora.adapters.s2ft.options import S2FT
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.engine.training_options import DEFAULT_EPOCHS
from bayeslora.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.evaluation import TRAIN, VALIDATION, Evaluation, FitSpec
from benchmarks.lib.experiment_data import ExperimentData
from benchmarks.lib.results import Results
from benchmarks.lib.task_rows import TASKS, load_experiment
from benchmarks.lib.trajectories import trajectory, validation_nll

KEY = ("task", "arm", "lr", "head_lr", "seed")
MAX_LENGTH = 32
LORA_RATES, POLAR_RATES = (1e-3, 3e-3), (4e-3, 1e-2)
# The default and a higher rate: the last layer starts at zero.
POINT_RATES, VARIATIONAL_RATES = (2e-2, 1e-1), (5e-3, 2e-2)
START_RATES, COLUMN_RATES, LAYER_RATES = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2), (3e-5, 3e-4, 1e-3)


@dataclass(frozen=True)
class Arm:
    """A kind of fit and its grid of learning rates.

    Attributes:
        adapter: Adapter without a learning rate.
        rates: Learning rates of the adapter.
        head_rates: Learning rates of the last layer.
        is_vbll: Whether the last layer is variational; otherwise it is a point estimate.
    """

    adapter: Adapter
    rates: tuple[float, ...]
    head_rates: tuple[float, ...] = POINT_RATES[:1]
    is_vbll: bool = False

    def spec(self, rate: float, head_rate: float, seed: int) -> FitSpec:
        """Return the fit at one point of the grid."""
        adapter = replace(self.adapter, lr=rate)
        if self.is_vbll:
            posterior = VBLL(head_lr=head_rate)
            return FitSpec(adapter, posterior, DEFAULT_EPOCHS, seed, MAX_LENGTH)
        return FitSpec(adapter, MLE(), DEFAULT_EPOCHS, seed, MAX_LENGTH, head_rate)


ARMS = {
    "lora-mle": Arm(LoRA(dropout=0.1), LORA_RATES, POINT_RATES),
    "polar-mle": Arm(PoLAR(), POLAR_RATES, POINT_RATES),
    "polar-vbll": Arm(PoLAR(), POLAR_RATES, VARIATIONAL_RATES, is_vbll=True),
    "lora-vbll": Arm(LoRA(dropout=0.1), LORA_RATES, VARIATIONAL_RATES, is_vbll=True),
    "pissa-mle": Arm(PiSSA(), START_RATES),
    "corda-mle": Arm(CorDA(), START_RATES),
    "s2ft-mle": Arm(S2FT(), COLUMN_RATES),
    "lisa-mle": Arm(LISA(), LAYER_RATES),
}


def main() -> None:
    """Run the missing fits and write the table."""
    parser = study_parser(__doc__, "reports/default-rates")
    parser.add_argument("--runs", type=Path, default=Path("runs/default-rates"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    backbone = load_backbone("smollm2-135m", dtype="bfloat16")
    for task in args.tasks:
        data = load_experiment(task, num_test=100, num_ood=50, data_dir=args.data_dir)
        for seed, name in product(args.seeds, args.arms):
            arm = ARMS[name]
            for rates in product(arm.rates, arm.head_rates):
                run(Bench(backbone, data, args.runs, args.out), name, rates, seed)
        backbone.prefix_states.clear()
    Results(args.out, KEY).sort()
    write_table(args.out)


@dataclass(frozen=True)
class Bench:
    """Settings shared by the runs on one data set.

    Attributes:
        backbone: Loaded backbone.
        data: Rows of the data set.
        runs: Directory of the trained tensors.
        out: Directory of the scores.
    """

    backbone: Backbone
    data: ExperimentData
    runs: Path
    out: Path


def run(bench: Bench, name: str, rates: tuple[float, float], seed: int) -> None:
    """Fit at one point of the grid and store the NLL on held-out rows."""
    data, spec = bench.data, ARMS[name].spec(*rates, seed)
    key = f"{name}-{rates[0]:g}-head-{rates[1]:g}-seed-{seed}"
    results, cell = Results(bench.out, KEY), {"task": data.name, "arm": name, "seed": seed}
    cell |= {"lr": rates[0], "head_lr": rates[1]}
    if results.get(**cell) is not None:
        return
    states = trajectory(bench.backbone, spec, data, bench.runs / data.name / key, title=key)
    lab = Evaluation(bench.backbone, spec, data)
    state = states[spec.epochs]
    features = lab.features(state, [TRAIN, VALIDATION])
    last = spec.posterior if isinstance(spec.posterior, VBLL) else None
    nll = validation_nll(lab, state, features, last)
    print(data.name, key, f"{nll:.4f}", flush=True)
    results.append(cell | {"nll": nll})


def write_table(out: Path) -> None:
    """Write the NLL at each point of the grid and its mean over data sets."""
    rows = Results(out, KEY).rows()
    tasks = sorted({row["task"] for row in rows})
    lines = [
        "# Learning rates where nothing can be chosen",
        "",
        f"NLL in nats of 320 rows that the fit has not seen: 640 training rows, {DEFAULT_EPOCHS} "
        f"epochs, SmolLM2-135M, adapters of their default size in the last 6 layers, at most "
        f"{MAX_LENGTH} tokens; the prior scale of a variational last layer by empirical Bayes. "
        "Means over "
        f"{len({row['seed'] for row in rows})} seed(s). "
        "Made by `python -m benchmarks.default_rates --data-dir DIR`.",
        "",
        "| fit | lr | lr of the last layer | " + " | ".join(tasks) + " | mean |",
        "|---" * (4 + len(tasks)) + "|",
    ]
    for name, arm in ARMS.items():
        for rates in product(arm.rates, arm.head_rates):
            values = [_mean(rows, task, name, rates) for task in tasks]
            if any(value is None for value in values):
                continue
            known = [value for value in values if value is not None]
            cells = [name, *(f"{rate:g}" for rate in rates), *(f"{value:.4f}" for value in known)]
            lines.append(f"| {' | '.join(cells)} | {statistics.fmean(known):.4f} |")
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _mean(rows: list[dict], task: str, name: str, rates: tuple[float, float]) -> float | None:
    place = (task, name, *rates)
    values = [row["nll"] for row in rows if (*_task_arm(row), row["lr"], row["head_lr"]) == place]
    return statistics.fmean(values) if values else None


def _task_arm(row: dict) -> tuple[str, str]:
    return row["task"], row["arm"]


if __name__ == "__main__":
    main()
