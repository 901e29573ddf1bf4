"""Methods side by side in three regimes, over seeds and data sets, on 640 training rows.

fixed   15 epochs at the lower rate, nothing chosen: the papers' setting.
tuned   epoch, learning rate and a choice of its own (temperature, prior precision, refit or
        trained means) by validation NLL; the same grid of epochs and learning rates for every
        method.
none    no validation rows: epochs and rates of `fit`, priors from the training data alone.

Every fit keeps all epochs, so that one fit serves several rows of the table. Everything is stored
as it comes; the same command goes on where it was interrupted.

    python -m benchmarks.regimes --data-dir DIR
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from bayeslora import MLE, VBLL, Laplace, MCDropout, TemperatureScaling
from bayeslora.adapters.base import Adapter
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.engine.training_options import DEFAULT_EPOCHS
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.evaluation import TEST, TRAIN, VALIDATION, Evaluation, FitSpec, Outcome, State
from benchmarks.lib.experiment_data import ExperimentData
from benchmarks.lib.results import Results
from benchmarks.lib.task_rows import TASKS, load_experiment
from benchmarks.lib.trajectories import trajectory, validation_nll
from benchmarks.regimes.summary import KEY, write_summary

LONG, SHORT = 15, DEFAULT_EPOCHS
NUM_SEEDS, NUM_MEMBERS = 5, 3
NUM_TEST, NUM_OOD = 500, 250
MAX_LENGTH = 32
EPOCHS = (1, 2, 3, 4, 6, 8, 10, 15)
LEARNING_RATES = {"lora": (1e-3, 3e-3), "polar": (4e-3, 1e-2)}
REGIMES = ("tuned", "fixed", "none")
OOD_SCORES = ("max_probability", "epistemic", "logit_variance")

FAMILIES: dict[str, tuple[Adapter, Posterior]] = {
    "lora-mle": (LoRA(dropout=0.1), MLE()),
    "polar-mle": (PoLAR(), MLE()),
    "lora-vbll": (LoRA(dropout=0.1), VBLL()),
    "polar-vbll": (PoLAR(), VBLL()),
}

# Defaults of `fit` without validation rows: after many epochs, and after few.
UNTUNED = VBLL(polish_mean="trained")
REFIT = VBLL(polish_mean="refit")


@dataclass(frozen=True)
class Row:
    """A row of the table: a method that predicts from a family's fit.

    Attributes:
        method: Name of the method.
        family: Name of the fit.
        tuned: Last layer in the tuned regime; None uses the trained head.
        untuned: Last layer in the other two regimes.
        unwatched: Last layer without validation rows, if different from the fixed budget.
        dropout: Monte Carlo dropout instead of a last layer.
        regimes: Regimes of the method; methods that need validation labels are in one only.
    """

    method: str
    family: str
    tuned: Posterior | None = None
    untuned: Posterior | None = None
    unwatched: Posterior | None = None
    dropout: MCDropout | None = None
    regimes: tuple[str, ...] = REGIMES


ROWS = (
    Row("lora-mle", "lora-mle"),
    Row("lora-temperature", "lora-mle", tuned=TemperatureScaling(), regimes=("tuned",)),
    Row(
        "lora-laplace",
        "lora-mle",
        tuned=Laplace(),
        untuned=Laplace(),
    ),
    Row(
        "lora-laplace, marglik",
        "lora-mle",
        tuned=Laplace(prior_precision="marglik"),
        untuned=Laplace(prior_precision="marglik"),
    ),
    Row("lora-mc-dropout", "lora-mle", dropout=MCDropout(p=0.1, num_samples=5)),
    Row("polar-mle", "polar-mle"),
    Row("polar-temperature", "polar-mle", tuned=TemperatureScaling(), regimes=("tuned",)),
    Row("lora-vbll", "lora-vbll", tuned=VBLL(), untuned=UNTUNED, unwatched=REFIT),
    Row("polar-vbll", "polar-vbll", tuned=VBLL(), untuned=UNTUNED),
    Row("polar-vbll, refit", "polar-vbll", tuned=REFIT, untuned=REFIT),
    Row("polar-vbll, as trained", "polar-vbll"),
)


@dataclass(frozen=True)
class Bench:
    """Settings shared by all runs.

    Attributes:
        backbone: Loaded backbone.
        runs: Directory of the trajectories.
        out: Directory of the scores.
    """

    backbone: Backbone
    runs: Path
    out: Path


def main() -> None:
    """Run the missing fits, then write the tables."""
    parser = study_parser(__doc__, "reports/regimes")
    parser.add_argument("--runs", type=Path, default=Path("runs/regimes"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(NUM_SEEDS)))
    args = parser.parse_args()
    bench = Bench(load_backbone("smollm2-135m", dtype="bfloat16"), args.runs, args.out)
    sets = [rows_of(task, args.data_dir) for task in args.tasks]
    for seed, data in product(args.seeds, sets):
        for family in args.families:
            run_family(bench, data, family, seed)
        bench.backbone.prefix_states.clear()
        write_summary(args.out)
    has_ensembles = len(args.seeds) >= NUM_MEMBERS and "lora-mle" in args.families
    for data in sets if has_ensembles else ():
        for place in range(len(args.seeds)):
            run_ensemble(bench, data, args.seeds, place)
        bench.backbone.prefix_states.clear()
    Results(args.out, KEY).sort()
    write_summary(args.out)


def rows_of(task: str, data_dir: Path | None) -> ExperimentData:
    """Return the rows of a task, the same for every method and seed."""
    return load_experiment(task, num_test=NUM_TEST, num_ood=NUM_OOD, data_dir=data_dir)


def run_family(bench: Bench, data: ExperimentData, family: str, seed: int) -> None:
    """Fit one family in all regimes and score its rows.

    Stored rows with the current rate of their regime are kept.
    """
    results = Results(bench.out, KEY)
    head = {"kind": "fit", "task": data.name, "family": family, "seed": seed}
    stored = results.get(**head) or {"rows": []}
    known = {(row["regime"], row["method"]): row for row in stored["rows"]}
    fits = Fits(bench, data, family, seed)
    places = []
    for row in ROWS:
        if row.family != family:
            continue
        for regime in row.regimes:
            place = (regime, row.method)
            places.append(place)
            if place not in known or is_stale(known[place], fits, regime):
                known[place] = run_row(bench, fits, row, regime)
                print(data.name, seed, row.method, known[place], flush=True)
                results.append({**head, "rows": list(known.values())})
    if (rows := [known[place] for place in places]) != stored["rows"]:
        results.append({**head, "rows": rows})


def is_stale(stored: dict, fits: Fits, regime: str) -> bool:
    """Whether a stored row differs from its regime in the rate or the number of epochs."""
    if stored["lr"] != fits.rate(regime):
        return True
    return regime != "tuned" and stored["epoch"] != fits.epochs(regime)


def run_row(bench: Bench, fits: Fits, row: Row, regime: str) -> dict[str, object]:
    """Return a row's scores in a regime, and save its predictions."""
    lr, epochs = fits.rate(regime), fits.epochs(regime)
    states, tuned = fits.states(epochs, lr), regime == "tuned"
    epoch = fits.best_epoch(states, row) if tuned else epochs
    config = row.tuned if tuned else row.untuned
    config = row.unwatched or config if regime == "none" else config
    outcome = fits.outcome(row, states[epoch], config, tuned=tuned)
    save_predictions(bench, fits.data, f"{row.method}-{regime}-seed-{fits.seed}", outcome)
    return {"regime": regime, "epoch": epoch, "lr": lr} | scores(outcome)


def run_ensemble(bench: Bench, data: ExperimentData, seeds: Sequence[int], place: int) -> None:
    """Score an ensemble of the LoRA fits of a seed and the next seeds, without further fits.

    Ensembles of adjacent seeds share members, so they vary less than independent ensembles.
    """
    seed = seeds[place]
    results = Results(bench.out, KEY)
    head = {"kind": "fit", "task": data.name, "family": "lora-ensemble", "seed": seed}
    members_of = [seeds[(place + k) % len(seeds)] for k in range(NUM_MEMBERS)]
    fits = [Fits(bench, data, "lora-mle", member) for member in members_of]
    stored = results.get(**head) or {"rows": [], "members": []}
    rates = [(row["regime"], row["lr"]) for row in stored["rows"]]
    if stored["members"] == members_of and rates == [(r, fits[0].rate(r)) for r in REGIMES]:
        return
    lab = fits[0].lab
    records = []
    for regime in REGIMES:
        lr, epochs = fits[0].rate(regime), fits[0].epochs(regime)
        members = []
        for fit in fits:
            states = fit.states(epochs, lr)
            epoch = fit.best_epoch(states, ROWS[0]) if regime == "tuned" else epochs
            members.append((states[epoch], lab.features(states[epoch], lab.scored)))
        outcome = lab.ensemble("lora-ensemble", members)
        records.append({"regime": regime, "epoch": epochs, "lr": lr} | scores(outcome))
        save_predictions(bench, data, f"lora-ensemble-{regime}-seed-{seed}", outcome)
    results.append({**head, "members": members_of, "rows": records})


class Fits:
    """Trajectories of one family, data set and seed, with the choice of rate and epoch."""

    def __init__(self, bench: Bench, data: ExperimentData, family: str, seed: int) -> None:
        self.bench, self.data, self.family, self.seed = bench, data, family, seed
        self.adapter, self.posterior = FAMILIES[family]
        self.rates = LEARNING_RATES[self.adapter.name]
        self.lab = Evaluation(bench.backbone, self._spec(LONG, self.rates[0]), data)
        self._known: dict[int, tuple[State, dict[str, Features]]] = {}
        self._trajectories: dict[tuple[int, float], dict[int, State]] = {}

    def states(self, epochs: int, lr: float) -> dict[int, State]:
        """Return the states after each epoch of a fit, and run the fit if it is not stored."""
        name = f"{self.family}-{epochs}-lr-{lr:g}-seed-{self.seed}"
        folder = self.bench.runs / self.data.name / name
        title = f"{self.data.name} {name}"
        key = (epochs, lr)
        if key not in self._trajectories:
            spec = self._spec(epochs, lr)
            self._trajectories[key] = trajectory(
                self.bench.backbone, spec, self.data, folder, title=title
            )
        return self._trajectories[key]

    def rate(self, regime: str) -> float:
        """Return the learning rate of a regime."""
        if regime == "none":
            return self.adapter.learning_rate
        return self.best_rate() if regime == "tuned" else self.rates[0]

    def epochs(self, regime: str) -> int:
        """Return the number of epochs in a regime."""
        return SHORT if regime == "none" else LONG

    def best_rate(self) -> float:
        """Return the learning rate of the tuned regime, chosen once with the first seed."""
        results = Results(self.bench.out, KEY)
        place = {"kind": "rate", "task": self.data.name, "family": self.family}
        chosen = results.get(**place)
        if chosen is None:
            config = VBLL(prior_scale=2.0) if isinstance(self.posterior, VBLL) else None
            losses = {
                f"{lr:g}": min(
                    self._validation_nll(self.states(LONG, lr)[epoch], config) for epoch in EPOCHS
                )
                for lr in self.rates
            }
            best = min(self.rates, key=lambda lr: losses[f"{lr:g}"])
            chosen = {**place, "seed": self.seed, "lr": best, "validation_nll": losses}
            results.append(chosen)
        return float(chosen["lr"])

    def best_epoch(self, states: dict[int, State], row: Row) -> int:
        """Return the epoch with the best validation NLL under the last layer of the row.

        Temperature, prior precision and the refit of means are chosen at each epoch; epochs of a
        variational last layer are compared with a prior scale of 2, as in `fit`.
        """
        config = row.tuned
        if isinstance(config, VBLL):
            config = replace(config, prior_scale=2.0)
        return min(EPOCHS, key=lambda epoch: self._validation_nll(states[epoch], config))

    def outcome(self, row: Row, state: State, config: Posterior | None, *, tuned: bool) -> Outcome:
        """Return the predictions of a row from one state."""
        if row.dropout is not None:
            return self.lab.dropout(row.method, state, row.dropout)
        splits = [TRAIN, VALIDATION] if tuned else [TRAIN]
        features = self._features(state, [*splits, *self.lab.scored])
        return self.lab.last_layer(row.method, state, features, config)

    def _spec(self, epochs: int, lr: float) -> FitSpec:
        return FitSpec(replace(self.adapter, lr=lr), self.posterior, epochs, self.seed, MAX_LENGTH)

    def _validation_nll(self, state: State, config: Posterior | None) -> float:
        features = self._features(state, [TRAIN, VALIDATION])
        return validation_nll(self.lab, state, features, config, tuned=config is not None)

    def _features(self, state: State, splits: list[str]) -> dict[str, Features]:
        # Keep a reference to the state, so that its id is not reused.
        _, known = self._known.setdefault(id(state), (state, {}))
        missing = [name for name in splits if name not in known]
        known |= self.lab.features(state, missing)
        return {name: known[name] for name in splits}


def scores(outcome: Outcome) -> dict[str, object]:
    """Return a method's scores on the test rows and its OOD detection by every score."""
    test = outcome.predictions[TEST]
    values: dict[str, object] = {
        "method": test.name,
        "report": outcome.report,
        **{key: score.value for key, score in evaluate(test, num_resamples=20).items()},
    }
    for split, outside in outcome.predictions.items():
        if split == TEST:
            continue
        for name in OOD_SCORES:
            pair = (test.uncertainty(name), outside.uncertainty(name))
            values[f"{split} {name}"] = detection(sorted_by_uncertainty(*pair))[0]
    return values


def save_predictions(bench: Bench, data: ExperimentData, name: str, outcome: Outcome) -> None:
    """Save the predictions of every split, for paired comparisons and reports."""
    for split, item in outcome.predictions.items():
        item.save(bench.runs / data.name / name / "predictions" / f"{split}.parquet")


if __name__ == "__main__":
    main()
