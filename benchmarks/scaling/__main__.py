"""What a fit takes in memory and multiplications, by formula and as counted on a small model.

Multiplications are counted by PyTorch, and bytes are those that autograd saves and that tensors
have: numbers that are the same on every machine, whatever else it does. A report then applies the
formulas to models that do not fit here.

    python -m benchmarks.scaling
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import bayeslora as bl
from bayeslora.backbones.load import Backbone, load_backbone
from benchmarks.lib.arguments import study_parser
from benchmarks.scaling.formulas import LLAMAS, PAPER, Decoder, Fit, below, memory, multiplications

OUT = Path("reports/scaling")
ROWS, HELD, EPOCHS, BATCH, WORDS = 48, 16, 2, 8, 40
GIGABYTE = 1e9


def main() -> None:
    """Count one fit per adapter, and write the report."""
    parser = study_parser(__doc__, OUT, data_dir=False, threads=None)
    parser.add_argument("--backbone", default="smollm2-135m")
    args = parser.parse_args()
    lines = ["# Memory and time of a fit", "", __doc__.split("\n\n", 2)[1].replace("\n", " ")]
    lines += ["", f"## {args.backbone}, counted", "", *_counted(args.backbone)]
    lines += ["", "## Larger models, by formula", "", *_larger("the default reading", as_default)]
    lines += ["", *_larger("protocol `blob`", as_blob)]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def _counted(name: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        # Do not read cached states of an earlier run.
        os.environ["BAYESLORA_CACHE"] = folder
        backbone = load_backbone(name, dtype="float32", device="cpu")
        rows = ["| part | by formula | counted | ratio |", "|---|---|---|---|"]
        # The second fit reuses the cached lower-layer states of the first.
        for adapter in ("lora", "polar"):
            rows += _of_fit(backbone, adapter)
    note = f"{ROWS} training and {HELD} validation rows, {EPOCHS} epochs in batches of {BATCH}. "
    return [*rows, "", note + "The second fit finds the states of the lower layers of the first."]


def _of_fit(backbone: Backbone, adapter: str) -> list[str]:
    config: Any = backbone.model.config
    decoder = Decoder(
        "",
        config.hidden_size,
        config.intermediate_size,
        config.num_key_value_heads * config.hidden_size // config.num_attention_heads,
        config.num_hidden_layers,
        config.vocab_size,
    )
    train, validation = _texts(ROWS), _texts(HELD, start=ROWS)
    clf = bl.BayesianClassifier(backbone, adapter, bl.VBLL(prior_scale=2.0), progress=False)
    known = bool(backbone.prefix_states)
    with FlopCounterMode(display=False) as counter, _saved(backbone.model) as saved:
        clf.fit(train, validation, epochs=EPOCHS, batch_size=BATCH, feature_scores=())
    network = clf.network
    with torch.no_grad():
        lengths = network.encoder.prepare(train[0]).tokens.lengths
    fit = Fit(ROWS, round(float(lengths.mean())), EPOCHS, BATCH, HELD, classes=2, bytes_a_weight=4)
    parts = multiplications(decoder, fit)
    if known:
        parts.pop("frozen layers, once")
    expected = sum(parts.values())
    counted = counter.get_total_flops() / 2
    trained = sum(p.numel() for site in network.sites for p in site.trainable().values())
    bytes_of = memory(decoder, fit)
    weights = sum(p.numel() * p.itemsize for p in backbone.model.parameters())
    return [
        _row(f"{adapter}: multiplications", expected, counted, 1e9, "G"),
        _row(f"{adapter}: activations", bytes_of["activations"], max(saved), 1e6, "MB"),
        _row(f"{adapter}: adapter, optimiser", bytes_of["adapter and optimiser"], 16 * trained),
        _row(f"{adapter}: weights", bytes_of["weights"], weights, 1e6, "MB"),
    ]


def _row(name: str, expected: float, counted: float, unit: float = 1e6, letter: str = "MB") -> str:
    shown = (f"{value / unit:.1f} {letter}" for value in (expected, counted))
    return f"| {name} | {' | '.join(shown)} | {counted / expected:.2f} |"


def _texts(count: int, start: int = 0) -> tuple[list[str], list[str]]:
    words = ("river", "market", "engine", "garden", "winter", "letter", "number", "window")
    texts, labels = [], []
    for row in range(start, start + count):
        chosen = [words[(row * 7 + place * (1 + row % 3)) % len(words)] for place in range(WORDS)]
        texts.append(f"{row} " + " ".join(chosen))
        labels.append("ab"[row % 2])
    return texts, labels


@contextmanager
def _saved(model: nn.Module) -> Iterator[list[int]]:
    """Yield a list of the bytes that autograd saves for each backward pass, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    totals: list[int] = [0]
    seen: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights and place not in seen:
            seen.add(place)
            totals[-1] += tensor.untyped_storage().nbytes()
        return tensor

    def give(tensor: Tensor) -> Tensor:
        # A backward pass has started: tensors saved from now on belong to the next pass.
        if seen:
            seen.clear()
            totals.append(0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        yield totals


def as_default(_decoder: Decoder) -> Fit:
    """Return the fit with the default reading of a text classifier."""
    return PAPER


def as_blob(decoder: Decoder) -> Fit:
    """Return the fit of protocol `blob`: 5,000 steps of 4 rows, all layers read and adapted."""
    return replace(PAPER, epochs=4, batch=4, depth=1.0, adapted=decoder.layers)


def _larger(name: str, fit_of: Callable[[Decoder], Fit]) -> list[str]:
    first = fit_of(LLAMAS[0])
    parts = list(memory(LLAMAS[0], first))
    adapted = "all" if first.depth == 1 else f"the last {first.adapted}"
    lines = [
        f"OpenBookQA by {name}: {first.rows:,} rows of {first.tokens} tokens, {first.epochs} "
        f"epochs in batches of {first.batch}, {first.classes} classes, adapters of rank "
        f"{first.rank} on {adapted} layers, bfloat16.",
        "",
        f"| model | layers run once | {' | '.join(f'{part}, GB' for part in parts)} | all, GB | "
        "multiplications, 10¹² |",
        f"|---|---|{'---|' * len(parts)}---|---|",
    ]
    for decoder in LLAMAS:
        fit = fit_of(decoder)
        bytes_of = memory(decoder, fit)
        cells = " | ".join(f"{bytes_of[part] / GIGABYTE:.2f}" for part in parts)
        total = sum(multiplications(decoder, fit).values())
        lines.append(
            f"| {decoder.name} | {below(decoder, fit)} of {decoder.layers} | {cells} | "
            f"{sum(bytes_of.values()) / GIGABYTE:.1f} | {total / 1e12:,.0f} |"
        )
    return lines


if __name__ == "__main__":
    main()
