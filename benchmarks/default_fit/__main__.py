"""Is `fit` without options as good as what people use, on sets of several kinds?

The rival is plain LoRA with a temperature from cross-validation (`--adapter lora --posterior mle
--cv auto`), on the same rows, backbone and seed, with its epochs chosen by the same folds. Choices
were made on the sets that develop; the sets that judge decided nothing. All scoring rows count, at
most 1,500.

Rules, written before the cells of the finished default:

1. The default *holds* on a backbone and size if no set has a mean NLL more than .01 above that of
   the rival, and the mean over sets is below it. Intervals are over draws (sets × seeds) and over
   sets; a lead is claimed only where both leave out zero.
2. The same for sets that judge alone. What fails is said in the README.
3. The backbone for texts, where none is named, is the one with the lower mean NLL of the default on
   the sets that develop (a rule of the time when their first cells were known).
4. `--ablation` sets one part of the default back at a time, at 640 rows: weights of the last layer
   from zero, its rate (.005), the prior of its means (2), and five epochs. A part whose removal
   does not cost .005 in the mean over the sets that develop is not needed.

Stored results are kept, so that the same command goes on.

    python -m benchmarks.default_fit --data-dir DIR
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from bayeslora import evaluate
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.engine.starts import LinearProbes
from bayeslora.experiments.rows import drawn
from bayeslora.io import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import Pools, new_classifier, pools_of
from benchmarks.lib.results import Results, Row
from benchmarks.lib.tables import shown, shown_over_sets, table

BACKBONES = ("minilm", "smollm2-135m")
DEVELOPMENT = (
    "ag_news_10k",
    "newsgroups",
    "sst2_sentences",
    "tweets",
    "retweets",
    "clinc150_77",
    "clinc150_150",
)
JUDGED = ("reuters_r8", "boolq_question_only")
SIZES = (128, 640, 2000)
KEY = ("backbone", "task", "size", "seed", "method")
FEWEST = {"clinc150_77": 640, "clinc150_150": 640}
"""Fewest rows of sets with many classes."""
_MOST_SCORED = 1500
_WORST = 0.01
DEFAULT, RIVAL = "default", "LoRA + temperature"
MEANS = "Means over sets"


@dataclass(frozen=True)
class Method:
    """A fit.

    Attributes:
        adapter: Adapter specification.
        posterior: Posterior specification.
        options: Options of `fit`.
        without: Opens a context in which a part of the default is missing.
    """

    adapter: str = "polar"
    posterior: str = "vbll"
    options: dict[str, Any] = field(default_factory=dict)
    without: Callable[[], AbstractContextManager[Any]] = nullcontext


METHODS = {DEFAULT: Method(), RIVAL: Method("lora", "mle", {"cv": "auto"})}
ABLATION = {
    "last layer from zero": Method(without=partial(patch.object, LinearProbes, "begin")),
    "head rate 0.005": Method(posterior="vbll:head_lr=0.005"),
    "prior of the means 2": Method(posterior="vbll:training_prior_scale=2"),
    "five epochs": Method(options={"epochs": 5}),
    "PoLAR + temperature": Method("polar", "mle", {"cv": "auto"}),
}


def main() -> None:
    """Run the missing fits, then write the tables."""
    parser = study_parser(__doc__, "reports/default-fit")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--tasks", nargs="*", default=[*DEVELOPMENT, *JUDGED])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--ablation", action="store_true")
    args = parser.parse_args()
    results = Results(args.out, KEY)
    methods = METHODS | (ABLATION if args.ablation else {})
    for name in args.backbones:
        backbone: Backbone | None = None
        for seed, size, task in product(args.seeds, args.sizes, args.tasks):
            cell = {"backbone": name, "task": task, "size": size, "seed": seed}
            todo = [method for method in methods if results.get(**cell, method=method) is None]
            if not todo or size < FEWEST.get(task, 0):
                continue
            backbone = backbone or load_backbone(name)
            pools = pools_of(task, args.data_dir)
            for method in todo:
                row = cell | {"method": method} | fit(backbone, methods[method], pools, size, seed)
                results.append(row)
                print({key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()})
            backbone.prefix_states.clear()
    write(args.out, results.rows())


def fit(
    backbone: Backbone, method: Method, pools: Pools, size: int, seed: int
) -> dict[str, float | str | None]:
    """Return the scores of a fit to `size` rows."""
    train = drawn(pools.train, size, seed)
    known = {*train.labels}
    rows = [row for row, label in enumerate(pools.score.labels) if label in known]
    rows = sorted(np.random.default_rng(0).permutation(rows)[:_MOST_SCORED].tolist())
    clf = new_classifier(backbone, seed, method.adapter, method.posterior)
    start = time.perf_counter()
    with method.without():
        clf.fit(train, **method.options)
    seconds = time.perf_counter() - start
    scored = evaluate(clf.predict(pools.score.take(rows)), num_resamples=20)
    results = clf.record.results
    scores = ("nll", "accuracy", "ece", "overconfidence")
    return {
        **{key: float(scored[key].value) for key in scores},
        "held_out_nll": results["logit_scale"]["nll"],
        "factor": results["logit_scale"]["factor"],
        "epochs": min(losses, key=losses.get) if (losses := results.get("epochs")) else None,
        **results.get("baselines", {}),
        "seconds": round(seconds, 1),
    }


def write(out: Path, rows: Sequence[Row]) -> None:
    """Write the tables of the cells that are there."""
    cells = {tuple(row[key] for key in KEY): row for row in rows}
    lines = [
        "# The default fit beside plain LoRA with a temperature",
        "",
        "Mean over draws of NLL (nats) / accuracy; Δ is the default's NLL minus that of LoRA with "
        "a temperature from cross-validation, ± a 95 % interval over draws. Same rows, backbone, "
        "folds and epochs to choose from. `judged` sets decided nothing. Linear probe and bag of "
        "words: NLL on the held-out rows of the fit. Made by `python -m benchmarks.default_fit "
        "--data-dir DIR`.",
        "",
    ]
    for backbone in BACKBONES:
        body, gaps = [], defaultdict(list)
        for task, size in product((*DEVELOPMENT, *JUDGED), SIZES):
            pairs = _pairs(cells, backbone, task, size)
            if not pairs:
                continue
            gap = [own["nll"] - rival["nll"] for own, rival in pairs]
            gaps[size, task in JUDGED].append(gap)
            ours, rivals = zip(*pairs, strict=True)
            body.append(
                [
                    task + (" (judged)" if task in JUDGED else ""),
                    str(size),
                    str(len(gap)),
                    *(_both(group) for group in (ours, rivals)),
                    shown(gap),
                    *(_mean(ours, key) for key in ("held_out_nll", "linear_probe", "bag_of_words")),
                ]
            )
        if not body:
            continue
        heads = ["set", "rows", "draws", DEFAULT, RIVAL, "Δ", "held out", "linear probe"]
        lines += [f"## {backbone}", "", table([*heads, "bag of words"], body), ""]
        summary = []
        for (size, judged), groups in sorted(gaps.items()):
            worst = max(sum(group) / len(group) for group in groups)
            flat = [gap for group in groups for gap in group]
            summary.append(
                [
                    str(size),
                    "judged" if judged else "development",
                    shown(flat),
                    shown_over_sets(groups),
                    f"{worst:.3f}",
                    "yes" if worst <= _WORST and sum(flat) < 0 else "no",
                ]
            )
        heads = ["rows", "sets", "Δ over draws", "Δ over sets", "largest Δ of a set", "holds"]
        lines += [table(heads, summary), ""]
    lines += [*_means(cells), *_backbones(cells), *_ablation(cells)]
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "summary.md") as path:
        path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _pairs(
    cells: dict[tuple[Any, ...], Row], backbone: str, task: str, size: int
) -> list[tuple[Row, Row]]:
    """Return the default and its rival on each draw that both have."""
    return [
        (cells[backbone, task, size, seed, DEFAULT], rival)
        for (*cell, seed, method), rival in cells.items()
        if (*cell, method) == (backbone, task, size, RIVAL)
        and (backbone, task, size, seed, DEFAULT) in cells
    ]


def _means(cells: dict[tuple[Any, ...], Row]) -> list[str]:
    """Return a table of both methods: means over sets of the means over draws."""
    body = []
    for backbone, size, tasks in product(BACKBONES, SIZES, (DEVELOPMENT, JUDGED)):
        groups = [pairs for task in tasks if (pairs := _pairs(cells, backbone, task, size))]
        gaps = [[own["nll"] - rival["nll"] for own, rival in pairs] for pairs in groups]
        flat = [gap for group in gaps for gap in group]
        differences = [shown(flat), shown_over_sets(gaps)] if gaps else []
        sets = f"{len(groups)}{' judged' if tasks is JUDGED else ''}"
        for place, method in enumerate((DEFAULT, RIVAL) if groups else ()):
            rows = [[pair[place] for pair in pairs] for pairs in groups]
            means = [_over_sets(rows, key) for key in ("nll", "ece", "accuracy")]
            gap = differences if method == DEFAULT else ["", ""]
            body.append([backbone, str(size), sets, method, *means, *gap])
    if not body:
        return []
    heads = ["backbone", "rows", "sets", "method", "NLL", "ECE", "accuracy"]
    heads += ["Δ over draws", "Δ over sets"]
    return [f"## {MEANS}", "", table(heads, body), ""]


def _backbones(cells: dict[tuple[Any, ...], Row]) -> list[str]:
    """Return a table of the default with each backbone, on the draws that all of them have."""
    body = []
    for task, size in product((*DEVELOPMENT, *JUDGED), SIZES):
        draws = [
            seeds
            for name in BACKBONES
            if (seeds := {key[3] for key in cells if key[:3] == (name, task, size)})
        ]
        seeds = set.intersection(*draws) if len(draws) == len(BACKBONES) else set()
        groups = [
            [cells[key] for seed in seeds if (key := (name, task, size, seed, DEFAULT)) in cells]
            for name in BACKBONES
        ]
        if all(groups):
            body.append([task, str(size), str(len(seeds)), *map(_both, groups)])
    if not body:
        return []
    return ["## The default by backbone", "", table(["set", "rows", "draws", *BACKBONES], body), ""]


def _ablation(cells: dict[tuple[Any, ...], Row]) -> list[str]:
    body = []
    for name, method in product(BACKBONES, ABLATION):
        groups = defaultdict(list)
        for (backbone, task, size, seed, other), row in cells.items():
            own = cells.get((backbone, task, size, seed, DEFAULT))
            is_arm = (backbone, other, size) == (name, method, 640)
            if is_arm and own is not None and task in DEVELOPMENT:
                groups[task].append(row["nll"] - own["nll"])
        if groups:
            flat = [gap for group in groups.values() for gap in group]
            by_set = ", ".join(f"{task} {np.mean(group):+.3f}" for task, group in groups.items())
            body.append([name, method, str(len(flat)), shown(flat), by_set])
    if not body:
        return []
    heads = ["backbone", "in place of the default's", "draws", "NLL more", "by set"]
    return ["## Ablation, 640 rows", "", table(heads, body), ""]


def _both(rows: Sequence[Row]) -> str:
    return f"{_mean(rows, 'nll')} / {_mean(rows, 'accuracy')}"


def _over_sets(groups: Sequence[Sequence[Row]], key: str) -> str:
    return f"{np.mean([np.mean([row[key] for row in rows]) for rows in groups]):.3f}"


def _mean(rows: Sequence[Row], key: str) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    return f"{np.mean(values):.3f}" if values else ""


if __name__ == "__main__":
    main()
