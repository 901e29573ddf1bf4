"""Cost of the depth, and the choice of `depth="auto"`: seconds, regret, texts per second, memory.

For each development set, with the rows of seed 0 and the default template: the seconds of the
choice, the chosen depth, and the excess NLL of a PoLAR-VBLL fit over the best candidate depth (from
the scores of `reading --depths 18 21 24 27 30`). For one fit at each of two depths: predicted texts
per second (median of five) and peak memory, each in a separate process. Times are meaningful only
on an idle machine.

    python -m benchmarks.reading.cost --data-dir DIR
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bayeslora import BayesianClassifier
from bayeslora.backbones.depth import read_as_asked, usual_depth
from bayeslora.backbones.load import load_backbone
from bayeslora.backbones.template import DEFAULT_FRAME
from bayeslora.data.examples import class_names, encode_labels
from bayeslora.engine.build import SHARES, best_depth
from bayeslora.errors import InputError
from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.pools import TEXT_TOKENS, development, drawn, frame_tokens
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.lib.task_rows import TASKS
from benchmarks.reading.summary import ALL_LAYERS, DECODER, KEY

DEPTHS = (24, ALL_LAYERS)
_ROWS, _REPEATS = 640, 5
_FIT = {"backbone": DECODER, "size": _ROWS, "method": "polar-vbll", "template": "generic"}
_FIT |= {"prior": "zero", "seed": 0}


def main() -> None:
    """Run the missing measurements, then write the table."""
    parser = study_parser(__doc__, "reports/reading")
    parser.add_argument("--predict-at", type=int, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.predict_at is not None:
        print(json.dumps(predicting(args.predict_at, args.data_dir)))
        return
    results = Results(args.out, KEY)
    for task in TASKS:
        cell = {"kind": "auto", "task": task}
        if results.get(**cell) is None:
            results.append(cell | choosing(task, args.data_dir))
    for depth in DEPTHS:
        cell = {"kind": "predict", "depth": depth}
        if results.get(**cell) is None:
            again = [
                sys.executable,
                "-m",
                "benchmarks.reading.cost",
                *sys.argv[1:],
                "--predict-at",
                str(depth),
            ]
            done = subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True)
            results.append(cell | json.loads(done.stdout.splitlines()[-1]))
    results.sort()
    write_table(args.out)


def choosing(task: str, data_dir: Path | None) -> dict[str, float]:
    """Return the depth chosen by `auto` and the seconds of the choice."""
    whole = load_backbone("smollm2-135m")
    train = drawn(development(task, data_dir).train, _ROWS, 0)
    labels = torch.as_tensor(encode_labels(train, class_names(train)))
    length = TEXT_TOKENS + frame_tokens(whole, DEFAULT_FRAME)
    backbone, _ = read_as_asked(whole, 1.0, None, max_length=length)
    start = time.perf_counter()
    depth = best_depth(
        backbone,
        (train, labels),
        pooling="last",
        max_length=length,
        usual=usual_depth(backbone, adapted=True),
    )
    return {"depth": depth, "seconds": time.perf_counter() - start}


def predicting(depth: int, data_dir: Path | None) -> dict[str, float]:
    """Return texts per second and peak memory in MiB of a short fit and its predictions."""
    pools = development("ag_news_10k", data_dir)
    backbone = load_backbone("smollm2-135m")
    length = TEXT_TOKENS + frame_tokens(backbone, DEFAULT_FRAME)
    clf = BayesianClassifier(
        backbone,
        depth=depth,
        template=DEFAULT_FRAME,
        verbaliser="none",
        max_length=length,
        progress=False,
    ).fit(drawn(pools.train, 64, 0), epochs=1, cv=0)
    rows = drawn(pools.score, 320, 0)
    seconds = []
    for _ in range(_REPEATS):
        backbone.prefix_states.clear()
        start = time.perf_counter()
        clf.predict(rows)
        seconds.append(time.perf_counter() - start)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"texts_per_second": len(rows) / median(seconds), "mib": most}


def write_table(out: Path) -> None:
    """Write `cost.md`."""
    candidates = sorted({round(share * ALL_LAYERS) for share in SHARES})
    results, rows = Results(out, KEY), []
    for task in TASKS:
        choice = _stored(results, kind="auto", task=task)
        fitted = results.rows(kind="fit", **_FIT, task=task)
        nll = {row["depth"]: row["nll"] for row in fitted if row["depth"] in candidates}
        chosen = choice["depth"]
        regret = f"{nll[chosen] - min(nll.values()):.3f}" if chosen in nll else ""
        fits = [f"{nll[depth]:.3f}" if depth in nll else "" for depth in candidates]
        rows.append((task, str(chosen), f"{choice['seconds']:.0f}", *fits, regret))
    head = ("set", "auto", "seconds", *(f"{depth} layers" for depth in candidates), "regret")
    speed = [
        (str(depth), f"{prediction['texts_per_second']:.1f}", f"{prediction['mib']:.0f}")
        for depth in DEPTHS
        for prediction in [_stored(results, kind="predict", depth=depth)]
    ]
    lines = [
        "# What the depth costs, and what `auto` chooses",
        "NLL of PoLAR-VBLL fits to 640 rows of seed 0 by depth, with the default template; regret "
        "is that of the depth that `auto` takes over the best of those that were fitted. Made by "
        "`python -m benchmarks.reading.cost --data-dir DIR` from scores of `reading`.",
        table(head, rows),
        "Prediction of 320 texts of at most 38 tokens, and the most memory of the process:",
        table(("layers", "texts a second", "MiB"), speed),
    ]
    with atomic_file(out / "cost.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _stored(results: Results, **columns: Any) -> dict[str, Any]:
    row = results.get(**columns)
    if row is None:
        raise InputError(f"{results.path} has no row of {columns}")
    return row


if __name__ == "__main__":
    main()
