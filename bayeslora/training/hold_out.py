"""A part of the one labelled file as validation rows, and a fit to all rows with what it chose."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.scores import nll
from bayeslora.tasks.splits import stratified_split
from bayeslora.training.choices import LabelledExamples, TrainingData
from bayeslora.training.cross_validation import numbered
from bayeslora.training.final_fit import drawing_of
from bayeslora.training.fit import FitResult
from bayeslora.training.network import Network
from bayeslora.training.predict import answer
from bayeslora.training.rows import prepare


@dataclass(frozen=True)
class HeldOut:
    """What held-out rows chose for the fit to all rows.

    Attributes:
        num_rows: How many they are.
        epochs: The epoch of each network that was kept, counted from 1; 0 without an adapter.
        logit_scale: The factor of all logits.
        nll: Of the held-out rows under the fit without them, in nats a row.
        accuracy: The same.
    """

    num_rows: int
    epochs: tuple[int, ...]
    logit_scale: float
    nll: float
    accuracy: float


def split_off(data: TrainingData, share: float, seed: int) -> TrainingData:
    """Return data whose validation rows are a share of its training rows, classes in proportion.

    A text that the remaining rows have as well stays with them.

    Raises:
        InputError: A part would not have every class, or no text is in one row alone.
    """
    examples, labels = data.train
    kept, held = stratified_split(labels.numpy(), share, seed)
    text = numbered(examples)
    seen = np.isin(text[held], text[kept])
    kept, held = np.sort(np.concatenate([kept, held[seen]])), held[~seen]
    if not len(held):
        raise InputError("hold_out: every text to hold out repeats in other rows; use cv=0 instead")
    train, validation = ((examples.take(rows), labels[rows]) for rows in (kept, held))
    return dataclasses.replace(data, train=train, validation=validation)


def as_chosen(posterior: Posterior, results: Sequence[FitResult]) -> Posterior:
    """Return the posterior's options with what the first of its networks chose by held-out rows."""
    return posterior.as_chosen(results[0].posterior)


def what_was_chosen(
    fitted: tuple[Network, Sequence[Mapping[str, Tensor]], Sequence[FitResult]],
    posterior: Posterior,
    held: LabelledExamples,
) -> HeldOut:
    """Return what a fit to all rows keeps of one that had rows held out.

    Args:
        fitted: What `fit_members` returned.
        posterior: What was fitted.
        held: The rows that were held out.
    """
    network, members, results = fitted
    texts = prepare(network.encoder, held, progress=False, say=False).texts
    drawing = drawing_of(posterior)
    found = [
        link_probabilities(one.logits, **drawing).probs.cpu()
        for one in answer(network, members, posterior, texts)
    ]
    probs, labels = torch.cat(found), held[1]
    return HeldOut(
        num_rows=len(labels),
        epochs=tuple(one.best_epoch for one in results),
        logit_scale=float(results[0].posterior.get("logit_scale", 1.0)),
        nll=nll(probs, labels),
        accuracy=float((probs.argmax(1) == labels).double().mean()),
    )
