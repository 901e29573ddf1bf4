"""Does a context know which components of the weights can go?

From every linear layer the smallest k components are dropped: by the plain singular value
decomposition, or by that of the weight as a context sees it, which is where CorDA starts (Yang et
al. 2024, arXiv:2406.05223). The better choice loses less on other text of the context's kind.
Nothing is trained and nothing is random.

    python -m benchmarks.dropped_components --data-dir DIR
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bayeslora.adapters.low_rank import Factors
from bayeslora.adapters.stats import SecondMoment
from bayeslora.backbones.embedded import embedded_directory
from bayeslora.contrib.corda import corda
from bayeslora.data.known import DATA_VARIABLE
from benchmarks.dropped_components.summary import (
    DROPPED,
    KEY,
    NOTHING,
    POWERS,
    stored,
    write_summary,
)
from benchmarks.lib.adapter_arms import ARMS, moments_of
from benchmarks.lib.adapter_training import BACKBONE
from benchmarks.lib.arguments import study_parser
from benchmarks.lib.causal_lm import GENERIC, Texts, next_token_loss, open_model, read_texts
from benchmarks.lib.results import Results

OUT = Path("reports/dropped-components")
NUM_BLOCKS = 24


def main() -> None:
    """Run the missing measurements, then write the table."""
    parser = study_parser(__doc__, OUT, data_dir=False, threads=1)
    default = os.environ.get(DATA_VARIABLE)
    parser.add_argument("--data-dir", type=Path, default=default, required=default is None)
    args = parser.parse_args()
    source = embedded_directory(BACKBONE)
    run(source, read_texts(Path(args.data_dir), source, NUM_BLOCKS), args.out)
    write_summary(args.out)
    print((args.out / "summary.md").read_text(encoding="utf-8"))


def run(source: Path, texts: Texts, out: Path) -> None:
    """Measure and store each method of choosing components."""
    results, known = Results(out, KEY), stored(out)
    missing = [c for c in POWERS if any((c, k) not in known for k in DROPPED)]
    if not missing:
        return
    model, blocks = open_model(source), texts.tests[GENERIC]
    if NOTHING not in known:
        results.append(row(*NOTHING, block_losses(model, blocks)))
    moments = context_moments(model, texts.contexts[GENERIC])
    weights = {name: _weight(model, name).clone() for name in moments}
    for choice in missing:
        components = smallest(weights, moments, POWERS[choice])
        for k in DROPPED:
            for name, factors in components.items():
                _weight(model, name).copy_(weights[name] - product(factors, k))
            results.append(row(choice, k, block_losses(model, blocks)))
    results.sort()


def row(choice: str, dropped: int, losses: list[float]) -> dict[str, Any]:
    """Return one row of the results."""
    return {"choice": choice, "dropped": dropped, "losses": losses}


def context_moments(model: nn.Module, context: Tensor) -> Mapping[str, SecondMoment]:
    """Return the second moments of the inputs to all linear layers on blocks of a context."""
    config = ARMS["corda-kpm"].adapter
    if config is None:
        raise ValueError("the arm has no adapter")
    return moments_of(model, config, context)


def smallest(
    weights: Mapping[str, Tensor], moments: Mapping[str, SecondMoment], power: float
) -> dict[str, Factors]:
    """Return the smallest components of every weight, in descending order."""
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


if __name__ == "__main__":
    main()
