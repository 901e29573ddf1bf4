"""More labelled rows for a finished model, without training: the posterior becomes the prior.

The last layer's posterior N(μ, S) after the first rows is the prior N(μ, S/κ) of the next. A full
fit would also move the adapter; the old rows are not needed, and may be gone.

κ, how much the old rows count, and the scale of the logits are chosen by cross-fitting: each fifth
of the new rows is predicted by an update without it. κ = ∞, which changes nothing but the scale, is
one of the candidates, and so is the model as it is.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayeslora.data.examples import data_hash, input_hashes
from bayeslora.data.splits import folds_of
from bayeslora.engine.calibrate import known
from bayeslora.engine.card import method_name
from bayeslora.engine.cross_validation import held_out_predictions
from bayeslora.engine.data import classes_for, columns_of, encode_for, read_labelled
from bayeslora.engine.final_fit import scale_logits
from bayeslora.engine.network import Network
from bayeslora.engine.pieces import model_notes
from bayeslora.engine.training_options import columns_in
from bayeslora.errors import InputError
from bayeslora.links import best_scale
from bayeslora.logits import AnyLogits
from bayeslora.metrics.rowwise import row_scores
from bayeslora.posteriors.types import Features, LastLayer
from bayeslora.predictions.files import HELD_OUT_ROWS
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, math.inf)
"""Candidates of κ."""

FEWEST_ROWS, _FOLDS = 20, 5


@dataclass(frozen=True)
class CrossFitted:
    """Predictions of new rows by updates that did not see them.

    Attributes:
        strength: κ.
        factor: Scale of the logits with the lowest NLL.
        nll: Its NLL, nats per row.
        unscaled: NLL without it.
        answers: Logits and labels by part.
    """

    strength: float
    factor: float
    nll: float
    unscaled: float
    answers: list[tuple[AnyLogits, Tensor]]

    @classmethod
    def of(
        cls, head: LastLayer, rows: Features, fold: Tensor, strength: float, drawing: Any
    ) -> CrossFitted:
        """Update a copy of the last layer without each part in turn."""
        answers: list[tuple[AnyLogits, Tensor]] = []
        for part in range(_FOLDS):
            unseen = rows.take(fold == part)
            updated = _updated(head, rows.take(fold != part), strength)
            answers.append((updated.predict(unseen), unseen.targets))
        factor, unscaled, nll = best_scale(answers, means_alone=head.scales_mean, **drawing)
        return cls(strength, factor, nll, unscaled, answers)


def update(network: Network, more: Any, *, names: Mapping[str, Any]) -> Network:
    """Return a model whose last layer also learned from more rows; see `BayesianClassifier.update`.

    Args:
        network: The finished network; unchanged.
        more: Labelled rows that it was not fitted to.
        names: `ColumnNames` that differ from those of the fit.

    Raises:
        InputError: The rows are not allowed, or the posterior takes no more rows.
    """
    record, head = network.record, network.head
    if not head.takes_more or len(network.members) != 1:
        raise InputError(
            f"posterior {network.posterior.name!r} of this model takes no more rows; fit to all",
            code="no-update",
        )
    examples = read_labelled(more, columns_of(record).renamed(**columns_in(names)), record)
    new, old = input_hashes(examples), set((record.data.get("inputs") or "").split())
    if len({*new}) < FEWEST_ROWS:
        raise InputError(
            f"{examples.source}: {len({*new})} different rows; update needs {FEWEST_ROWS}"
        )
    if known_rows := sum(row in old for row in new):
        raise InputError(
            f"{examples.source}: the model was fitted to {known_rows} of these {len(new)} rows; "
            "pass new ones"
        )
    labels = encode_for(record, examples)
    fold = folds_of(examples, labels, _FOLDS, record.seed)
    *_, rows = known(network, examples)
    rows = rows.double()
    parts = torch.from_numpy(fold).to(rows.values.device)
    drawing = network.posterior.drawing
    tried = [CrossFitted.of(head, rows, parts, strength, drawing) for strength in STRENGTHS]
    unchanged = replace(tried[-1], factor=1.0, nll=tried[-1].unscaled)
    best = min(unchanged, *tried, key=lambda each: each.nll)
    updated = Network(network.encoder, network.sites, _updated(head, rows, best.strength))
    updated.weights = network.weights
    updated.feature_scores = copy.deepcopy(network.feature_scores)
    updated.to(network.feature_scale.device)
    updated.feature_scale.copy_(network.feature_scale)
    scale_logits(updated, best.factor)
    unseen = held_out_predictions(
        best.answers,
        [np.flatnonzero(fold == part) for part in range(_FOLDS)],
        examples,
        network.plan,
        classes_for(record, 0),
        factor=best.factor,
        means_alone=head.scales_mean,
    )
    result = {
        "rows": len(examples),
        "strength": None if math.isinf(best.strength) else best.strength,
        "logit_scale": best.factor,
        "nll_before": unchanged.nll,
        "nll": best.nll,
        "advice": _advice(network.held_out, unseen),
    }
    changed = replace(
        record,
        num_train=record.num_train + len(examples),
        data={
            **record.data,
            "inputs": " ".join(sorted(old.union(new))),
            "update": data_hash(examples),
        },
        results={**record.results, "update": result},
    )
    updated.finished(changed, progress=network.progress)
    notes = {**unseen.metadata, **model_notes(updated)}
    notes[HELD_OUT_ROWS] = f"{len(examples)} of {changed.num_train}"
    updated.held_out = unseen.replace(name=method_name(changed), metadata=notes)
    return updated


def _updated(head: LastLayer, rows: Features, strength: float) -> LastLayer:
    """Return an updated copy of a last layer; with an infinite strength, a plain copy."""
    updated = copy.deepcopy(head)
    if math.isfinite(strength):
        updated.update(rows, strength)
    return updated


def _advice(before: Predictions | None, after: Predictions) -> str:
    """Return why a full fit would be better; empty if nothing speaks for it.

    New rows that stay harder than those of before, by more than two standard errors, ask for
    something that the features do not hold.

    Args:
        before: Predictions of held-out rows that the network keeps, if it does.
        after: Predictions of the new rows, each by an update without it.
    """
    if before is None:
        return ""
    losses = [row_scores(predictions).nll for predictions in (before, after)]
    first, mean = (loss.mean() for loss in losses)
    if mean - first <= 2 * math.sqrt(sum(loss.var(ddof=1) / len(loss) for loss in losses)):
        return ""
    advice = (
        f"the NLL of the new rows stays at {mean:.3f} nats, above the {first:.3f} of the rows held "
        "out before; fit to all rows"
    )
    logger.warning("%s", advice)
    return advice
