"""Tables and figure of the reading study, from the scores of its fits."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from bayeslora.io.files import atomic_file
from benchmarks.lib.pools import JUDGED
from benchmarks.lib.results import Results
from benchmarks.lib.tables import shown, table
from benchmarks.lib.task_rows import TASKS

DECODER = "smollm2-135m"
ALL_LAYERS = 30
KEY = ("kind", "backbone", "task", "size", "method", "template", "depth", "prior", "seed")
"""Kinds of rows: `fit`; `auto`, the choice of `depth="auto"`; `predict`, the cost of a depth."""
NEW, OLD = ("generic", 24, "zero"), ("raw", ALL_LAYERS, "zero")
CURVE_SIZES = (0, 8, 32, 128, 640, 2000)
FEW, FEWEST = 256, 48
"""Maximum labelled rows with the language model's answer as the prior mean of a default fit: for
the last layer alone, and with an adapter, whose means are refitted below fifty steps."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A learning curve: one method with one reading."""

    label: str
    method: str
    template: str
    depth: int
    color: str
    dashed: bool = False
    prior_rows: int = -1
    few_method: str = ""

    def of(self, records: Iterable[Record], size: int) -> list[Record]:
        """Return the fits of this line to `size` rows."""
        prior = "names" if size <= self.prior_rows else "zero"
        method = self.few_method if self.few_method and size <= FEW else self.method
        key = (method, self.template, self.depth, prior, size)
        names = ("method", "template", "depth", "prior", "size")
        return [record for record in records if tuple(record[name] for name in names) == key]


_BLUE, _RED, _GREEN, _GREY, _GOLD = "#1f5fa8", "#b5432f", "#3c8050", "#7a7a7a", "#b98a1d"
LINES = (
    Line("zero-shot", "zero-shot", "generic", ALL_LAYERS, _GREY, prior_rows=0),
    Line(
        "last layer alone",
        "none-vbll",
        "generic",
        28,
        _GREEN,
        few_method="none-vbll-wide",
        prior_rows=FEW,
    ),
    Line("… without a prior mean", "none-vbll", "generic", 28, _GREEN, few_method="none-vbll-wide"),
    Line("… scale by empirical Bayes", "none-vbll", "generic", 28, _GREEN, prior_rows=FEW),
    Line("last layer alone, raw", "none-vbll", "raw", ALL_LAYERS, _GREEN, dashed=True),
    Line("PoLAR-VBLL", "polar-vbll", "generic", 24, _BLUE, prior_rows=FEWEST),
    Line("… without the prior", "polar-vbll", "generic", 24, _BLUE),
    Line("PoLAR-VBLL, raw", "polar-vbll", "raw", ALL_LAYERS, _BLUE, dashed=True),
    Line("LoRA", "lora-mle", "generic", 24, _RED),
    Line("LoRA, raw", "lora-mle", "raw", ALL_LAYERS, _RED, dashed=True),
    Line("LoRA and a temperature", "lora-temperature", "generic", 24, _GOLD),
)


def write_summary(out: Path) -> None:
    """Write `summary.md` and `curves.svg` from the stored scores."""
    records = Results(out, KEY).rows(kind="fit", backbone=DECODER)
    parts = [
        "# What a fit reads, and knows before the first label",
        "NLL in nats and accuracy after fits to texts of at most 32 tokens, SmolLM2-135M cut after "
        f"so many of its {ALL_LAYERS} layers; means over seeds, each with rows of its own. Made by "
        "`python -m benchmarks.reading --data-dir DIR`, whose first lines have the rules.",
        "## The default reading at 640 rows beside all layers of raw texts",
        "NLL and far OOD AUROC (by the highest probability; by logit variance), now / before; "
        "differences in NLL are paired by seed, with half a 95 % t interval where there are "
        "several.",
        "**Development sets**, on which the reading was chosen:",
        _beside_table(records, TASKS),
        "**Sets that judge**, of which nothing was seen before:",
        _beside_table(records, JUDGED),
        "## Learning curves",
        "![NLL against labelled rows](curves.svg)",
        "NLL / accuracy by labelled rows, number of seeds in brackets. `raw`: all layers and the "
        f"text alone. The prior is the language model's own answer: up to {FEW} rows of the last "
        f"layer alone, up to {FEWEST} behind PoLAR-VBLL, never for LoRA.",
        *(f"**{task}**\n\n{_curves_table(records, task)}" for task in TASKS),
        "## Detection",
        "AUROC of far and near OOD rows by each score, PoLAR-VBLL with 640 rows, default reading / "
        "raw texts and all layers.",
        _detection_table(records),
        "## Everything",
        _everything(records),
    ]
    with atomic_file(out / "curves.svg") as temporary:
        temporary.write_bytes(_figure(records))
    with atomic_file(out / "summary.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_everything(out: Path, backbone: str) -> None:
    """Write the page of another backbone."""
    records = Results(out, KEY).rows(kind="fit", backbone=backbone)
    parts = [
        f"# Depth and template of {backbone}",
        "NLL in nats / accuracy of development rows by layers read, number of seeds in brackets; "
        "texts of at most 32 tokens. Made by "
        f"`python -m benchmarks.reading --data-dir DIR --backbone {backbone}`.",
        _everything(records),
    ]
    with atomic_file(out / f"{backbone}.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _beside_table(records: Sequence[Record], tasks: Sequence[str]) -> str:
    """Return a table of both readings, with the mean over the sets."""
    rows = []
    for method in ("polar-vbll", "lora-mle"):
        fits = {
            (
                record["task"],
                record["seed"],
                (record["template"], record["depth"], record["prior"]),
            ): record
            for record in records
            if record["size"] == 640 and record["method"] == method and record["task"] in tasks
        }
        pairs = [
            (fits[task, seed, NEW], fits[task, seed, OLD])
            for task, seed, reading in sorted(fits)
            if reading == NEW and (task, seed, OLD) in fits
        ]
        for task in tasks:
            mine = [pair for pair in pairs if pair[0]["task"] == task]
            if mine:
                rows.append(_beside(method, task, mine))
        by_seed = [
            [new["nll"] - old["nll"] for new, old in pairs if new["seed"] == seed]
            for seed in sorted({new["seed"] for new, _ in pairs})
        ]
        means = [fmean(changes) for changes in by_seed if len(changes) == len(tasks)]
        if means:
            rows.append((method, "mean of the sets", str(len(means)), "", shown(means), "", ""))
    head = ("method", "set", "seeds", "NLL", "Δ NLL", "AUROC, probability", "AUROC, variance")
    return table(head, rows)


def _beside(method: str, task: str, rows: Sequence[tuple[Record, Record]]) -> tuple[str, ...]:
    keys = ("nll", "far max_probability", "far logit_variance")
    means = [[fmean(pair[side][key] for pair in rows) for side in (0, 1)] for key in keys]
    nll, probability, variance = (f"{new:.3f} / {old:.3f}" for new, old in means)
    change = shown([new["nll"] - old["nll"] for new, old in rows])
    return (method, task, str(len(rows)), nll, change, probability, variance)


def _curves_table(records: Sequence[Record], task: str) -> str:
    own = [record for record in records if record["task"] == task]
    rows = []
    for line in LINES:
        cells = [_cell(line.of(own, size)) for size in CURVE_SIZES]
        if any(cells):
            rows.append((line.label, *cells))
    return table(("", *(f"{size} rows" for size in CURVE_SIZES)), rows)


def _detection_table(records: Sequence[Record]) -> str:
    scores = sorted(
        {key for record in records for key in record if key.startswith(("far ", "near "))},
        key=lambda key: (key.split()[0] != "far", key),
    )
    rows = []
    for task in (*TASKS, *JUDGED):
        own = [
            record
            for record in records
            if (record["task"], record["size"], record["method"]) == (task, 640, "polar-vbll")
        ]
        sides = [
            [
                record
                for record in own
                if (record["template"], record["depth"], record["prior"]) == reading
            ]
            for reading in (NEW, OLD)
        ]
        cells = [" / ".join(_mean_of(side, score) for side in sides) for score in scores]
        rows.append((task, *(cell.strip(" /") and cell for cell in cells)))
    return table(("set", *scores), rows)


def _mean_of(records: Sequence[Record], key: str) -> str:
    values = [record[key] for record in records if key in record]
    return f"{fmean(values):.3f}" if values else ""


def _everything(records: Sequence[Record]) -> str:
    depths = sorted({record["depth"] for record in records})
    rows = []
    for place in sorted({_place(record) for record in records}):
        cells = [
            _cell(
                [
                    record
                    for record in records
                    if (*_place(record), record["depth"]) == (*place, depth)
                ]
            )
            for depth in depths
        ]
        rows.append((*map(str, place), *cells))
    head = ("set", "rows", "method", "template", "prior mean")
    return table((*head, *(f"{depth} layers" for depth in depths)), rows)


def _place(record: Record) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("task", "size", "method", "template", "prior"))


def _cell(records: Sequence[Record]) -> str:
    if not records:
        return ""
    nll, accuracy = (fmean(record[key] for record in records) for key in ("nll", "accuracy"))
    return f"{nll:.3f} / {accuracy:.3f} ({len(records)})"


def _figure(records: Sequence[Record]) -> bytes:
    """Return the learning curves as SVG, one panel per development set."""
    options = {"svg.hashsalt": "reading", "svg.fonttype": "none", "font.size": 9}
    with rc_context(options):
        sheet = Figure(figsize=(10.2, 3.8), layout="constrained")
        panels = sheet.subplots(1, len(TASKS))
        for axes, task in zip(panels, TASKS, strict=True):
            own = [record for record in records if record["task"] == task]
            for line in LINES:
                if line.method == "lora-temperature" or line.label.startswith("…"):
                    continue
                points = [(size, line.of(own, size)) for size in CURVE_SIZES]
                known = [(size, fmean(r["nll"] for r in fits)) for size, fits in points if fits]
                if line.method == "zero-shot":
                    for _, value in known:
                        axes.axhline(value, color=line.color, lw=1, ls=":", label=line.label)
                elif known:
                    axes.plot(
                        *zip(*known, strict=True),
                        "--o" if line.dashed else "-o",
                        color=line.color,
                        markersize=3.5,
                        lw=1.2,
                        label=line.label,
                    )
            axes.set(xscale="log", xlabel="labelled rows", ylim=(0, None))
            axes.set_xticks(CURVE_SIZES[1:], [f"{size:,}" for size in CURVE_SIZES[1:]])
            axes.minorticks_off()
            axes.set_title(task, loc="left", fontsize=10)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("NLL (nats)")
        handles, labels = panels[0].get_legend_handles_labels()
        sheet.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        stream = io.BytesIO()
        sheet.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
