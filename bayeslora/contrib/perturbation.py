"""Perturbations of a backbone's inputs: token embeddings or pixels.

    text    x = embeddings [B, T, d] ;  ‖δ_t‖₂ ≤ ε ē at tokens of the text, δ_t = 0 elsewhere ;
            ē the mean norm of an embedding ;  steps of length ε ē / 2 along the gradient
    image   x = pixels [B, 3, S, S] between 0 and 1 ;  |δ| ≤ ε, and x + δ stays an image ;
            steps of length ε / 4 along the gradient's sign

They start at random inside the ball, since a divergence from the clean prediction has no gradient
at δ = 0. A perturbed embedding need not correspond to any text.

Sources: Madry et al. 2018, arXiv 1706.06083; Miyato, Dai and Goodfellow 2017, arXiv 1605.07725.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.images import Pixels
from bayeslora.backbones.load import Backbone
from bayeslora.backbones.template import FILLED, PAIR, TEXT
from bayeslora.backbones.tokens import Batch, Tokens
from bayeslora.errors import InputError


@dataclass(frozen=True)
class TokenBall:
    """An L2 ball around the embedding of each token.

    Attributes:
        radius: [B, T, 1]: the radius for ε = 1; 0 for fixed tokens.
    """

    radius: Tensor

    def start(self, values: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        """Return a perturbation with uniform direction and uniform length up to the radius."""
        noise = torch.randn(values.shape, generator=generator).to(values)
        share = torch.rand((*values.shape[:-1], 1), generator=generator).to(values)
        return eps * self.radius * share * _direction(noise)

    def step(self, delta: Tensor, gradient: Tensor, eps: float) -> Tensor:
        """Return the perturbation after a step of half a radius along a gradient, in the ball."""
        moved = delta + eps / 2 * self.radius * _direction(gradient)
        length = moved.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        inside: Tensor = moved * (eps * self.radius / length).clamp_max(1)
        return inside


@dataclass(frozen=True)
class PixelBall:
    """An L∞ ball around each pixel, within the valid range.

    Attributes:
        unit: [1, 3, 1, 1]: change of the input if a pixel changes from 0 to 1.
        low: [B, 3, S, S]: the perturbation that makes the pixel 0.
        high: [B, 3, S, S]: the perturbation that makes it 1.
    """

    unit: Tensor
    low: Tensor
    high: Tensor

    def start(self, values: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        """Return a uniform perturbation in the ball."""
        noise = 2 * torch.rand(values.shape, generator=generator).to(values) - 1
        return self._inside(eps * self.unit * noise, eps)

    def step(self, delta: Tensor, gradient: Tensor, eps: float) -> Tensor:
        """Return the perturbation after a step of ε / 4 along the sign of a gradient."""
        return self._inside(delta + eps / 4 * self.unit * gradient.sign(), eps)

    def _inside(self, delta: Tensor, eps: float) -> Tensor:
        radius = eps * self.unit
        return torch.minimum(torch.maximum(delta, -radius), radius).clamp(self.low, self.high)


@dataclass(frozen=True)
class Inputs:
    """A batch as continuous inputs that can be perturbed.

    Attributes:
        name: Name of the backbone's argument.
        values: [B, …] on its device.
        rest: Other arguments of the backbone.
        ball: Set of the allowed perturbations.
    """

    name: str
    values: Tensor
    rest: Batch
    ball: TokenBall | PixelBall

    def batch(self, delta: Tensor | None = None) -> Batch:
        """Return the batch, perturbed by `delta`."""
        values = self.values if delta is None else self.values + delta
        return {**self.rest, self.name: values}


def _direction(vectors: Tensor) -> Tensor:
    directions: Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    return directions


def open_inputs(encoder: Encoder, prepared: PreparedTexts, rows: Sequence[int]) -> Inputs:
    """Return some prepared texts or images as inputs, without cached states of lower layers.

    Raises:
        InputError: The backbone cannot be run from embeddings.
    """
    backbone, device = encoder.backbone, encoder.backbone.device
    batch = {name: item.to(device) for name, item in prepared.collate(rows).items()}
    for name in ("hidden", "middle"):
        batch.pop(name, None)
    if backbone.kind == "vision":
        values = batch.pop("pixel_values")
        std, mean = (
            torch.tensor(numbers, device=device).view(1, 3, 1, 1)
            for numbers in (backbone.tokenizer.std, backbone.tokenizer.mean)
        )
        ball = PixelBall(1 / std, -mean / std - values, (1 - mean) / std - values)
        return Inputs("pixel_values", values, batch, ball)
    table = backbone.model.get_input_embeddings()  # type: ignore[operator]
    if not isinstance(table, torch.nn.Embedding):
        raise InputError(f"{backbone.name} has no embedding table to perturb")
    ids = batch.pop("input_ids")
    with torch.no_grad():
        values = table(ids).float()
        size = table.weight.float().norm(dim=-1).mean()
    mask = batch["attention_mask"].bool()
    shared = mask & (batch["groups"] == 0) if "groups" in batch else mask
    # A decoder's question is perturbed, the options after it are not; an encoder's options each
    # contain the question.
    perturbed = shared if bool(shared.any()) else mask
    radius = size * content(backbone, ids, perturbed)[..., None]
    return Inputs("inputs_embeds", values, batch, TokenBall(radius.to(values)))


def content(backbone: Backbone, ids: Tensor, mask: Tensor) -> Tensor:
    """Return [B, T], 1 at tokens that may move.

    Padding and special tokens stay, as do template tokens except between a text and its pair: where
    those begin depends on the text.
    """
    special = torch.tensor(backbone.tokenizer.all_special_ids, device=ids.device)
    selected = mask.bool() & ~torch.isin(ids, special)
    if backbone.template is not None:
        tokenizer: Any = backbone.tokenizer
        parts = backbone.template.parts
        texts = [index for index, part in enumerate(parts) if part in (TEXT, PAIR, FILLED)]
        num_before = num_after = 0
        if texts:
            head, tail = "".join(parts[: texts[0]]), "".join(parts[texts[-1] + 1 :])
            num_before = len(tokenizer(head)["input_ids"])
            num_after = len(tokenizer(tail, add_special_tokens=False)["input_ids"])
        positions = mask.cumsum(1)
        selected &= (positions > num_before) & (positions <= mask.sum(1, keepdim=True) - num_after)
    return selected.long()


def ascend(
    losses: Callable[[Batch], Iterable[Tensor]],
    inputs: Inputs,
    *,
    eps: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return a perturbation of inputs by projected gradient ascent; see the module.

    No parameter gets a gradient.

    Args:
        losses: From a batch to the losses of one or several networks, whose sum is maximised; rows
            are independent of each other.
        inputs: The inputs to perturb.
        eps: ε.
        steps: Number of steps.
        generator: Source of randomness for the start, on the CPU.
    """
    delta = inputs.ball.start(inputs.values, eps, generator)
    for _ in range(steps):
        delta.requires_grad_()
        gradient = torch.zeros_like(delta)
        for loss in losses(inputs.batch(delta)):
            gradient += torch.autograd.grad(loss, delta)[0]
        delta = inputs.ball.step(delta.detach(), gradient, eps)
    return delta.detach()


@dataclass(frozen=True)
class Perturbed:
    """Perturbed texts or images, in place of their tokens.

    Attributes:
        tokens: The unperturbed tokens or pixels.
        name: Name of the backbone's argument.
        values: One tensor per row, without padding.
    """

    tokens: Tokens | Pixels
    name: str
    values: tuple[Tensor, ...]

    @property
    def num_truncated(self) -> int:
        """Number of texts longer than the limit."""
        return self.tokens.num_truncated

    @property
    def lengths(self) -> Any:
        """[N]: tokens of each row."""
        return self.tokens.lengths

    @property
    def num_options(self) -> int:
        """C for questions with options; 0 for texts and images."""
        return self.tokens.num_options

    def __len__(self) -> int:
        return len(self.values)

    def pad(self, rows: Sequence[int]) -> Batch:
        """Return the backbone's inputs for `rows`."""
        batch = self.tokens.pad(rows)
        batch.pop("input_ids", None)
        chosen = [self.values[row] for row in rows]
        if self.name == "inputs_embeds":
            chosen = list(torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True))
        batch[self.name] = torch.stack(chosen)
        return batch
