"""Class prototypes as means of features: cosine logits, leave-one-out, weights of members.

    c_n = mean of φ over class n ,   logit_n(q) = κ cos(φ(q), c_n)

Source: Snell, Swersky and Zemel 2017, arXiv 1703.05175; the cosine and the scores of members: Yang,
Liu and Wei 2024, NeurIPS 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


def prototypes(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the mean features [C, d] of each class, given features [N, d]; no class is empty."""
    members = one_hot(labels, num_classes).to(features)
    return members.T @ features / members.sum(0)[:, None]


def cosine_logits(features: Tensor, centres: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Return κ cos(φ, c) [N, C] for features [N, d] and prototypes [C, d]."""
    return scale * normalize(features, dim=-1) @ normalize(centres, dim=-1).T


def held_out_cosines(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return cosines [N, C], with each row left out of the prototype of its own class."""
    counts = torch.bincount(labels, minlength=num_classes)
    centres = prototypes(features, labels, num_classes)
    cosines = cosine_logits(features, centres)
    sizes = counts[labels][:, None].to(features)
    without = (sizes * centres[labels] - features) / (sizes - 1)
    alone = (normalize(features, dim=-1) * normalize(without, dim=-1)).sum(-1)
    return cosines.scatter(1, labels[:, None], alone[:, None])


def separation(cosines: Tensor, labels: Tensor, gamma: float) -> float:
    """Return γ·intra − (1 − γ)·inter, class means of cosines [N, C] to own and other prototypes."""
    classes = cosines.shape[1]
    within = cosines.gather(1, labels[:, None])[:, 0]
    between = (cosines.sum(1) - within) / (classes - 1)
    members = one_hot(labels, classes).to(cosines)
    per_class = members.T @ torch.stack([within, between], 1) / members.sum(0)[:, None]
    intra, inter = per_class.mean(0).tolist()
    return float(gamma * intra - (1 - gamma) * inter)


def top_weights(scores: Tensor, top: int, beta: float) -> Tensor:
    """Return the softmax of β times the `top` largest of P scores, and 0 for the others."""
    chosen = scores.argsort(descending=True, stable=True)[:top]
    weights = torch.zeros_like(scores)
    weights[chosen] = (beta * scores[chosen]).softmax(0)
    return weights
