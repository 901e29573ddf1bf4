"""A variational last layer for many classes: what each family of covariances costs and gains.

Frozen features of SmolLM2 (28 of 30 layers, the default template), clinc150 cut to so many intents,
a new draw of intents and rows in each seed. Scored on 1,000 rows of the other splits and, as OOD,
300 requests out of scope. `dense` is left out where it would take minutes, as `auto` does. Stored
results are kept, so that the same command goes on.

    python -m benchmarks.many_classes --data-dir DIR
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np

from bayeslora import BayesianClassifier, evaluate
from bayeslora.backbones.load import Backbone, load_backbone
from bayeslora.backbones.template import DEFAULT_FRAME
from bayeslora.files import atomic_file
from bayeslora.metrics.ood import detection, sorted_by_uncertainty
from bayeslora.tasks.examples import Examples
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import TEXT_TOKENS, Pools, clinc, drawn, frame_tokens
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table

CASES = ((20, 640), (40, 800), (77, 1000), (150, 1500))
"""Numbers of intents and of training rows."""
FAMILIES = ("dense", "eigenbasis", "diagonal")
KEY = ("classes", "family", "seed")
_DENSE_UP_TO = 77
SCORES = ("nll", "accuracy", "ece")
OOD_SCORES = ("logit_variance", "epistemic", "max_probability")


def main() -> None:
    """Run the missing fits, then write the table."""
    parser = study_parser(__doc__, "reports/many-classes")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    backbone = load_backbone("smollm2-135m")
    results = Results(args.out, KEY)
    for seed in args.seeds:
        for classes, rows in CASES:
            for family in FAMILIES:
                cell = {"classes": classes, "family": family, "seed": seed}
                is_done = results.get(**cell) is not None
                if is_done or (family == "dense" and classes > _DENSE_UP_TO):
                    continue
                pools = clinc(classes, args.data_dir, seed)
                train = drawn(pools.train, rows, seed)
                row = fit(
                    backbone, family, train, replace(pools, score=drawn(pools.score, 1000, 0))
                )
                results.append(cell | {"rows": rows} | row)
                print(cell, {key: round(value, 3) for key, value in row.items()}, flush=True)
        backbone.prefix_states.clear()
        write_table(args.out)
    results.sort()


def fit(backbone: Backbone, family: str, train: Examples, pools: Pools) -> dict[str, float]:
    """Return the scores of one fit, its seconds with cached features, and its size."""
    clf = BayesianClassifier(
        backbone,
        "none",
        f"vbll:covariance={family}",
        max_length=TEXT_TOKENS + frame_tokens(backbone, DEFAULT_FRAME),
        depth=28,
        template=DEFAULT_FRAME,
        verbaliser="none",
        progress=False,
    )
    # The features are the same for all families, and are cached by the first fit.
    clf.fit(train)
    start = time.perf_counter()
    clf.fit(train)
    seconds = time.perf_counter() - start
    with TemporaryDirectory() as folder:
        clf.save_pretrained(Path(folder) / "model")
        stored = (Path(folder) / "model" / "posterior.safetensors").stat().st_size
    inside = clf.predict(pools.score)
    outside = clf.predict(pools.ood["near"], unknown_labels="ood")
    scores = evaluate(inside, num_resamples=20)
    areas = {
        name: detection(sorted_by_uncertainty(inside.uncertainty(name), outside.uncertainty(name)))[
            0
        ]
        for name in OOD_SCORES
    }
    return {
        "seconds": seconds,
        "megabytes": stored / 1e6,
        **{name: scores[name].value for name in SCORES},
        **{name: float(np.asarray(area)) for name, area in areas.items()},
    }


def write_table(out: Path) -> None:
    """Write `summary.md`."""
    records = Results(out, KEY).rows()
    columns = ("seconds", "megabytes", *SCORES, *OOD_SCORES)
    rows = []
    for classes, size in CASES:
        for family in FAMILIES:
            own = [r for r in records if (r["classes"], r["family"]) == (classes, family)]
            if own:
                digits = [1, 1, *[3] * (len(columns) - 2)]
                means = [
                    f"{fmean(r[key] for r in own):.{digit}f}"
                    for key, digit in zip(columns, digits, strict=True)
                ]
                rows.append((str(classes), str(size), family, str(len(own)), *means))
    lines = [
        "# A variational last layer for many classes",
        "Means over seeds. Seconds of a fit whose features are known, taken beside other work: "
        "compare them with each other alone. Megabytes of the stored posterior, before the zeros "
        "of dense covariances were left out (half as much now). AUROC of requests out of scope by "
        "three scores. Made by "
        "`python -m benchmarks.many_classes --data-dir DIR`.",
        table(("classes", "rows", "covariance", "seeds", *columns), rows),
    ]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
