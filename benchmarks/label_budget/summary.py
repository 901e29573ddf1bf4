"""One labelled file: tables and figure from stored fits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from io import BytesIO
from itertools import product
from pathlib import Path
from statistics import mean

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayeslora.io.files import atomic_file
from benchmarks.label_budget.methods import (
    BACKBONES,
    BEFORE,
    FEWEST_TO_LEAD,
    KEY,
    LONG,
    LONG_BATCH,
    LONG_STEPS,
    MAIN,
    METHODS,
    OURS,
    ROWS,
)
from benchmarks.lib.pools import JUDGED, LONGER
from benchmarks.lib.results import Results
from benchmarks.lib.tables import mean_and_half, shown, shown_over_sets, table
from benchmarks.lib.task_rows import TASKS

_WORDS = {
    "polar-vbll": "PoLAR-VBLL",
    "polar-mle": "PoLAR",
    "lora-mle": "LoRA",
    "lora-vbll": "LoRA-VBLL",
    "lora-temperature": "LoRA + temperature",
    "lora-laplace": "LoRA + Laplace",
}
DETECTORS = ("mahalanobis", "max_probability", "epistemic", "logit_variance")
DEFAULT_SCORE = (
    "the default score, which combines several, is in "
    "[unfamiliarity-weight](../unfamiliarity-weight/summary.md)"
)
_SHOWN = (-0.15, 0.5)
_BACKBONES = {"smollm2-135m": "SmolLM2-135M", "minilm": "MiniLM"}
_SCHEMES = (
    "cv: fitted to all rows, scale of the logits by cross-validation · split: a fifth of the rows"
    " held out to choose by\nrefit: split, then fitted to all rows · folds: the networks of the"
    " cross-validation, averaged"
)

Stored = dict[tuple[int, str, str], list[dict[str, float]]]
"""Rows by size, method and task."""


def write_table(out: Path) -> None:
    """Write `summary.md`: every method at every size, and PoLAR-VBLL against each."""
    lines = [
        "# One labelled file",
        "NLL in nats / ECE (number of seeds) on development rows by labelled rows; the default "
        "reading, texts of at most 32 tokens; fits that a method takes. Methods without a number "
        "of epochs train as `fit` does by default: five epochs (with fewer than 128 rows, as many "
        "steps as those of 128), and at most 15 if a fifth is held out. *Before*: as `fit` was "
        "until the factor multiplied means alone, and few steps no longer meant refitted means. "
        "The figure has every pair of set, seed and size of at least "
        f"{FEWEST_TO_LEAD} rows, their mean and its 95 % interval. Intervals *over pairs* apply to "
        "these sets: a seed's rows at one size are among its rows at the next, and scoring rows "
        "are the same. Those *over sets* take each set as one value, so they apply to other sets, "
        "too, and are wide. A method without `cv` is the fit of `cv` without its factor. Made by "
        "`python -m benchmarks.label_budget --data-dir DIR`, whose first lines have the rules.",
        "![NLL above that of PoLAR-VBLL, by method](leads.svg)",
    ]
    lines += ["## Both backbones", *_pooled(out)]
    for backbone in BACKBONES:
        stored = _stored(out, backbone)
        if stored:
            lines += [f"## {backbone}", *_tables(stored)]
        for tasks, words in (
            (JUDGED, "sets that nothing was chosen on"),
            (LONGER, "128 tokens of a text"),
        ):
            if stored := _stored(out, backbone, tasks):
                lines += [f"## {backbone}: {words}", *_tables(stored)]
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    with atomic_file(out / "leads.svg") as temporary:
        temporary.write_bytes(figure_svg(out))


def figure_svg(out: Path) -> bytes:
    """Return the figure: NLL of every method minus that of `OURS`, with intervals, by backbone."""
    options = {"svg.hashsalt": "label-budget", "svg.fonttype": "none", "font.size": 9}
    with rc_context(options):
        sheet = Figure(figsize=(8.0, 4.2), layout="constrained")
        panels = sheet.subplots(1, len(BACKBONES), sharey=True, sharex=True)
        names = [name for name in MAIN if name != OURS][::-1]
        for panel, backbone in zip(panels, BACKBONES, strict=True):
            panel.set_xlim(*_SHOWN)
            stored = _stored(out, backbone)
            for place, name in enumerate(names):
                _draw(panel, place, _gaps(stored, name))
            panel.axvline(0, ymax=0.94, color="0.3", linewidth=0.8)
            where = (0, len(names) - 0.25)
            panel.text(*where, _in_words(OURS), color="0.3", fontsize=7.5, ha="center", va="center")
            panel.set_title(_BACKBONES[backbone])
            panel.set_xlabel(f"NLL minus that of {_in_words(OURS)}, nats\n← better · worse →")
        panels[0].set_yticks(range(len(names)), map(_in_words, names))
        panels[0].set_ylim(-0.6, len(names) + 0.1)
        parts, labels = panels[-1].get_legend_handles_labels()
        panels[-1].legend(parts, labels, loc="upper right", fontsize=7.5)
        sheet.supxlabel(_SCHEMES, fontsize=7.5, x=0.01, ha="left")
        stream = BytesIO()
        sheet.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _gaps(stored: Stored, name: str) -> list[float]:
    """Return the NLL of a method minus that of `OURS`, for every pair of set, seed and size."""
    return [
        -gap
        for size, task in sorted({key[::2] for key in stored})
        if size >= FEWEST_TO_LEAD
        for gap in _paired(stored, size, task, OURS, name)
    ]


def _draw(panel: Axes, place: int, gaps: Sequence[float]) -> None:
    """Draw the pairs of a method, their mean and interval; arrows mark a clipped interval."""
    if not gaps:
        panel.text(0.02, place, "not run", color="0.4", fontsize=7.5, va="center")
        return
    first = place == 0
    middle, half = mean_and_half(gaps)
    panel.plot(
        gaps, [place] * len(gaps), "|", color="0.5", label="one set, seed and size" if first else ""
    )
    words = "mean, 95 % interval" if first else ""
    if len(gaps) > 1:
        panel.plot([middle - half, middle + half], [place] * 2, color="C0")
        for is_cut, end, marker in (
            (middle - half < _SHOWN[0], _SHOWN[0], "<"),
            (middle + half > _SHOWN[1], _SHOWN[1], ">"),
        ):
            if is_cut:
                panel.plot(end, place, marker, color="C0", clip_on=False)
    panel.plot(middle, place, "o", color="C0")
    panel.plot([], [], "o-", color="C0", label=words)


def _in_words(name: str) -> str:
    method, comma, scheme = name.partition(",")
    return _WORDS.get(method, method) + comma + scheme


def _stored(out: Path, backbone: str, tasks: Collection[str] = TASKS) -> Stored:
    stored: Stored = {}
    for row in Results(out, KEY).rows(backbone=backbone):
        if row["task"] in tasks:
            stored.setdefault((row["size"], row["method"], row["task"]), []).append(row)
    return stored


def _tables(stored: Stored) -> list[str]:
    tasks = sorted({task for *_, task in stored})
    rows = []
    for size, name in product(sorted({size for size, *_ in stored}), ROWS):
        cells = [stored.get((size, name, task), []) for task in tasks]
        if any(cells):
            written = [_cell(cell) for cell in cells]
            full = [mean(row["nll"] for row in cell) for cell in cells if cell]
            over_sets = f"{mean(full):.3f}" if len(full) == len(tasks) else ""
            fits = mean(row["fits"] for cell in cells for row in cell)
            rows.append((str(size), name, *written, over_sets, f"{fits:.0f}"))
    head = ("", "rows", *tasks, "over pairs, ± half a 95 % interval", "over sets")
    gaps = {
        "Scale by cross-validation less none, nats a row, paired by set and seed:": _gains(
            stored, tasks, ", cv", ""
        ),
        "The same before:": _gains(stored, tasks, f", cv{BEFORE}", BEFORE),
        "As it is less before, both with the scale:": _gains(
            stored, tasks, ", cv", f", cv{BEFORE}"
        ),
        f"{OURS} less each other method, nats a row, paired by set and seed:": _leads(
            stored, tasks, lambda size: size >= FEWEST_TO_LEAD
        ),
        "The same with fewer rows:": _leads(stored, tasks, lambda size: size < FEWEST_TO_LEAD),
        f"{LONG}: {LONG_STEPS:,} steps of {LONG_BATCH} rows, nothing chosen, less each other:": (
            _leads(stored, tasks, lambda _: True, LONG)
        ),
    }
    detected = _detection(stored)
    by_score = table(("unusual rows", "set", "rows", *DETECTORS, "fits"), detected)
    return [
        table(("rows", "method", *tasks, "mean NLL", "fits"), rows),
        *_later(stored),
        *((f"AUROC of {OURS} by single scores ({DEFAULT_SCORE}):", by_score) if detected else ()),
        *(part for words, rows in gaps.items() if rows for part in (words, table(head, rows))),
    ]


def _later(stored: Stored) -> list[str]:
    """Return the scores on newsgroups' later posts beside those on posts of the same time."""
    rows = []
    for (size, method, _), fits in sorted(stored.items()):
        scored = [fit for fit in fits if "later nll" in fit]
        if scored:
            keys = ("nll", "later nll", "ece", "later ece", "accuracy", "later accuracy")
            means = [f"{mean(fit[key] for fit in scored):.3f}" for key in keys]
            rows.append((str(size), method, *means, str(len(scored))))
    if not rows:
        return []
    words = [f"{score}{which}" for score in ("NLL", "ECE", "accuracy") for which in ("", ", later")]
    return [
        "Newsgroups: posts of the training file, and later posts, a shift by date:",
        table(("rows", "method", *words, "fits"), rows),
    ]


_UNITS = ("draws", "sets")
_QUESTIONS = (
    ("LoRA minus PoLAR-VBLL, both with cv", ("lora-mle, cv", OURS), (128, 640, 960)),
    ("LoRA minus PoLAR-VBLL, both with cv", ("lora-mle, cv", OURS), (32,)),
    (
        "LoRA with 15 epochs minus PoLAR-VBLL, both with cv",
        ("lora-mle, 15 epochs, cv", OURS),
        (32,),
    ),
    (
        "LoRA, 5 epochs (ten steps) minus 15",
        ("lora-mle, 5 epochs, cv", "lora-mle, 15 epochs, cv"),
        (32,),
    ),
    ("PoLAR-VBLL without the scale minus with it", ("polar-vbll", OURS), (32, 128, 640)),
    (
        "PoLAR-VBLL with refitted means, cv 0, minus cv 0",
        ("polar-vbll, cv 0, refitted means", "polar-vbll, cv 0"),
        (8,),
    ),
    (
        "PoLAR-VBLL with refitted means, cv 0, minus without the scale",
        ("polar-vbll, cv 0, refitted means", "polar-vbll"),
        (32, 128),
    ),
    ("PoLAR-VBLL, cv: 15 epochs minus 5", ("polar-vbll, 15 epochs, cv", OURS), (128, 640)),
    (
        "PoLAR-VBLL, 15 epochs, cv: random minus gradient start",
        ("polar-vbll, 15 epochs, cv", "polar-vbll, 15 epochs, gradient start, cv"),
        (128,),
    ),
    *(
        (
            f"{words} with the head rate of VBLL, 0.05, minus {other}, all with cv",
            (name, less),
            sizes,
        )
        for words, name, plain in (
            ("LoRA", "lora-mle, head rate 0.05, cv", "lora-mle, cv"),
            ("PoLAR", "polar-mle, head rate 0.05, cv", "polar-mle, cv"),
        )
        for other, less in (("0.02", plain), ("PoLAR-VBLL", OURS))
        for sizes in ((32,), (128,))
    ),
    ("LoRA without the scale minus with it", ("lora-mle", "lora-mle, cv"), (32, 128, 640)),
    (
        "VBLL without an adapter: without the scale minus with it",
        ("last layer alone", "last layer alone, cv"),
        (128,),
    ),
    ("PoLAR-VBLL, split minus cv", ("polar-vbll, split", OURS), (128,)),
    ("PoLAR-VBLL, split and refit minus cv", ("polar-vbll, refit", OURS), (128,)),
    ("PoLAR-VBLL, cv minus folds", (OURS, "polar-vbll, folds"), (128,)),
    ("LoRA, cv minus folds", ("lora-mle, cv", "lora-mle, folds"), (128,)),
)
"""Pairs of methods whose difference the documentation quotes, and the numbers of rows."""


def _pooled(out: Path) -> list[str]:
    """Return differences over both backbones, by draw of rows and by set."""
    stored = [_stored(out, backbone) for backbone in BACKBONES]
    lines = []
    for words, (first, second), sizes in _QUESTIONS:
        columns: list[str] = []
        num_pairs = num_draws = 0
        for score in ("nll", "accuracy", "ece"):
            by_draw = differences(stored, first, second, sizes, score)
            sets = [[mean(gaps) for gaps in draws.values()] for draws in by_draw.values()]
            draws = [gap for gaps in sets for gap in gaps]
            num_draws = len(draws)
            num_pairs = sum(len(gaps) for draws in by_draw.values() for gaps in draws.values())
            columns += [shown(draws), shown_over_sets(sets)]
        if num_draws:
            rows = ", ".join(map(str, sizes))
            lines.append((words, rows, f"{num_draws} ({num_pairs})", *columns))
    scores = [f"{score} over {unit}" for score in ("NLL", "accuracy", "ECE") for unit in _UNITS]
    return [
        "± is half a 95 % interval. A draw is a seed's rows of a set: the differences of both "
        "backbones and of all sizes there are averaged first, since they share rows.",
        table(("difference", "rows", "draws (pairs)", *scores), lines),
    ]


def differences(
    stored: Sequence[Stored], first: str, second: str, sizes: Sequence[int], score: str
) -> dict[str, dict[int, list[float]]]:
    """Return the differences between two methods by set and seed, over backbones and sizes."""
    by_draw: dict[str, dict[int, list[float]]] = {}
    for cells, size in product(stored, sizes):
        for task in sorted({task for *_, task in cells}):
            for seed, gap in _by_seed(cells, size, task, first, second, score=score):
                by_draw.setdefault(task, {}).setdefault(seed, []).append(gap)
    return by_draw


def _detection(stored: Stored) -> list[tuple[str, ...]]:
    """Return the mean AUROC of each kind of out-of-distribution rows by score, for `OURS`."""
    rows = []
    for (size, method, task), fits in sorted(stored.items(), key=lambda item: item[0][::2]):
        for kind in ("far", "near"):
            scored = [[fit.get(f"{kind} {score}") for fit in fits] for score in DETECTORS]
            if method == OURS and None not in scored[0]:
                means = [
                    f"{mean(value for value in values if value is not None):.3f}"
                    for values in scored
                ]
                rows.append((kind, task, str(size), *means, str(len(fits))))
    return sorted(rows)


def _cell(rows: list[dict[str, float]]) -> str:
    if not rows:
        return ""
    nll, ece = (mean(row[key] for row in rows) for key in ("nll", "ece"))
    return f"{nll:.3f} / {ece:.3f} ({len(rows)})"


def _gains(
    stored: Stored, tasks: Sequence[str], with_it: str, without: str
) -> list[tuple[str, ...]]:
    names = [method.removesuffix(", cv") for method in METHODS if method.endswith(", cv")]
    return [
        row
        for name in names
        for row in _by_size(stored, tasks, name + with_it, name + without, label=name)
    ]


def _leads(
    stored: Stored, tasks: Sequence[str], belongs: Callable[[int], bool], ours: str = OURS
) -> list[tuple[str, ...]]:
    sizes = {key: rows for key, rows in stored.items() if belongs(key[0])}
    rivals = [name for name in ROWS if name != ours and (ours == OURS or _is_long(name))]
    return [row for name in rivals for row in _by_size(sizes, tasks, ours, name, label=name)]


def _is_long(name: str) -> bool:
    return name in METHODS and METHODS[name].scheme == "long"


def _by_size(
    stored: Stored, tasks: Sequence[str], ours: str, theirs: str, *, label: str
) -> list[tuple[str, ...]]:
    """Return differences in NLL at each size, and over all sizes."""
    rows = []
    pooled: dict[str, list[float]] = {task: [] for task in tasks}
    for size in sorted({size for size, *_ in stored}):
        by_task = {task: _paired(stored, size, task, ours, theirs) for task in tasks}
        gaps = [gap for task_gaps in by_task.values() for gap in task_gaps]
        if gaps:
            written = [
                f"{mean(task_gaps):+.3f}" if task_gaps else "" for task_gaps in by_task.values()
            ]
            rows.append(
                (label, str(size), *written, shown(gaps), shown_over_sets(by_task.values()))
            )
            for task, task_gaps in by_task.items():
                pooled[task] += task_gaps
    if len(rows) < 2:
        return rows
    every = [gap for gaps in pooled.values() for gap in gaps]
    whole = (label, "all", *([""] * len(tasks)), shown(every), shown_over_sets(pooled.values()))
    return [*rows, whole]


def _paired(stored: Stored, size: int, task: str, ours: str, theirs: str) -> list[float]:
    return [gap for _, gap in _by_seed(stored, size, task, ours, theirs)]


def _by_seed(
    stored: Stored, size: int, task: str, ours: str, theirs: str, *, score: str = "nll"
) -> list[tuple[int, float]]:
    """Return the seeds that both methods have, with the difference."""
    first, second = (
        {int(row["seed"]): row[score] for row in stored.get((size, method, task), [])}
        for method in (ours, theirs)
    )
    return [(seed, first[seed] - second[seed]) for seed in sorted(first.keys() & second.keys())]
