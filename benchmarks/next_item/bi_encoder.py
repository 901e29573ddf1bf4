"""A bi-encoder: the history as text through the adapted backbone, titles through the frozen one.

    logit_c = e^κ ⟨u / ‖u‖, e_c⟩ + wᵀ e_c ,   u = φ(history) (+ P z in the arm with z)

e_c is the normalised feature of a title, and φ the feature of the titles in the history. κ, w and P
are trained with the adapter; w and P start at zero. Titles are encoded in advance, so twenty
candidates add no cost to a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayeslora import MLE
from bayeslora.adapters.base import Adapter
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.load import Backbone
from bayeslora.contrib.ilora import NUM_COORDINATES, ILoRA, ItemVectors
from bayeslora.data.examples import LETTERS, Examples
from bayeslora.engine.build import build_network
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.rows import LengthBatchSampler
from bayeslora.predictions.record import Predictions
from benchmarks.next_item.rows import Items, truth

MAX_LENGTH = 160
SHARED = {"r": 8, "num_layers": 3}
FAST = 10.0
"""Ratio of the router's rate to that of the factors, in arms whose router learns in few steps."""
ARMS = (
    *("lora", "ilora", "ilora-permuted"),
    *("ilora-fast", "ilora-fast-permuted", "lora-with-z"),
)
_START = math.log(20.0)


@dataclass(frozen=True)
class Study:
    """Settings shared by all fits.

    Attributes:
        backbone: Frozen backbone.
        items: The films.
        titles: [M, d]: Normalised features of the titles.
        lr: Learning rate of the factors.
        head_lr: Learning rate of κ, w and P.
        epochs: Passes over the training rows.
        batch_size: Rows per step.
    """

    backbone: Backbone
    items: Items
    titles: Tensor
    lr: float
    head_lr: float = 3e-3
    epochs: int = 2
    batch_size: int = 16

    @classmethod
    def of(cls, backbone: Backbone, items: Items, **options: Any) -> Study:
        """Create a study, with titles encoded by the frozen backbone."""
        network = _network(backbone, LoRA(**SHARED), 0)
        network.eval()
        titles = network.encoder.features(network.encoder.prepare(items.names))
        return cls(backbone, items, F.normalize(titles, dim=1), **options)


class Scorer(nn.Module):
    """Compute logits of candidates from features of histories."""

    def __init__(self, width: int, *, given_z: bool) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(_START))
        self.weight = nn.Parameter(torch.zeros(width))
        self.of_z = nn.Parameter(torch.zeros(width, NUM_COORDINATES)) if given_z else None

    def forward(self, features: Tensor, z: Tensor, titles: Tensor) -> Tensor:
        """Return logits [B, C] for features [B, d], contexts [B, 64] and titles [B, C, d]."""
        if self.of_z is not None:
            features = features + F.layer_norm(z, z.shape[-1:]) @ self.of_z.T
        user = self.log_scale.exp() * F.normalize(features, dim=1) + self.weight
        return (titles @ user[:, :, None])[:, :, 0]


@dataclass(frozen=True)
class Fitted:
    """A trained bi-encoder.

    Attributes:
        study: Settings of the fit.
        network: The adapted backbone.
        scorer: Scores titles against a history.
        vectors: Item vectors that encode the contexts of histories.
        permuted: Seed of the permutation of contexts; None leaves them in place.
        figures: Statistics of the gate; empty without a gate.
    """

    study: Study
    network: Network
    scorer: Scorer
    vectors: ItemVectors
    permuted: int | None
    figures: dict[str, float]

    @torch.no_grad()
    def predict(self, rows: Examples) -> Predictions:
        """Return predictions with the letters of the candidates as classes."""
        self.network.eval()
        texts, z = _prepared(self.network, self.vectors, rows, self.permuted)
        features = self.network.encoder.features(texts)
        titles = self.study.titles[self.study.items.numbers(rows.choices or ())]
        logits = self.scorer(features, z, titles).double()
        return Predictions(
            probs=logits.softmax(1).numpy(),
            classes=tuple(LETTERS),
            labels=truth(rows),
            ids=rows.ids,
        )


def fit(study: Study, arm: str, train: Examples, seed: int) -> Fitted:
    """Train one arm; the seed determines the order of the rows and all initial values."""
    torch.manual_seed(seed)
    adapter: Adapter = LoRA(lr=study.lr, **SHARED)
    if arm.startswith("ilora"):
        factor = FAST if "fast" in arm else ILoRA.gate_lr_factor
        adapter = ILoRA(lr=study.lr, gate_lr_factor=factor, **SHARED)
    network = _network(study.backbone, adapter, seed)
    vectors = ItemVectors()
    vectors.learn(train.history or ())
    permuted = seed if arm.endswith("permuted") else None
    if network.conditioning is not None:
        network.conditioning.learn(train)
    texts, z = _prepared(network, vectors, train, permuted)
    scorer = Scorer(study.titles.shape[1], given_z=arm == "lora-with-z")
    optimizer = build_optimizer(
        network.sites,
        scorer.parameters(),
        adapter,
        study.head_lr,
        beside=adapter.further_optimizers(network),
    )
    sampler = LengthBatchSampler(texts.tokens.lengths, study.batch_size, seed)
    steps = study.epochs * len(sampler)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    choices = torch.from_numpy(study.items.numbers(train.choices or ()))
    labels = torch.from_numpy(truth(train))
    network.train()
    for epoch in range(study.epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            optimizer.zero_grad()
            features = network.encoder(texts.collate(batch))
            logits = scorer(features, z[batch], study.titles[choices[batch]])
            loss = F.cross_entropy(logits, labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.head_step()
            schedule.step()
    conditioning, contexts = network.conditioning, texts.contexts
    has_gate = conditioning is not None and contexts is not None
    figures = conditioning.figures(contexts) if has_gate else {}
    return Fitted(study, network, scorer, vectors, permuted, figures)


def _network(backbone: Backbone, adapter: Adapter, seed: int) -> Network:
    # The last layer, of two classes, is not used.
    return build_network(
        backbone, Plan(adapter=adapter, posterior=MLE(), seed=seed, max_length=MAX_LENGTH), 2
    )


def _prepared(
    network: Network, vectors: ItemVectors, rows: Examples, permuted: int | None
) -> tuple[PreparedTexts, Tensor]:
    """Return the texts of the histories and their contexts [N, 64], optionally permuted."""
    history: Sequence[Sequence[str]] = rows.history or ()
    z = vectors.encode(history)
    if permuted is not None:
        order = np.random.default_rng(permuted).permutation(len(rows))
        z = z[torch.from_numpy(order)]
    texts = network.encoder.prepare(["; ".join(items) for items in history])
    return (texts if network.conditioning is None else replace(texts, contexts=z)), z
