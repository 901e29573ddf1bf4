"""Does the quality-retaining loss keep a task from falling back while others learn?

MiniLM on three tasks of different difficulty at once, one union head, rows of a task classified
among its own classes. 300 training rows a task, six epochs, adapters of rank 8 on all linear layers
of the last two transformer layers, 32 tokens, a point estimate, and one learning rate for all arms,
LoRA's default (3e-3), that nothing was chosen by. 250 test rows a task score every epoch, and 150
others choose one temperature at the end.

Arms: LoRA, LoRA with the loss, EMTAL (experts by clusters), EMTAL with the loss, EMTAL with experts
in file order, and LoRA on each task alone. The first four also across tasks, the published form:
rows are classified among the classes of all tasks, in training, by the temperature and in all
scores, and no task is known. These are compared with each other alone.

Judged by, before the first run, paired by seed:
 1. the worst drop of a task: the largest of best minus last accuracy over the epochs, over tasks;
    the loss is meant to lower it, for LoRA and for EMTAL.
 2. the mean gain: accuracy of EMTAL with the loss minus that of LoRA, a mean over tasks, in the
    last epoch. What is learnt is LoRA of rank r in both, so that none is expected.
NLL in the place of accuracy in both is shown beside. Calibration is reported with and without the
loss, before and after the temperature.

    python -m benchmarks.multi_task --data-dir DIR
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.adapters.lora import LoRA
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.contrib.emtal import EMTAL, GatedUnits
from bayeslora.data.examples import Examples, encode_labels, without_duplicates, without_overlap
from bayeslora.data.known import load_known
from bayeslora.data.splits import stratified_sample
from bayeslora.data.union import TASK, class_of, counts, named, union, union_classes
from bayeslora.engine.build import build_network
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.rows import feature_rows, prepare
from bayeslora.engine.training.final_fit import LastFit
from bayeslora.engine.training.loop import Training, train_network
from bayeslora.engine.training_options import QualityRetaining, TrainingSettings
from bayeslora.logits import ABSENT, GaussianLogits
from bayeslora.metrics.calibration import ece
from bayeslora.metrics.top_label import top_label
from bayeslora.posteriors.features import mean_logits
from bayeslora.posteriors.logit_scale import best_scale
from bayeslora.posteriors.point import MLE
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.multi_task.report import write_report

TASKS = ("ag_news_10k", "sst2_sentences", "boolq_question_only")
KEY = ("arm", "seed")
NUM_TRAIN, NUM_HELD, NUM_TEST = 300, 150, 250
EPOCHS, BATCH_SIZE, MAX_LENGTH, NUM_LAYERS, RANK, RATE = 6, 16, 32, 2, 8, 3e-3

LORA = LoRA(
    r=RANK,
    alpha=RANK,
    num_layers=NUM_LAYERS,
    lr=RATE,
    target_modules=("dense", "query", "key", "value"),
)
EXPERTS = EMTAL(r=RANK, num_layers=NUM_LAYERS, lr=RATE)


@dataclass(frozen=True)
class Arm:
    """One way to fit the tasks.

    Attributes:
        adapter: Options of the adapter.
        retains: Whether to use the quality-retaining loss.
        in_file_order: Whether experts are contiguous hidden units instead of clusters.
        apart: Whether to fit each task separately.
        across: Whether to classify rows among the classes of all tasks, in training and in scores.
    """

    adapter: Adapter
    retains: bool = False
    in_file_order: bool = False
    apart: bool = False
    across: bool = False


ARMS = {
    "lora": Arm(LORA),
    "lora+retaining": Arm(LORA, retains=True),
    "emtal": Arm(EXPERTS),
    "emtal+retaining": Arm(EXPERTS, retains=True),
    "emtal in file order": Arm(EXPERTS, in_file_order=True),
    "lora apart": Arm(LORA, apart=True),
    "lora across": Arm(LORA, across=True),
    "lora+retaining across": Arm(LORA, retains=True, across=True),
    "emtal across": Arm(EXPERTS, across=True),
    "emtal+retaining across": Arm(EXPERTS, retains=True, across=True),
}


@dataclass(frozen=True)
class Rows:
    """Rows of the tasks that are fitted together.

    Attributes:
        train: Training rows.
        validation: Held-out rows to choose a temperature.
        test: Rows to score.
        classes: Names of all classes.
        tasks: Number of classes of each task.
    """

    train: Examples
    validation: Examples
    test: Examples
    classes: tuple[str, ...]
    tasks: dict[str, int]


def read(data_dir: Path | None) -> dict[str, dict[str, Examples]]:
    """Load the fixed rows of each split by task."""
    splits: dict[str, dict[str, Examples]] = {"train": {}, "validation": {}, "test": {}}
    for task in TASKS:
        test = _sample(load_known(task, "test", data_dir), NUM_TEST)
        pool = without_overlap(without_duplicates(load_known(task, "train", data_dir)), test)
        pool = _sample(pool, NUM_TRAIN + NUM_HELD)
        order = np.random.default_rng(0).permutation(len(pool))
        splits["train"][task] = pool.take(order[:NUM_TRAIN])
        splits["validation"][task] = pool.take(order[NUM_TRAIN:])
        splits["test"][task] = test
    return splits


def _sample(rows: Examples, count: int) -> Examples:
    codes = np.unique([str(label) for label in rows.labels], return_inverse=True)[1]
    return rows.take(stratified_sample(codes.astype(np.int64), count, 0))


def together(
    splits: Mapping[str, Mapping[str, Examples]], tasks: tuple[str, ...], *, across: bool = False
) -> Rows:
    """Combine the rows of the given tasks; `across` allows the classes of all tasks for each."""
    parts = {split: {task: rows[task] for task in tasks} for split, rows in splits.items()}
    if len(tasks) == 1:
        (task,) = tasks
        names = sorted({class_of(task, label) for label in parts["train"][task].labels})
        alone = [named(task, parts[split][task]) for split in ("train", "validation", "test")]
        return Rows(*alone, tuple(names), {task: len(names)})
    classes = union_classes(parts["train"])
    names = [name for group in classes.values() for name in group]
    sizes = counts(classes)
    own = None if across else sizes
    alike = (union(parts[split], own) for split in ("train", "validation", "test"))
    return Rows(*alike, tuple(names), sizes)


def fit(backbone: Backbone, arm: Arm, rows: Rows, seed: int) -> dict[str, Any]:
    """Fit an arm; return the scores of every task by epoch, and its calibration at the end."""
    settings = TrainingSettings(
        EPOCHS,
        BATCH_SIZE,
        warmup=0.1,
        seed=seed,
        quality_retaining=QualityRetaining() if arm.retains else None,
    )
    network = build_network(
        backbone,
        Plan(adapter=arm.adapter, posterior=MLE(), seed=seed, max_length=MAX_LENGTH),
        len(rows.classes),
    )
    if arm.in_file_order:
        for site in network.sites:
            if isinstance(site, GatedUnits):
                units = torch.arange(site.out_features)
                site.experts.copy_(units * site.num_experts // site.out_features)
    splits = {
        split: _prepared(network, getattr(rows, split), rows.classes)
        for split in ("train", "validation", "test")
    }
    epochs: list[dict[str, Any]] = []

    def score(_: int, trained: Network) -> None:
        epochs.append(_by_task(_logits(trained, splits["test"]), splits["test"].labels, rows))

    training = Training(
        network,
        splits["train"],
        None,
        arm.adapter,
        LastFit(MLE(), seed=settings.seed),
        settings,
        tasks=rows.tasks,
        title=None,
        on_epoch=score,
    )
    train_network(training)
    held_out = _logits(network, splits["validation"])
    factor = best_scale([(_among_own(held_out, rows.validation), splits["validation"].labels)])[0]
    scaled = factor * _logits(network, splits["test"])
    return {
        "epochs": epochs,
        "factor": factor,
        "scaled": _by_task(scaled, splits["test"].labels, rows),
    }


def _prepared(network: Network, rows: Examples, classes: tuple[str, ...]) -> PreparedTexts:
    labels = torch.from_numpy(encode_labels(rows, classes))
    return prepare(network.encoder, (rows, labels), progress=False, say=False)


def _logits(network: Network, rows: PreparedTexts) -> Tensor:
    """Return logits [N, C], including classes of other tasks."""
    features = feature_rows(network, rows).double()
    return mean_logits(features.values, network.head.mean_weight.double())


def _among_own(logits: Tensor, examples: Examples) -> GaussianLogits:
    """Restrict logits [N, C] to the classes of each row's task, unless it may have all."""
    own = examples.available()
    if own is not None:
        logits = torch.where(torch.from_numpy(own), logits, ABSENT)
    return GaussianLogits(logits, torch.zeros_like(logits))


def _by_task(logits: Tensor, labels: Tensor, rows: Rows) -> dict[str, Any]:
    """Return accuracy, NLL and ECE of each task, and accuracy among the classes of all tasks."""
    scores = {}
    names = np.array(rows.test.further[TASK])
    probs = _among_own(logits, rows.test).mean.softmax(-1)
    for task in rows.tasks:
        own = torch.from_numpy(names == task)
        p, y = probs[own], labels[own]
        top = p.max(1)
        of_all = (logits.argmax(1) == labels)[own]
        scores[task] = {
            "accuracy": float((top.indices == y).double().mean()),
            "nll": float(-p[torch.arange(len(y)), y].log().mean()),
            "ece": ece(top_label(top.values.numpy(), (top.indices == y).numpy())),
            "accuracy_among_all": float(of_all.double().mean()),
        }
    return scores


def run(
    backbone: Backbone, name: str, seed: int, splits: Mapping[str, Mapping[str, Examples]]
) -> dict[str, Any]:
    """Return the scores of one arm and seed, combined over its fits."""
    arm, began = ARMS[name], time.perf_counter()
    groups = [(task,) for task in TASKS] if arm.apart else [TASKS]
    parts = [
        fit(backbone, arm, together(splits, group, across=arm.across), seed) for group in groups
    ]
    epochs = [
        {task: scores for part in parts for task, scores in part["epochs"][epoch].items()}
        for epoch in range(EPOCHS)
    ]
    scaled = {task: scores for part in parts for task, scores in part["scaled"].items()}
    return {"epochs": epochs, "scaled": scaled, "seconds": time.perf_counter() - began}


def main() -> None:
    """Run the missing fits, seed by seed, and write the summary."""
    parser = study_parser(__doc__, "reports/multi-task", threads=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--summary-only", action="store_true")
    args = parser.parse_args()
    results = Results(args.out, KEY)
    if not args.summary_only:
        torch.set_num_threads(1)
        backbone = load_backbone("minilm", dtype="float32", device="cpu")
        splits = read(args.data_dir)
        for seed in range(args.seeds):
            for name in args.arms:
                if results.get(arm=name, seed=seed) is None:
                    result = run(backbone, name, seed, splits)
                    results.append({"arm": name, "seed": seed, **result})
                    print(name, seed, f"{result['seconds']:.0f} s", flush=True)
    results.sort()
    write_report(results, args.out, ARMS)


if __name__ == "__main__":
    main()
