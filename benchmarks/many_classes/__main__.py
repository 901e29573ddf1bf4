"""What does a variational last layer lose with many classes, on fixed features?

Features of a backbone without an adapter; intents of clinc150, drawn anew for each seed (two
classes: SST-2), 8 or 32 rows a class, scored on at most 1,000 other rows. Gradient steps take 12
epochs. *At the best scale* is the lowest NLL over factors of the mean logits, chosen on the scoring
rows: what the means know, apart from their size. With more than 20 classes, dense covariances and
priors by cross-validation are left out: they take minutes. The maximum a posteriori (MAP) head has
the prior scale of lowest NLL on held-out rows. Stored results are kept, so that the same command
goes on.

    python -m benchmarks.many_classes --data-dir DIR
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from bayeslora import VBLL
from bayeslora.backbones.load import load_backbone
from bayeslora.data.examples import Examples, class_names, encode_labels
from bayeslora.data.splits import stratified_sample
from bayeslora.engine.network import Network
from bayeslora.engine.rows import feature_rows, prepare
from bayeslora.engine.training.starts import LinearProbe
from bayeslora.experiments.rows import drawn
from bayeslora.io.files import atomic_file
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.last_layer.vbll.head import VBLLHead
from bayeslora.posteriors.logit_scale import best_scale
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.types import LastLayer
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import clinc, new_classifier, pools_of
from benchmarks.lib.results import Results, Row
from benchmarks.lib.tables import table

BACKBONES = ("minilm", "smollm2-135m")
CLASSES, EACH = (2, 6, 20, 77, 150), (8, 32)
KEY = ("backbone", "classes", "each", "seed", "arm")
EPOCHS, BATCH, MOST_SCORED, ALL_UP_TO = 12, 16, 1000, 20


@dataclass(frozen=True)
class Arm:
    """How a last layer is fitted.

    Attributes:
        config: Options of the posterior; None for a point estimate.
        lr: Learning rate of gradient steps; None for the optimum in closed form.
        starts: Whether the means start at a linear probe, instead of zero.
    """

    config: VBLL | None = None
    lr: float | None = None
    starts: bool = False

    def fitted(self, train: Features, probe: LinearProbe, seed: int) -> LastLayer:
        """Return the last layer, fitted to rows."""
        size = (train.values.shape[-1], len(probe.weight))
        square = float(train.values.square().sum(-1).mean())
        head: VBLLHead | PointHead = PointHead(*size, mean_sq_norm=square)
        if self.config is not None:
            head = VBLLHead(self.config, *size, mean_sq_norm=square, seed=seed)
        if self.lr is not None:
            if self.starts:
                head.set_mean(probe.start.to(head.trained_mean))
            _step(head, train, self.lr, seed)
        elif self.config is None:
            head.set_mean(probe.weight.to(head.trained_mean))
        else:
            head.fit(train)
        return head


ARMS = {
    "MAP head": Arm(),
    "ML, rate 0.005": Arm(lr=0.005),
    "ML, rate 0.02": Arm(lr=0.02),
    "ML, rate 0.02, started": Arm(lr=0.02, starts=True),
    "VBLL, rate 0.005, prior 2": Arm(VBLL(training_prior_scale=2.0), 0.005),
    "VBLL, rate 0.02, prior 2": Arm(VBLL(training_prior_scale=2.0), 0.02),
    "VBLL, rate 0.02, prior around the means": Arm(VBLL(), 0.02),
    "VBLL, the same, started (default)": Arm(VBLL(), 0.02, starts=True),
    "the same, Knowles-Minka": Arm(VBLL(bound="knowles_minka"), 0.02, starts=True),
    "closed form, prior 2, eigenbasis": Arm(VBLL(prior_scale=2.0, covariance="eigenbasis")),
    "the same, empirical Bayes": Arm(VBLL(prior_scale="empirical-bayes", covariance="eigenbasis")),
    "the same, cross-validation": Arm(
        VBLL(prior_scale="cross-validation", covariance="eigenbasis")
    ),
    "the same, diagonal": Arm(VBLL(prior_scale="cross-validation", covariance="diagonal")),
    "the same, dense": Arm(VBLL(prior_scale="cross-validation", covariance="dense")),
    "the same, Jensen": Arm(
        VBLL(prior_scale="cross-validation", covariance="dense", polish_bound="jensen")
    ),
}


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = study_parser(__doc__, "reports/many-classes")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--classes", nargs="+", type=int, default=list(CLASSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    results = Results(args.out, KEY)
    for name in args.backbones:
        backbone = load_backbone(name)
        for seed, classes, each in product(args.seeds, args.classes, EACH):
            cell = {"backbone": name, "classes": classes, "each": each, "seed": seed}
            todo = [arm for arm in arms(classes) if results.get(**cell, arm=arm) is None]
            if not todo:
                continue
            pools = pools_of("sst2_sentences", args.data_dir)
            if classes > 2:
                pools = clinc(classes, args.data_dir, seed)
            labels = encode_labels(pools.train, class_names(pools.train))
            train = pools.train.take(stratified_sample(labels, classes * each, seed))
            score = drawn(pools.score, min(MOST_SCORED, len(pools.score)), seed)
            clf = new_classifier(backbone, "none", "mle", pools.num_tokens, seed).fit(train)
            rows, scored = (features(clf.network, part, clf.classes) for part in (train, score))
            probe = LinearProbe.fitted(rows, classes, seed)
            for arm in todo:
                row = cell | {"arm": arm} | scores(ARMS[arm].fitted(rows, probe, seed), scored)
                results.append(row)
                print({key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()})
            backbone.prefix_states.clear()
        write(args.out, results.rows())


def arms(classes: int) -> list[str]:
    """Return the names of the arms that take seconds with so many classes."""
    return [
        name
        for name, arm in ARMS.items()
        if classes <= ALL_UP_TO
        or arm.config is None
        or not {"dense", "cross-validation"} & {arm.config.covariance, arm.config.prior_scale}
    ]


def features(network: Network, examples: Examples, classes: Sequence[str]) -> Features:
    """Return labelled rows as the last layer of a network sees them."""
    labels = torch.from_numpy(encode_labels(examples, classes))
    rows = prepare(network.encoder, (examples, labels), progress=False, say=False)
    return feature_rows(network, rows)


def _step(head: VBLLHead | PointHead, train: Features, lr: float, seed: int) -> None:
    """Move a last layer by stochastic gradients with a cosine of the rate, as `fit` does."""
    steps = EPOCHS * -(-len(train) // BATCH)
    optimizer = AdamW(head.parameters(), lr=lr, weight_decay=0.0)
    schedule = CosineAnnealingLR(optimizer, steps)
    shuffle = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        order = torch.randperm(len(train), generator=shuffle)
        for rows in (order[at : at + BATCH] for at in range(0, len(train), BATCH)):
            optimizer.zero_grad()
            loss = head.loss(train.take(rows), len(train))
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def scores(head: LastLayer, rows: Features) -> Row:
    """Return the NLL of labelled rows, as fitted and at the best scale, and the accuracy."""
    answers = head.predict(rows)
    drawing = {"link": "mc", "num_samples": 200} if head.config is not None else {}
    factor, nll, best = best_scale([(answers, rows.targets)], means_alone=True, **drawing)
    right = answers.mean.argmax(-1) == rows.targets
    return {"nll": nll, "best": best, "factor": factor, "accuracy": float(right.double().mean())}


def write(out: Path, rows: Sequence[Row]) -> None:
    """Write a table for each backbone: a row for each arm, a column for each number of rows."""
    lines = [
        "# A variational last layer with many classes, on fixed features",
        "",
        "Mean NLL over draws: as fitted / at the best scale of the means; classes × rows a class. "
        "Each arm differs in one part from the one above it or from the one it names. Made by "
        "`python -m benchmarks.many_classes --data-dir DIR`, whose first lines say how.",
        "",
    ]
    groups = defaultdict(list)
    for row in rows:
        groups[row["backbone"], row["arm"], row["classes"], row["each"]].append(row)
    for backbone in sorted({row["backbone"] for row in rows}):
        cases = [case for case in product(CLASSES, EACH) if (backbone, "MAP head", *case) in groups]
        draws = sorted({len(groups[backbone, "MAP head", *case]) for case in cases})
        heads = ["last layer", *(f"{classes} × {each}" for classes, each in cases)]
        body = [
            [arm, *(_cell(groups.get((backbone, arm, *case), [])) for case in cases)]
            for arm in ARMS
        ]
        lines += [
            f"## {backbone}, {' or '.join(map(str, draws))} draws",
            "",
            table(heads, body),
            "",
        ]
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "summary.md") as path:
        path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return " / ".join(f"{np.mean([row[key] for row in rows]):.3f}" for key in ("nll", "best"))


if __name__ == "__main__":
    main()
