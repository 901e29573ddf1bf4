"""The gain of each optimisation: the same work with and without it, in turn.

Both sides run in one process with two threads, without loading and the frozen layers of fits, after
one warm-up run each. Drift of the machine affects both sides of a pair, so the median ratio of the
pairs is more reliable than their seconds. One-time costs of a process (imports, frozen states from
disk) and differences from older versions are in the table of `python -m benchmarks.speed`.

    python -m benchmarks.speed.parts
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from bayeslora.io.files import atomic_file
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.results import Results
from benchmarks.lib.tables import table
from benchmarks.speed.measuring import KEY, machine
from benchmarks.speed.work import (
    MAX_LENGTH,
    PREDICTED,
    ROWS,
    THREADS,
    WHOLE,
    WORDS,
    Run,
    all_scores,
    clock,
    head_fit,
    manifold_steps,
    texts,
)

PAIRS, BATCH = 7, 16
Without = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Part:
    """An optimisation.

    Attributes:
        what: Description of the part.
        work: Work that it speeds up.
        begin: Sets up and returns the work as a function of whether the part is enabled; None if
            the part was removed.
        until: Last commit with the part, if it was removed for too small a gain.
    """

    what: str
    work: str
    begin: Callable[[], Callable[[bool], float]] | None
    until: str = ""


def _fit(epochs: int, without: Without | None = None) -> Callable[[], Callable[[bool], float]]:
    """Return a fit in bfloat16; without a patch, the part to disable is applied by loading."""

    def begin() -> Callable[[bool], float]:
        from bayeslora import BayesianClassifier
        from bayeslora.backbones import load

        with_it = load.load_backbone("smollm2-135m", dtype="bfloat16")
        with patch.object(load, "use_short_attention", lambda _: None):
            bare = with_it if without else load.load_backbone("smollm2-135m", dtype="bfloat16")
        rows = texts("train", ROWS)

        def run(is_there: bool) -> float:
            backbone = with_it if is_there else bare
            backbone.known.clear()
            clf = BayesianClassifier(backbone, progress=False, **WHOLE)
            with nullcontext() if is_there or without is None else without():
                return clock(lambda: clf.fit(rows, epochs=epochs, cv=0))

        return run

    return begin


def _prediction(without: Without) -> Callable[[], Callable[[bool], float]]:
    def begin() -> Callable[[bool], float]:
        from bayeslora import BayesianClassifier
        from bayeslora.backbones.load import load_backbone

        backbone = load_backbone("smollm2-135m", dtype="bfloat16")
        clf = BayesianClassifier(backbone, progress=False, **WHOLE)
        clf.fit(texts("train", 96), epochs=1, cv=0)
        rows = texts("test", PREDICTED)

        def run() -> float:
            backbone.prefix_states.clear()
            return clock(lambda: clf.predict(rows))

        return _patched(run, without)()

    return begin


def _patched(run: Run, without: Without) -> Callable[[], Callable[[bool], float]]:
    """Return work whose part is disabled by a patch."""

    def begin() -> Callable[[bool], float]:
        def measured(is_there: bool) -> float:
            with nullcontext() if is_there else without():
                return run()

        return measured

    return begin


def _random_batches() -> AbstractContextManager[Any]:
    from bayeslora.engine import rows

    return patch.object(rows, "_POOL_BATCHES", 1)


@contextmanager
def _unsorted_batches() -> Iterator[None]:
    from bayeslora.backbones import encoder, prefix

    def as_they_come(lengths: Any, batch_size: int) -> Any:
        rows = list(range(len(lengths)))
        return (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))

    with (
        patch.object(encoder, "length_batches", as_they_come),
        patch.object(prefix, "length_batches", as_they_come),
    ):
        yield


def _factor_by_factor() -> AbstractContextManager[Any]:
    from bayeslora.adapters import polar as riemannian

    together = riemannian._step

    def apart(factors: Any, states: Any, group: Any) -> None:
        for factor, state in zip(factors, states, strict=True):
            together([factor], [state], group)

    return patch.object(riemannian, "_step", apart)


def _wide_blocks() -> AbstractContextManager[Any]:
    from bayeslora.metrics import bootstrap

    return patch.object(bootstrap, "BLOCK", 100 * bootstrap.BLOCK)


def _one_thread() -> AbstractContextManager[Any]:
    from bayeslora.metrics import bootstrap

    return patch.object(bootstrap, "threaded", map)


def _scale_of_all() -> AbstractContextManager[Any]:
    from bayeslora.engine import rows

    return patch.object(rows, "SCALE_ROWS", 1_000_000)


def _one_stage() -> AbstractContextManager[Any]:
    from bayeslora.posteriors.last_layer.vbll import final

    return patch.object(final.Ascent, "stages", lambda self: [self])


def _short_steps() -> AbstractContextManager[Any]:
    from bayeslora.posteriors.last_layer.vbll import final

    return patch.object(final, "_secant", lambda _, short, __: short)


_FIT, _HEAD = "fit, 2 epochs, bfloat16", "closed-form head, 20 classes"
_PREDICTION, _SCORES = f"{PREDICTED} predictions, bfloat16", "all scores with intervals, 1e5 × 5"
_STEPS = "100 steps of 120 orthonormal factors of 576 × 8"
PARTS: Mapping[str, Part] = {
    "attention": Part("attention over short texts in float32", _FIT, _fit(2)),
    "batches": Part("batches of similar length", _FIT, _fit(2, _random_batches)),
    "last-token": Part("only the token read in the last feed-forward", _FIT, None, "f31effe7"),
    "scale": Part("scale of the features from 64 texts", _FIT, _fit(2, _scale_of_all)),
    "steps": Part(
        "factors of one shape in one call", _STEPS, _patched(manifold_steps, _factor_by_factor)
    ),
    "stages": Part(
        "eigenbasis, then float32, then float64", _HEAD, _patched(head_fit(20), _one_stage)
    ),
    "secant": Part("secant steps of the prior", _HEAD, _patched(head_fit(20), _short_steps)),
    "sorted": Part("batches of similar length", _PREDICTION, _prediction(_unsorted_batches)),
    "blocks": Part(
        "resamples in blocks that stay in the cache",
        _SCORES,
        _patched(all_scores(100_000), _wide_blocks),
    ),
    "threads": Part(
        "resamples in two threads", _SCORES, _patched(all_scores(100_000), _one_thread)
    ),
}


def compiling() -> dict[str, float]:
    """Return the seconds of a step through the upper six layers in bfloat16, and of compilation.

    A step is a forward and backward pass for a batch of texts with the usual length.
    """
    import torch
    from torch import nn

    from bayeslora.backbones.load import load_backbone

    model = load_backbone("smollm2-135m", dtype="bfloat16").model.requires_grad_(False)

    class Upper(nn.Module):
        def forward(self, states: Any, places: Any) -> Any:
            turned = model.rotary_emb(states, places)
            for layer in model.layers[-6:]:
                states = layer(states, position_embeddings=turned, attention_mask=None)
            return states

    states = torch.randn(BATCH, 12, 576, dtype=torch.bfloat16, requires_grad=True)
    places = torch.arange(12)[None]
    upper = Upper()
    compiled = torch.compile(upper, dynamic=True)

    def step(function: Any) -> float:
        return clock(lambda: function(states, places).float().sum().backward())

    step(upper)
    first = step(compiled)
    pairs = [(step(upper), step(compiled)) for _ in range(30)]
    plain, later = (median(side) for side in zip(*pairs, strict=True))
    return {"first": first, "plain": plain, "later": later}


def padding(words: int) -> float:
    """Return the share of padding in five epochs of length-sorted batches."""
    from transformers import AutoTokenizer

    from bayeslora.backbones.embedded import embedded_directory
    from bayeslora.engine.rows import LengthBatchSampler

    tokenizer = AutoTokenizer.from_pretrained(embedded_directory("smollm2-135m"))
    lengths = np.array(
        [len(ids) for ids in tokenizer(list(texts("train", ROWS, words).texts))["input_ids"]]
    ).clip(max=MAX_LENGTH)
    batches = LengthBatchSampler(lengths, BATCH, seed=0)
    padded = 0
    for epoch in range(5):
        batches.set_epoch(epoch)
        padded += sum(len(rows) * lengths[rows].max() for rows in batches)
    return 1 - 5 * int(lengths.sum()) / float(padded)


def main() -> None:
    """Run the missing measurements, then write the table."""
    import torch

    parser = study_parser(__doc__, "reports/speed", data_dir=False, threads=None)
    there = {name: part.begin for name, part in PARTS.items() if part.begin is not None}
    parser.add_argument("--parts", nargs="+", choices=there, default=list(there))
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    results = Results(args.out, KEY)
    for name in args.parts:
        known = results.get(kind="part", name=name)
        if known is not None and known["machine"] == machine():
            continue
        run = there[name]()
        for is_there in (True, False):
            run(is_there)
        pairs = [[run(True), run(False)] for _ in range(PAIRS)]
        print(name, pairs, flush=True)
        row = {"kind": "part", "name": name, "machine": machine(), "pairs": pairs}
        results.append(row)
    if results.get(kind="padding", name="words") is None:
        shares = {str(words): padding(words) for words in (WORDS, 24, 64)}
        results.append({"kind": "padding", "name": "words", "shares": shares})
    if results.get(kind="compile", name="upper layers") is None:
        row = {"kind": "compile", "name": "upper layers", "machine": machine()}
        results.append(row | {"seconds": compiling()})
    results.sort()
    write_table(args.out)


def write_table(out: Path) -> None:
    """Write `parts.md`."""
    results, rows = Results(out, KEY), []
    for name, part in PARTS.items():
        known = results.get(kind="part", name=name)
        if known is None:
            continue
        with_it, without = (sorted(side) for side in zip(*known["pairs"], strict=True))
        ratios = sorted(after / before for before, after in known["pairs"])
        rows.append(
            (
                part.what + (f" (removed after {part.until})" if part.until else ""),
                part.work,
                f"{median(with_it):.2f}",
                f"{median(without):.2f}",
                f"{median(ratios):.2f}",
                f"{ratios[1]:.2f} to {ratios[-2]:.2f}",
            )
        )
    head = ("part", "work", "with it, s", "without, s", "ratio", "but the outer two")
    text = [
        "# What each part brings",
        f"Medians of {PAIRS} pairs in one process. Fits are of {ROWS} texts of {WORDS} words; "
        "loading is left out, and the frozen layers of fits. Made by "
        "`python -m benchmarks.speed.parts`.",
        table(head, rows),
    ]
    compiled = results.get(kind="compile", name="upper layers")
    if compiled is not None:
        first, plain, later = (compiled["seconds"][key] for key in ("first", "plain", "later"))
        paid = f", which pays after {first / (plain - later):.0f} steps" if later < plain else ""
        text.append(
            f"torch.compile of the upper six layers in bfloat16 takes {first:.0f} s. A step then "
            f"takes {later:.3f} s instead of {plain:.3f} s{paid}; five epochs have "
            f"{5 * ROWS // BATCH}."
        )
    padded = results.get(kind="padding", name="words")
    if padded is not None:
        by_length = sorted(padded["shares"].items(), key=lambda item: int(item[0]))
        shares = ", ".join(f"{100 * share:.0f} %" for _, share in by_length)
        lengths = ", ".join(length for length, _ in by_length)
        text.append(
            f"Of batches of {BATCH} texts of {lengths} words, {shares} is padding: packing them "
            "could save that share of the adapted layers at most."
        )
    with atomic_file(out / "parts.md") as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
