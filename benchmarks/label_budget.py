"""What is the best use of one labelled file? Every method has the same rows and nothing else.

Each seed draws L rows anew; a method that tunes pays for its held-out rows out of them: `split`
holds out a fifth, trains on the rest and chooses by the fifth (`fit(hold_out=0.2)`); `refit` then
fits to all rows with what was chosen; `cv` chooses the scale of the logits by rows held out of
further fits and trains on all (`fit(cv="auto")`; with LoRA-MLE it is temperature scaling by
cross-validation); `folds` keeps the networks of five such fits, a pass each, in place of the one to
all rows (`fit(cv="auto", keep_folds=True)`). Rows are scored on the development rows of
`reading.py`. All methods read texts as `fit` does by default. The number of fits
stands beside each score.

Rules, written before the run (the cells of `reading.py`, and prototypes at 128 rows with seed 0,
had been seen):

1. `fit` takes `cv="auto"` by default for a VBLL beside an adapter if the mean NLL over the three
   development sets and L = 32, 128 and 640 is lower than without by more than the 95 % t interval
   of the paired differences, and no set at no L is worse by more than .01 in the mean of its seeds.
2. If only small L gain, it is taken up to the largest L at which the mean over sets gains .01.

Written when the cells of PoLAR-VBLL and LoRA-MLE with and without `cv` were there, and no other:

3. Of `cv`, `split` and `refit`, PoLAR-VBLL's default without validation rows is the one with the
   lowest mean NLL over sets, L of at least 128 and both backbones; the present one stays where the
   difference is within the 95 % t interval.
4. PoLAR-VBLL is said to be ahead of a rival at its scheme where the 95 % t interval of the paired
   differences in NLL, over sets, seeds and L of at least 128, leaves out zero.

Written when `reports/own-tokens` was there and no cell with a distance of features:

5. `fit` keeps the Mahalanobis distance of the features by default, and detection takes it first, if
   at 128 rows its mean AUROC over sets and seeds is above that of the highest probability, of
   epistemic uncertainty and of logit variance on both backbones, for far rows and for near ones.

   It is not so for near rows: at 128 rows of SmolLM2 it has .651 (two seeds, newsgroups), the
   highest probability .689. Nor is it for `unfamiliarity` (`unfamiliarity_weight.py`, 128 and 640
   rows: near rows .666 and .686 there, .719 and .721 in the mean of three kinds of fits), which was
   taken all the same, after that was seen: far rows gain .060 over the highest probability and
   .043 over epistemic uncertainty.

What was found meanwhile: a factor of means and deviations cannot make a variational layer sure
enough of few rows, so that it multiplies the means alone now; and refitted means were worse at 32
rows. Cells of fits before that are called so. Prototypes
that averaged the network with those of the parts, at rank r, gained on some pairs and lost on
others, in the mean no more than chance explains; that was taken out again.

Everything is stored as it comes, and the same command goes on where it was stopped.

    python benchmarks/label_budget.py --data-dir DIR
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from reading import TASKS, TEXT_TOKENS, Pools, development, drawn, frame_tokens
from verdicts import mean_and_half, shown, table

from bayeslora import BayesianClassifier, evaluate
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.backbones.template import DEFAULT_FRAME
from bayeslora.files import atomic_file, read_json, write_json
from bayeslora.metrics.ood import detection, thresholds
from bayeslora.training.final_fit import scale_logits


@dataclass(frozen=True)
class Method:
    """An adapter with a posterior, and how it uses its labels.

    Attributes:
        adapter: Which adapter.
        posterior: Which posterior.
        scheme: `cv`, `folds`, `split`, `refit`, or `all`: nothing is held out.
    """

    adapter: str
    posterior: str
    scheme: str = "all"

    @property
    def is_split(self) -> bool:
        """Whether a fifth of the rows is held out."""
        return self.scheme in {"split", "refit"}

    @property
    def options(self) -> dict[str, Any]:
        """Of `fit`."""
        if self.is_split:
            return {"hold_out": 0.2, "refit": self.scheme == "refit"}
        if self.scheme == "folds":
            return {"cv": "auto", "keep_folds": True}
        return {"cv": "auto" if self.scheme == "cv" else 0}


METHODS = {
    "polar-vbll, cv": Method("polar", "vbll", "cv"),
    "lora-mle, cv": Method("lora", "mle", "cv"),
    "polar-mle, cv": Method("polar", "mle", "cv"),
    "lora-vbll, cv": Method("lora", "vbll", "cv"),
    "polar-vbll, split": Method("polar", "vbll", "split"),
    "polar-vbll, refit": Method("polar", "vbll", "refit"),
    "lora-temperature, split": Method("lora", "temperature", "split"),
    "lora-laplace": Method("lora", "laplace:prior_precision=marglik"),
    "last layer alone": Method("none", "vbll"),
    "polar-vbll, folds": Method("polar", "vbll", "folds"),
    "lora-mle, folds": Method("lora", "mle", "folds"),
}
# Deviations multiplied by the factor too, and means refitted where steps were few.
BEFORE = ", before"
# First the fits of `cv` without the factor that held-out rows chose.
ROWS = (
    *("polar-vbll", "lora-mle", "polar-mle", "lora-vbll"),
    *METHODS,
    *(f"{name}{BEFORE}" for name in ("polar-vbll", "lora-vbll", *METHODS) if "vbll" in name),
)
BACKBONES = ("smollm2-135m", "minilm")
OURS, FEWEST_TO_LEAD = "polar-vbll, cv", 128
SIZES, _FEWEST_TO_SPLIT = (32, 128, 640), 128
_WORDS = {
    "polar-vbll": "PoLAR-VBLL",
    "polar-mle": "PoLAR",
    "lora-mle": "LoRA",
    "lora-vbll": "LoRA-VBLL",
    "lora-temperature": "LoRA + temperature",
    "lora-laplace": "LoRA + Laplace",
}
_SHOWN = (-0.15, 0.5)
_PRINTED = ("nll", "accuracy", "ece", "overconfidence")
_OOD = ("max_probability", "epistemic", "logit_variance", "mahalanobis", "unfamiliarity")


def main() -> None:
    """Run what is not there yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/label-budget"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone(args.backbone)
    pools = {task: development(task, args.data_dir) for task in args.tasks}
    for seed, size, task in product(args.seeds, args.sizes, args.tasks):
        for name in args.methods:
            method = METHODS[name]
            folder = args.out / "scores" / args.backbone / task
            about = {"task": task, "size": size, "seed": seed}
            if _file(folder, name, about).is_file() or (
                method.is_split and size < _FEWEST_TO_SPLIT
            ):
                continue
            for one, row in fit(backbone, name, pools[task], size, seed).items():
                write_json(_file(folder, one, about), {**about, "method": one, **row})
                print(task, size, one, {key: round(row[key], 3) for key in _PRINTED}, flush=True)
        backbone.prefix_states.clear()
        write_table(args.out)


def _file(folder: Path, name: str, about: Mapping[str, Any]) -> Path:
    written = name.replace(", ", "-").replace(" ", "-")
    return folder / f"{about['size']}-{written}-seed-{about['seed']}.json"


def fit(
    backbone: Backbone, name: str, pools: Pools, size: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return scores on the rows that score by name: of a fit, and of it without its factor."""
    method = METHODS[name]
    train = drawn(pools.train, size, seed)
    clf = BayesianClassifier(
        backbone,
        method.adapter,
        method.posterior,
        seed=seed,
        max_length=TEXT_TOKENS + frame_tokens(backbone, DEFAULT_FRAME),
        progress=False,
    )
    start = time.perf_counter()
    clf.fit(train, **method.options)
    seconds = time.perf_counter() - start
    scale = clf.record.results.get("logit_scale") or {}
    factor, fits = scale.get("factor", 1.0), 1.0 + scale.get("num_fits", 0)
    fits += {"refit": 1, "folds": -1}.get(method.scheme, 0)
    found = {name: {"factor": factor, "fits": fits, "fit_seconds": seconds, **scores(clf, pools)}}
    if method.scheme == "cv" and factor != 1.0:
        # Without the factor it is the same fit; of few steps `cv=0` would refit its means.
        scale_logits(clf._known().network, 1 / factor)
        found[name.removesuffix(", cv")] = {"factor": 1.0, "fits": 1.0, **scores(clf, pools)}
    return found


def scores(clf: BayesianClassifier, pools: Pools) -> dict[str, float]:
    """Return the scores of predictions of the rows that score, and AUROC of rows from elsewhere."""
    row = {}
    predictions = clf.predict(pools.score)
    row |= {key: score.value for key, score in evaluate(predictions, num_resamples=20).items()}
    for name, rows in pools.ood.items():
        outside = clf.predict(rows, unknown_labels="ood")
        for score in (one for one in _OOD if one in predictions.uncertainty_names):
            inner, outer = predictions.uncertainty(score), outside.uncertainty(score)
            if inner is not None and outer is not None:
                row[f"{name} {score}"] = detection(thresholds(inner, outer))[0]
    return {key: float(value) for key, value in row.items() if isinstance(value, int | float)}


Found = dict[tuple[int, str, str], list[dict[str, float]]]
"""Rows of each size, method and task."""


def write_table(out: Path) -> None:
    """Write `summary.md`: every method at every size, and PoLAR-VBLL against each."""
    lines = [
        "# One labelled file",
        "NLL in nats / ECE (number of seeds) on development rows by labelled rows; the default "
        "reading, texts of at most 32 tokens; fits that a method takes. *Before*: as `fit` was "
        "until the factor multiplied means alone, and few steps no longer meant refitted means. "
        "The figure has every pair of set, seed and size of at least "
        f"{FEWEST_TO_LEAD} rows, their mean and its 95 % interval. Made by "
        "`python benchmarks/label_budget.py --data-dir DIR`, whose first lines have the rules.",
        "![NLL above that of PoLAR-VBLL, by method](leads.svg)",
    ]
    for backbone in BACKBONES:
        found = _found(out / "scores" / backbone)
        if found:
            lines += [f"## {backbone}", *_tables(found)]
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    with atomic_file(out / "leads.svg") as aside:
        aside.write_bytes(figure_svg(out))


def figure_svg(out: Path) -> bytes:
    """Return the figure: how far every method is behind `OURS`, with intervals, by backbone."""
    options = {"svg.hashsalt": "label-budget", "svg.fonttype": "none", "font.size": 9}
    with rc_context(options):
        sheet = Figure(figsize=(8.0, 3.6), layout="constrained")
        panels = sheet.subplots(1, len(BACKBONES), sharey=True, sharex=True)
        names = [*METHODS][::-1]
        for panel, backbone in zip(panels, BACKBONES, strict=True):
            found = _found(out / "scores" / backbone)
            for place, name in enumerate(names):
                gaps = [
                    -gap
                    for size, task in sorted({key[::2] for key in found})
                    if size >= FEWEST_TO_LEAD
                    for gap in _paired(found, size, task, OURS, name)
                ]
                if name == OURS or not gaps:
                    continue
                middle, half = mean_and_half(gaps)
                panel.plot(gaps, [place] * len(gaps), "|", color="0.6")
                if len(gaps) > 1:
                    panel.plot([middle - half, middle + half], [place] * 2, color="C0")
                panel.plot(middle, place, "o", color="C0")
            panel.axvline(0, color="0.3", linewidth=0.8)
            panel.set_title(backbone)
            panel.set_xlabel("NLL above PoLAR-VBLL's, nats")
        panels[0].set_yticks(range(len(names)), map(_in_words, names))
        panels[0].set_xlim(*_SHOWN)
        stream = BytesIO()
        sheet.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _in_words(name: str) -> str:
    method, comma, scheme = name.partition(",")
    return _WORDS.get(method, method) + comma + scheme


def _found(folder: Path) -> Found:
    found: Found = {}
    for file in sorted(folder.glob("*/*.json")):
        row = read_json(file)
        found.setdefault((row["size"], row["method"], row["task"]), []).append(row)
    return found


def _tables(found: Found) -> list[str]:
    tasks = sorted({task for *_, task in found})
    rows = []
    for size, name in product(sorted({size for size, *_ in found}), ROWS):
        cells = [found.get((size, name, task), []) for task in tasks]
        if any(cells):
            written = [_cell(one) for one in cells]
            full = [mean(row["nll"] for row in one) for one in cells if one]
            over_sets = f"{mean(full):.3f}" if len(full) == len(tasks) else ""
            fits = mean(row["fits"] for one in cells for row in one)
            rows.append((str(size), name, *written, over_sets, f"{fits:.0f}"))
    head = ("", "rows", *tasks, "all, ± half a 95 % interval")
    return [
        table(("rows", "method", *tasks, "mean NLL", "fits"), rows),
        "Scale by cross-validation less none, nats a row, paired by set and seed:",
        table(head, _gains(found, tasks, ", cv", "")),
        "The same before:",
        table(head, _gains(found, tasks, f", cv{BEFORE}", BEFORE)),
        "As it is less before, both with the scale:",
        table(head, _gains(found, tasks, ", cv", f", cv{BEFORE}")),
        f"{OURS} less each other method, nats a row, paired by set and seed:",
        table(head, _leads(found, tasks)),
    ]


def _cell(rows: list[dict[str, float]]) -> str:
    if not rows:
        return ""
    nll, ece = (mean(row[key] for row in rows) for key in ("nll", "ece"))
    return f"{nll:.3f} / {ece:.3f} ({len(rows)})"


def _gains(found: Found, tasks: Sequence[str], with_it: str, without: str) -> list[tuple[str, ...]]:
    names = [one.removesuffix(", cv") for one in METHODS if one.endswith(", cv")]
    return [
        row
        for name in names
        for row in _by_size(found, tasks, name + with_it, name + without, label=name)
    ]


def _leads(found: Found, tasks: Sequence[str]) -> list[tuple[str, ...]]:
    rivals = [name for name in ROWS if name != OURS]
    return [
        row
        for name in rivals
        for row in _by_size(found, tasks, OURS, name, label=name, least=FEWEST_TO_LEAD)
    ]


def _by_size(
    found: Found, tasks: Sequence[str], ours: str, theirs: str, *, label: str, least: int = 0
) -> list[tuple[str, ...]]:
    """Return differences in NLL at each size of at least `least` rows, and over all of them."""
    rows = []
    pooled: list[float] = []
    for size in sorted({size for size, *_ in found if size >= least}):
        by_task = {task: _paired(found, size, task, ours, theirs) for task in tasks}
        gaps = [gap for one in by_task.values() for gap in one]
        pooled += gaps
        if gaps:
            written = [f"{mean(one):+.3f}" if one else "" for one in by_task.values()]
            rows.append((label, str(size), *written, shown(gaps)))
    return [*rows, (label, "all", *([""] * len(tasks)), shown(pooled))] if len(rows) > 1 else rows


def _paired(found: Found, size: int, task: str, ours: str, theirs: str) -> list[float]:
    first, second = (
        {row["seed"]: row["nll"] for row in found.get((size, one, task), [])}
        for one in (ours, theirs)
    )
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


if __name__ == "__main__":
    main()
