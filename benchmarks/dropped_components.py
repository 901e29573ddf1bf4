"""Does a context know which components of the weights can go?

From every linear layer the smallest k components are dropped: by the plain singular value
decomposition, or by that of the weight as a context sees it, which is where CorDA starts (Yang et
al. 2024, arXiv:2406.05223). The better choice loses less on other text of the context's kind.
Nothing is trained and nothing is random.

    python benchmarks/dropped_components.py --data-dir DIR
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import torch
from adapter_arms import ARMS, moments_of
from adapter_speed import BACKBONE
from causal_lm import GENERIC, Texts, next_token_loss, open_model, read_texts
from torch import Tensor, nn
from verdicts import Claim, claims_table, shown, table

from bayeslora.adapters.corda import corda
from bayeslora.adapters.init import Factors
from bayeslora.adapters.stats import SecondMoment
from bayeslora.backbones.embedded import embedded_directory
from bayeslora.files import atomic_file, read_json, write_json
from bayeslora.tasks.known import DATA_VARIABLE

OUT = Path("reports/dropped-components")
DROPPED = (8, 32, 128)
NUM_BLOCKS = 24
# Of the second moment that the weight is multiplied by.
POWERS = {"plain": 0.0, "context": 1.0, "context, root": 0.5}

Losses = dict[str, list[float]]


def main() -> None:
    """Measure what is not there yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = os.environ.get(DATA_VARIABLE)
    parser.add_argument("--data-dir", type=Path, default=default, required=default is None)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = embedded_directory(BACKBONE)
    run(source, read_texts(Path(args.data_dir), source, NUM_BLOCKS), args.out)
    write_summary(args.out)
    print((args.out / "summary.md").read_text(encoding="utf-8"))


def run(source: Path, texts: Texts, out: Path) -> None:
    """Measure each way to choose, keeping it as it comes."""
    file = out / "scores.json"
    found: Losses = read_json(file) if file.is_file() else {}
    missing = [c for c in POWERS if any(f"{c}, {k}" not in found for k in DROPPED)]
    if not missing:
        return
    model, blocks = open_model(source), texts.tests[GENERIC]
    found.setdefault("none", block_losses(model, blocks))
    moments = context_moments(model, texts.contexts[GENERIC])
    weights = {name: _weight(model, name).clone() for name in moments}
    for choice in missing:
        components = smallest(weights, moments, POWERS[choice])
        for k in DROPPED:
            for name, factors in components.items():
                _weight(model, name).copy_(weights[name] - product(factors, k))
            found[f"{choice}, {k}"] = block_losses(model, blocks)
            write_json(file, found)


def context_moments(model: nn.Module, context: Tensor) -> Mapping[str, SecondMoment]:
    """Return the second moments of the inputs of all linear layers on blocks of a context."""
    config = ARMS["corda-kpm"].adapter
    if config is None:
        raise ValueError("the arm has no adapter")
    return moments_of(model, config, context)


def smallest(
    weights: Mapping[str, Tensor], moments: Mapping[str, SecondMoment], power: float
) -> dict[str, Factors]:
    """Return the smallest components of every weight, the very smallest last."""
    return {
        name: corda(weights[name], moment, max(DROPPED), 1.0, mode="kpm", power=power)
        for name, moment in moments.items()
    }


def product(factors: Factors, k: int) -> Tensor:
    """Return the sum of the last k components, [out, in]."""
    return factors.B[:, -k:] @ factors.A[-k:]


@torch.no_grad()
def block_losses(model: nn.Module, blocks: Tensor) -> list[float]:
    """Return the mean loss of each block in nats a token."""
    return [float(next_token_loss(model, block[None])) for block in blocks]


def _weight(model: nn.Module, name: str) -> Tensor:
    return model.get_submodule(name).get_parameter("weight").data


def write_summary(out: Path) -> None:
    """Write the table from what is there."""
    found: Losses = read_json(out / "scores.json")
    before = fmean(found["none"])
    rows = []
    for choice in POWERS:
        known = [found.get(f"{choice}, {k}", []) for k in DROPPED]
        cells = [f"{math.exp(fmean(losses)):.1f}" if losses else "" for losses in known]
        rows.append([choice, *cells, *(shown(losses) for losses in known)])
    head = ["chosen by", *(f"perplexity, {k} dropped" for k in DROPPED)]
    head += [f"loss, {k} dropped" for k in DROPPED]
    parts = [
        "# Components that a context lets go\n\n"
        "SmolLM2-135M in float32, the smallest components of all linear layers dropped, of 192 on "
        "key and value and 576 on the others. Loss in nats a token on Wikipedia passages that are "
        f"not in the context: {before:.3f} with everything, perplexity {math.exp(before):.1f}. "
        f"Means over {len(found['none'])} blocks ± half a 95 % t interval. `context, root` takes "
        "the root of the second moment, which is best for each layer's outputs and is not CorDA. "
        "Made by `python benchmarks/dropped_components.py --data-dir DIR`.",
        table(head, rows),
        "## Claims\n\n" + claims_table(claims(out)),
    ]
    with atomic_file(out / "summary.md") as aside:
        aside.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def claims(out: Path) -> list[Claim]:
    """Return the paper's claims with what is stored."""
    file = out / "scores.json"
    found: Losses = read_json(file) if file.is_file() else {}
    listed = []
    for k in DROPPED:
        pair = zip(found.get(f"plain, {k}", ()), found.get(f"context, {k}", ()), strict=True)
        gains = tuple(plain - context for plain, context in pair)
        text = f"dropping {k} components that a context chooses costs less than the plain smallest"
        listed.append(Claim("CorDA", text, "nats a token", gains, "blocks"))
    return listed


if __name__ == "__main__":
    main()
