"""Which layer should a fit read, and should texts stand in a template?

Default fits (all rows, no validation rows) at several depths, with and without the generic
template, on 640 training rows that each seed draws anew. Rows are scored on development rows alone:
the validation rows of SST-2 and newsgroups, and 1,000 training rows of AG news that no fit sees.

Rules, written before the run:
- The default depth of decoders is the share of layers with the lowest mean NLL over the three sets
  and both methods, with the template that wins below. A depth that is worse than all layers by more
  than .01 nats on any set is not taken.
- A template becomes the default of decoders if its mean NLL at that depth is lower by more than the
  95 % t interval of the paired differences, and no set is worse by more than .01.

Texts keep 32 tokens; a template's own tokens come on top. Everything is stored as it comes, and the
same command goes on where it was stopped.

    python benchmarks/depth.py --data-dir DIR
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from task_rows import TASKS

from bayeslora import BayesianClassifier, evaluate
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.files import atomic_file, read_json, write_json
from bayeslora.metrics.ood import detection, thresholds
from bayeslora.tasks.examples import (
    Examples,
    class_names,
    encode_labels,
    without_duplicates,
    without_overlap,
)
from bayeslora.tasks.known import load_known
from bayeslora.tasks.newsgroups import load_newsgroups
from bayeslora.tasks.splits import stratified_sample

METHODS = {"polar-vbll": ("polar", "vbll"), "lora-mle": ("lora", "mle")}
TEMPLATES = {"raw": None, "generic": "Text: {text}\nClass:"}
DEPTHS = (30, 24, 21, 27, 18)
NUM_TRAIN, NUM_OOD, TEXT_TOKENS = 640, 300, 32
OOD_SCORES = ("max_probability", "epistemic", "logit_variance")


@dataclass(frozen=True)
class Pools:
    """Rows to draw training rows from, rows that score, and rows from elsewhere by name."""

    train: Examples
    score: Examples
    ood: dict[str, Examples]


def development(task: str, data_dir: Path | None) -> Pools:
    """Return the pools of a development task; no row is in two of them."""
    if task == "newsgroups":
        posts = load_newsgroups(
            num_train=3200, num_validation=800, num_near=NUM_OOD, num_far=NUM_OOD
        )
        return Pools(posts.train, posts.validation, {"near": posts.near, "far": posts.far})
    pool = without_duplicates(load_known(task, "train", data_dir))
    if task == "sst2_sentences":
        score = load_known(task, "validation", data_dir)
    else:
        score = drawn(pool, 1000, 1_000_003)
    other = "ag_news_10k" if task == "sst2_sentences" else "sst2_sentences"
    far = drawn(load_known(other, "train", data_dir), NUM_OOD, 0)
    return Pools(without_overlap(pool, score), score, {"far": far})


def drawn(examples: Examples, size: int, seed: int) -> Examples:
    """Return a stratified draw of rows."""
    labels = encode_labels(examples, class_names(examples))
    return examples.take(stratified_sample(labels, size, seed))


def main() -> None:
    """Run what is not there yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("reports/depth"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--templates", nargs="+", choices=TEMPLATES, default=list(TEMPLATES))
    parser.add_argument("--depths", nargs="+", type=int, default=list(DEPTHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone("smollm2-135m")
    pools = {task: development(task, args.data_dir) for task in args.tasks}
    cells = product(args.seeds, args.depths, args.templates, args.tasks)
    for seed, depth, template, task in cells:
        train = drawn(pools[task].train, NUM_TRAIN, seed)
        for method in args.methods:
            cell = Cell(task, method, template, depth, seed)
            name = f"{method}-{template}-{depth}-seed-{seed}"
            file = args.out / "scores" / task / f"{name}.json"
            if not file.is_file():
                row = fit(backbone, cell, train, pools[task])
                write_json(file, {**asdict(cell), **row})
                print(task, name, {k: round(v, 3) for k, v in row.items()}, flush=True)
        backbone.prefix_states.clear()
        write_summary(args.out)


@dataclass(frozen=True)
class Cell:
    """One fit of the study."""

    task: str
    method: str
    template: str
    depth: int
    seed: int


def fit(backbone: Backbone, cell: Cell, train: Examples, pools: Pools) -> dict[str, float]:
    """Return scores of a default fit on the rows that score, and its seconds."""
    adapter, posterior = METHODS[cell.method]
    template = TEMPLATES[cell.template]
    clf = BayesianClassifier(
        backbone,
        adapter,
        posterior,
        seed=cell.seed,
        max_length=TEXT_TOKENS + frame_tokens(backbone, template),
        depth=cell.depth,
        template=template,
        progress=False,
    )
    start = time.perf_counter()
    clf.fit(train)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    predictions = clf.predict(pools.score)
    row = {"fit_seconds": seconds, "predict_seconds": time.perf_counter() - start}
    row |= {key: score.value for key, score in evaluate(predictions, num_resamples=20).items()}
    for name, rows in pools.ood.items():
        outside = clf.predict(rows, unknown_labels="ood")
        for score in OOD_SCORES:
            inner, outer = predictions.uncertainty(score), outside.uncertainty(score)
            if inner is not None and outer is not None:
                row[f"{name} {score}"] = detection(thresholds(inner, outer))[0]
    return {key: float(value) for key, value in row.items() if np.isscalar(value)}


def frame_tokens(backbone: Backbone, frame: str | None) -> int:
    """Return how many tokens a template has without a text."""
    if frame is None:
        return 0
    return len(backbone.tokenizer(frame.replace("{text}", ""))["input_ids"])


def write_summary(out: Path) -> None:
    """Write NLL and accuracy by depth, template and method, means over the seeds that are there."""
    records = [read_json(file) for file in sorted((out / "scores").glob("*/*.json"))]
    depths = sorted({record["depth"] for record in records})
    places = sorted({(one["task"], one["method"], one["template"]) for one in records})
    lines = [
        "# Depth and template",
        "",
        f"NLL in nats / accuracy of development rows after a default fit to {NUM_TRAIN} rows of at "
        f"most {TEXT_TOKENS} tokens, SmolLM2-135M cut after so many of its 30 layers; means over "
        "seeds, whose number is in brackets. Made by `python benchmarks/depth.py --data-dir DIR`; "
        f"unfinished below {3 * len(TASKS) * len(METHODS) * len(TEMPLATES) * len(DEPTHS)} fits, "
        f"here are {len(records)}.",
        "",
        "| set | method | template | " + " | ".join(f"{depth} layers" for depth in depths) + " |",
        "|---" * (3 + len(depths)) + "|",
    ]
    for place in places:
        cells = [
            _cell([one for one in records if (*_place(one), one["depth"]) == (*place, depth)])
            for depth in depths
        ]
        lines.append(f"| {' | '.join((*place, *cells))} |")
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _place(record: dict) -> tuple[str, str, str]:
    return record["task"], record["method"], record["template"]


def _cell(records: list[dict]) -> str:
    if not records:
        return ""
    nll, accuracy = (fmean(one[key] for one in records) for key in ("nll", "accuracy"))
    return f"{nll:.3f} / {accuracy:.3f} ({len(records)})"


if __name__ == "__main__":
    main()
