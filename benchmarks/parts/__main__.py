"""Which parts of PoLAR-VBLL's training help, alone and together?

MiniLM, 320 rows drawn anew for each seed, five epochs, nothing held out (`cv=0`), scored on the
development rows of `reading`. One part is exchanged at a time:

- the steps of the deviations S: five times the head's rate, or their optimum by running sums;
- the start: the loss gradient, the inputs' directions of most variance (EVA), an epoch of LoRA;
- the rates of Θ and of X and Y; a spectral step of Θ;
- averages of the change: over the last epoch, exponential, over three seeds (a soup, at rank r),
  beside the ensemble of the same three.

NLL is that of the fit as it is, and at the scale of the logits that is best on the scoring rows:
what a perfect choice of the scale would leave. The second compares what was learnt, without the
calibration that `cv` supplies.

Rules, written before any cell (one fit of each kind had been run on a toy to see that it works):

1. A part becomes an option of the package if on newsgroups and SST-2, five draws each, it lowers
   either NLL by more than the 95 % t interval of the ten paired differences, and on AG News, run
   only for such parts, by the mean of five draws. It becomes the default if it lowers both, costs
   at most half as much time again, and lowers the NLL of `cv` fits at 128 rows (`label_budget`).
2. A lead below .01 is reported, and changes nothing.

Outcome: only the EVA start (.012 ± .009 lower) and the soup of three seeds (.020 ± .012) meet the
first part of rule 1. On AG News the EVA start is .002 higher (five draws), so it is not added; the
soup led to `soups`, whose networks `cv` trains anyway, and was not run on AG News. Seventeen arms
with two scores each are 34 comparisons, of which about one leaves out zero on the good side by
chance alone.

Added when four cells of one draw were there (NLL .465 as it is, .833 with running sums, at the
best scale .436 and .521): the arms with refitted means, since means that were trained against
larger deviations are unsure. They were not run.

    python -m benchmarks.parts --data-dir DIR
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from bayeslora import (
    BayesianClassifier,
    LoRA,
    Predictions,
    evaluate,
    register_adapter,
    register_posterior,
)
from bayeslora.adapters.low_rank import LowRank
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.engine.network import Network
from bayeslora.engine.rows import prepare
from bayeslora.engine.settings import LabelledExamples
from bayeslora.engine.training.final_fit import LastFit, fit_posterior
from bayeslora.experiments.rows import drawn
from bayeslora.files import atomic_file
from bayeslora.links import nll
from bayeslora.tasks.examples import Examples, encode_labels
from benchmarks.lib.pools import TEXT_TOKENS, Pools, pools_of
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table
from benchmarks.lib.task_rows import TASKS
from benchmarks.parts.adapters import (
    LoRAVariant,
    PoLARVariant,
    orthonormal_factors,
    set_changes,
    weight_change,
)
from benchmarks.parts.arms import (
    ARMS,
    DEFAULT,
    ENSEMBLE,
    SOUP,
    SOUP_OF_MEANS,
    SOUP_SIZE,
    Arm,
)
from benchmarks.parts.heads import VBLLVariant

KEY = ("task", "size", "arm", "seed")
MAIN_TASKS = ("newsgroups", "sst2_sentences")
SIZE, EPOCHS, BACKBONE = 320, 5, "minilm"
SOUPS = (SOUP, SOUP_OF_MEANS, ENSEMBLE)


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/parts"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(MAIN_TASKS))
    parser.add_argument("--arms", nargs="+", choices=(*ARMS, SOUP), default=[*ARMS, SOUP])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    register_variants()
    results = Results(args.out, KEY)
    backbone = load_backbone(BACKBONE)
    pools = {task: pools_of(task, args.data_dir) for task in args.tasks}
    for seed, task in product(args.seeds, args.tasks):
        train = drawn(pools[task].train, SIZE, seed)
        for name in args.arms:
            cell = {"task": task, "size": SIZE, "seed": seed}
            if results.get(**cell, arm=name) is not None:
                continue
            if name == SOUP:
                rows = soups(backbone, train, pools[task], seed)
            else:
                clf, seconds = fitted(backbone, ARMS[name], train, seed)
                rows = {name: scores(clf.predict(pools[task].score)) | {"seconds": seconds}}
            for arm, row in rows.items():
                results.append({**cell, "arm": arm, **row})
                print(task, seed, arm, {key: round(value, 3) for key, value in row.items()})
        backbone.prefix_states.clear()
        write_summary(args.out)
    results.sort()
    write_summary(args.out)


def register_variants() -> None:
    """Make the variants known to `fit`."""
    for adapter in (PoLARVariant, LoRAVariant):
        register_adapter(adapter)
    register_posterior(VBLLVariant)


def fitted(
    backbone: Backbone, arm: Arm, train: Examples, seed: int
) -> tuple[BayesianClassifier, float]:
    """Return a fit of an arm and its seconds."""
    start = time.perf_counter()
    epochs = EPOCHS
    if arm.first_epoch:
        first = fit(backbone, LoRA(), arm.posterior, train, seed, epochs=1)
        sites = cast(Sequence[LowRank], first._known().network.sites)
        PoLARVariant.changes = {site.name: weight_change(site) for site in sites}
        epochs -= 1
    clf = fit(backbone, arm.adapter, arm.posterior, train, seed, epochs=epochs)
    return clf, time.perf_counter() - start


def fit(
    backbone: Backbone,
    adapter: Any,
    posterior: Any,
    train: Examples,
    seed: int,
    *,
    epochs: int,
    **options: Any,
) -> BayesianClassifier:
    """Return a fit to all rows without a scale of the logits."""
    clf = BayesianClassifier(
        backbone, adapter, posterior, seed=seed, max_length=TEXT_TOKENS, progress=False
    )
    return clf.fit(train, epochs=epochs, cv=0, feature_scores="none", **options)


def scores(predictions: Predictions) -> dict[str, float]:
    """Return the scores, and the lowest NLL of softmax(a log p) over factors a, and that a."""
    values = evaluate(predictions, num_resamples=20)
    row = {key: float(values[key].value) for key in ("nll", "accuracy", "ece", "overconfidence")}
    logs = torch.tensor(predictions.probs).clamp_min(torch.finfo(torch.float64).tiny).log()
    labels = torch.tensor(predictions.labels)

    def at(log_factor: float) -> float:
        return nll((math.exp(log_factor) * logs).softmax(1), labels)

    optimum = minimize_scalar(at, bounds=(-2.0, 2.0), method="bounded", options={"xatol": 1e-3})
    return row | {"nll_scaled": float(optimum.fun), "factor": math.exp(optimum.x)}


def soups(
    backbone: Backbone, train: Examples, pools: Pools, seed: int
) -> dict[str, dict[str, float]]:
    """Return the scores of the average of three fits, in weights and in answers.

    The mean of three changes has rank 3r; the part of rank r is kept, and `kept` is its share of
    the squared norm.
    """
    start = time.perf_counter()
    seeds = [SOUP_SIZE * seed + member for member in range(SOUP_SIZE)]
    fits = [fitted(backbone, ARMS[DEFAULT], train, member)[0] for member in seeds]
    seconds = time.perf_counter() - start
    answers = [clf.predict(pools.score) for clf in fits]
    mean_answer = Predictions.from_arrays(
        sum(answer.probs for answer in answers) / SOUP_SIZE,
        answers[0].labels,
        kind="probs",
        classes=answers[0].classes,
    )
    rows = {ENSEMBLE: scores(mean_answer)}
    networks = [clf._known().network for clf in fits]
    changes = [
        torch.stack([weight_change(cast(LowRank, site)) for site in sites]).mean(0)
        for sites in zip(*(network.sites for network in networks), strict=True)
    ]
    whole = networks[0]
    sites = cast(Sequence[LowRank], whole.sites)
    share = fmean(_kept(change, site) for change, site in zip(changes, sites, strict=True))
    means = torch.stack(
        [net.head.trained_mean * (whole.feature_scale / net.feature_scale) for net in networks]
    ).mean(0)
    set_changes(sites, changes)
    whole.head.set_mean(means)
    labels = torch.from_numpy(encode_labels(train, fits[0].classes))
    for arm, means_of in ((SOUP_OF_MEANS, "trained"), (SOUP, "refit")):
        refitted(whole, (train, labels), means_of)
        rows[arm] = scores(fits[0].predict(pools.score)) | {"kept": share}
    return {arm: row | {"seconds": seconds} for arm, row in rows.items()}


def refitted(network: Network, rows: LabelledExamples, polish_mean: str) -> None:
    """Fit the last layer of a network to its features of the rows."""
    head: Any = network.head
    head.config = replace(head.config, polish_mean=polish_mean)
    network.eval()
    train = prepare(network.encoder, rows, progress=False, say=False)
    fit_posterior(network, LastFit(head.config), train, None)


def _kept(change: Tensor, site: LowRank) -> float:
    factors = orthonormal_factors(change, site)
    core = cast(Tensor, factors.core).double() * site.scale
    return float(core.square().sum() / change.square().sum())


def write_summary(out: Path) -> None:
    """Write every arm, and its paired differences from the default."""
    stored: dict[str, dict[tuple[str, int], dict[str, float]]] = {}
    for row in Results(out, KEY).rows():
        stored.setdefault(row["arm"], {})[row["task"], row["seed"]] = row
    reference = stored.get(DEFAULT, {})
    parts = ["# Parts of PoLAR-VBLL's training", " ".join(_HEAD)]
    for tasks, words in ((MAIN_TASKS, "Newsgroups and SST-2"), (TASKS, "All three sets")):
        lines = []
        for arm in (*ARMS, *SOUPS):
            cells = {key: row for key, row in stored.get(arm, {}).items() if key[0] in tasks}
            if len({task for task, _ in cells}) < len(tasks):
                continue
            shared = sorted(cells.keys() & reference.keys())
            means = [f"{fmean(row[score] for row in cells.values()):.3f}" for score in _SCORES]
            gaps = [
                shown([cells[key][score] - reference[key][score] for key in shared])
                if arm != DEFAULT
                else ""
                for score in ("nll", "nll_scaled")
            ]
            described = ARMS[arm].words if arm in ARMS else ""
            name = f"{arm} ({described})" if described else arm
            seconds = fmean(row["seconds"] for row in cells.values())
            lines.append((name, *means, *gaps, str(len(shared)), f"{seconds:.0f}"))
        if lines:
            columns = (
                "NLL",
                "at the best scale",
                "accuracy",
                "ECE",
                "Δ NLL",
                "Δ at the best scale",
            )
            head = ("exchanged", *columns, "draws", "seconds")
            parts += [f"## {words}", table(head, lines)]
    missing = [arm for arm in ARMS if arm not in stored]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.")
    shares = [row["kept"] for row in stored.get(SOUP, {}).values()]
    if shares:
        parts.append(
            f"The part of rank r keeps {min(shares):.0%} to {max(shares):.0%} of the squared norm "
            "of the mean of three changes."
        )
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


_SCORES = ("nll", "nll_scaled", "accuracy", "ece")
_COLUMNS = ("NLL", "at the best scale", "accuracy", "ECE")
_HEAD = (
    f"MiniLM, {SIZE} rows drawn for each seed, {EPOCHS} epochs, nothing held out; development",
    "rows.",
    "*At the best scale*: the lowest NLL over scales of the log-probabilities, chosen on the same",
    "rows, so it compares what was learnt, apart from calibration. Δ: less the default, paired by",
    "set and draw, ± half a 95 % interval. Seconds of a fit on one core of a busy machine.",
    "Made by `python -m benchmarks.parts --data-dir DIR`, whose first lines have the rules.",
)


if __name__ == "__main__":
    main()
