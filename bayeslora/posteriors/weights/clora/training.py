"""C-LoRA's input-dependent KL, added to the gradient of each training pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.tokens import Batch
from bayeslora.posteriors.types import Network
from bayeslora.posteriors.weights.clora.options import CLoRA
from bayeslora.posteriors.weights.clora.posterior import CLoRAWeights
from bayeslora.posteriors.weights.kl_steps import KLWeight, kl_weight
from bayeslora.posteriors.weights.training import TrainingRun, WeightTraining, own_weights

_BATCH = 64


class KLGradient(TrainerCallback):
    """Adds the gradient of the weighted KL to that of each pass, for the same optimiser step.

    The step count is the Trainer's, which is in the checkpoints.
    """

    def __init__(self, weights: CLoRAWeights, weight: KLWeight) -> None:
        self._weights = weights
        self._weight = weight
        self._step = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read the number of steps taken."""
        self._step = state.global_step

    @contextmanager
    def noise(self, batch: Batch) -> Iterator[None]:
        """Run a pass, forward and backward, under noise; then add the KL's gradient."""
        with self._weights.noise(), self._weights.watching() as seen:
            yield
        kl = self._weights.kl(seen, batch["attention_mask"])
        (self._weight(self._step) * kl).backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def measure(network: Network, weights: CLoRAWeights, texts: PreparedTexts) -> None:
    """Store the quantities of the posterior's report, as means over the real tokens of texts.

    Args:
        network: Trained.
        weights: Its posterior.
        texts: The training texts.
    """
    network.eval()
    total, num_tokens = torch.zeros(3, dtype=torch.float64), 0
    for rows in network.encoder.batches(texts.tokens.lengths, _BATCH):
        batch = texts.collate(rows)
        with weights.watching() as seen:
            network(batch)
        mask = batch["attention_mask"]
        count = int(mask.sum())
        total += count * weights.figures(seen, mask)
        num_tokens += count
    weights.measured.copy_(total / num_tokens)


def clora_training(config: CLoRA, run: TrainingRun) -> WeightTraining:
    """Return a training under noise, with the KL's gradient added."""
    weights = own_weights(run.network, CLoRAWeights)
    weight = kl_weight(config.kl_weights, run.num_train, run.batch_size)
    gradient = KLGradient(weights, weight)
    return WeightTraining(
        noise=gradient.noise, callbacks=(gradient,), parameters=tuple(weights.parameters())
    )
