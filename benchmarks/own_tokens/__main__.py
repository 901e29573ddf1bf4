"""Do the text's own tokens tell far OOD examples better than the token that the head reads?

In a template the head reads the frame's last token, whose state is made for the class and is much
alike in all rows. Here states of the finished fit are pooled over the text's own tokens as well,
and the same scores are fitted to both: Mahalanobis, nearest neighbours, and the logit variance of a
variational last layer of its own. Beside them stands a fit to raw texts with all layers.

Rule, written before the run: a score takes the text's own tokens by default if its mean far AUROC
over the development sets is higher by .02 or more so, and no development set loses more than .02.
boolq's questions, where the template costs most, are shown and choose nothing.

    python -m benchmarks.own_tokens --data-dir DIR
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from bayeslora import VBLL, BayesianClassifier
from bayeslora.backbones.encoder import pool
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.backbones.template import DEFAULT_FRAME, RAW, TEXT
from bayeslora.backbones.tokens import model_inputs
from bayeslora.data.examples import Examples, class_names, encode_labels
from bayeslora.engine.build import last_layer
from bayeslora.io.files import atomic_file
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.fitted_scores import Mahalanobis, NearestRows
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.detection import auroc
from benchmarks.lib.pools import TEXT_TOKENS, Pools, drawn, frame_tokens, pools_of
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.lib.task_rows import TASKS
from benchmarks.reading.summary import ALL_LAYERS

SETS = (*TASKS, "boolq_question_only")
READINGS = {"template": (DEFAULT_FRAME, 24), "raw": (RAW, ALL_LAYERS)}
PLACES = {"read": "token that the head reads", "own": "mean of own tokens", "end": "last own token"}
SCORES = ("mahalanobis", "knn", "logit_variance")
KEY = ("task", "reading", "seed")
_ROWS, _SCORED, _BATCH = 640, 1000, 32


def main() -> None:
    """Compute the missing scores, then write the table."""
    parser = study_parser(__doc__, "reports/own-tokens")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
    backbone = load_backbone("smollm2-135m")
    results = Results(args.out, KEY)
    for seed, task, reading in product(args.seeds, SETS, READINGS):
        cell = {"task": task, "reading": reading, "seed": seed}
        if results.get(**cell) is None:
            pools = pools_of(task, args.data_dir)
            values = areas(backbone, reading, pools, seed)
            results.append(cell | values)
            print(task, reading, seed, {key: round(area, 3) for key, area in values.items()})
        backbone.prefix_states.clear()
        write_table(args.out)
    results.sort()


def areas(backbone: Backbone, reading: str, pools: Pools, seed: int) -> dict[str, float]:
    """Return the AUROC of each out-of-distribution set by each score at each place."""
    frame, depth = READINGS[reading]
    train = drawn(pools.train, _ROWS, seed)
    clf = BayesianClassifier(
        backbone,
        seed=seed,
        max_length=TEXT_TOKENS + frame_tokens(backbone, frame),
        depth=depth,
        template=frame,
        verbaliser="none",
        progress=False,
    ).fit(train, cv=0)
    labels = torch.from_numpy(encode_labels(train, class_names(train)))
    inside = drawn(pools.score, min(len(pools.score) - 1, _SCORED), 0)
    states = {
        name: features(clf, rows, frame)
        for name, rows in {"train": train, "inside": inside, **pools.ood}.items()
    }
    aurocs = {}
    for place in states["train"]:
        scored = scores({name: by_place[place] for name, by_place in states.items()}, labels)
        aurocs |= {
            f"{name} {score} {place}": auroc(values["inside"], values[name])
            for score, values in scored.items()
            for name in pools.ood
        }
    return aurocs


@torch.no_grad()
def features(clf: BayesianClassifier, rows: Examples, frame: str) -> dict[str, Tensor]:
    """Return the pooled last states [N, d] of texts, by place of pooling."""
    # There is no public API for the states of all tokens.
    network = clf.network
    network.eval()
    encoder = network.encoder
    prepared = encoder.prepare(rows.texts)
    before, after = (len(encoder.backbone.tokenizer(part)["input_ids"]) for part in ends(frame))
    pooled = {place: torch.empty(len(rows), encoder.num_features) for place in PLACES}
    for batch_rows in encoder.batches(prepared.tokens.lengths, _BATCH):
        batch = prepared.collate(batch_rows)
        inputs = model_inputs(batch, encoder.backbone.device)
        hidden = batch.get("hidden")
        if hidden is not None:
            hidden = hidden.to(next(encoder.model.parameters()).dtype)
        states = encoder._split.suffix(hidden=hidden, **inputs)
        mask = inputs["attention_mask"]
        steps = torch.arange(mask.shape[1])
        last = (mask * steps).argmax(1)[:, None]
        # A text without tokens of its own uses the last token of the frame before it.
        own = mask * (steps >= before) * (steps <= (last - after))
        own[own.sum(1) == 0, max(before - 1, 0)] = 1
        pooled["read"][batch_rows] = pool(states, mask, "last")
        pooled["own"][batch_rows] = pool(states, own, "mean")
        pooled["end"][batch_rows] = pool(states, own, "last")
    return pooled


def ends(frame: str) -> tuple[str, str]:
    """Return the parts of a frame before and after the text; the space belongs to the text."""
    before, after = frame.split(TEXT)
    return before.rstrip(" "), after


def scores(states: dict[str, Tensor], labels: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return every score of all rows, fitted to the states of the training rows."""
    size = states["train"].square().sum(1).mean().sqrt()
    scaled = {name: rows / size for name, rows in states.items()}
    train = scaled["train"]
    fitted = {
        "mahalanobis": Mahalanobis.fitted(train.double(), labels, relative=False),
        "knn": NearestRows.fitted(train, 0),
    }
    head = last_layer(VBLL(), torch.zeros(int(labels.max()) + 1, train.shape[1]))
    head.fit(Features(train, labels))
    values = {
        name: {key: score(rows.double()) for key, rows in scaled.items()}
        for name, score in fitted.items()
    }
    variances = {key: head.predict(Features(rows)).variance.sum(1) for key, rows in scaled.items()}
    return values | {"logit_variance": variances}


def write_table(out: Path) -> None:
    """Write the means over seeds of the stored scores."""
    cells: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for row in Results(out, KEY).rows():
        for key, area in row.items():
            if isinstance(area, float):
                ood, score, place = key.split(" ")
                column = f"{row['reading']}, {place}"
                cells.setdefault((row["task"], ood, score), {}).setdefault(column, []).append(area)
    columns = [f"{reading}, {place}" for reading in READINGS for place in PLACES]
    # The last own token of a raw text is the token that the head reads.
    columns.remove("raw, end")
    rows = [
        (*key, *(f"{mean(by_column[name]):.3f}" if name in by_column else "" for name in columns))
        for key, by_column in cells.items()
    ]
    count = max(
        (len(areas) for by_column in cells.values() for areas in by_column.values()), default=0
    )
    lines = [
        "# Far OOD examples by the states of its own tokens",
        "AUROC of out-of-distribution rows against rows of the set, PoLAR-VBLL with 640 rows, "
        f"means of up to {count} seeds; `template`: the default reading, `raw`: all layers of the "
        "text alone. "
        + "; ".join(f"`{name}`: {words}" for name, words in PLACES.items())
        + ". Made by `python -m benchmarks.own_tokens --data-dir DIR`.",
        table(("set", "rows", "score", *columns), rows),
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
