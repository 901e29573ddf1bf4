"""Scores of a fitted classifier on adversarially perturbed inputs.

The attack follows the gradient of the last layer's data loss at the mean weights, summed over the
networks of an ensemble. Predictions use all draws of the posterior, so for a posterior that draws
weights the attack targets their mean, and stronger attacks may exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.perturbation import Inputs, Perturbed, ascend, open_inputs
from bayeslora.backbones.tokens import Batch
from bayeslora.data.examples import Examples
from bayeslora.engine.data import classes_for, encode_for, most_options
from bayeslora.engine.fitted.card import method_name
from bayeslora.engine.fitted.pieces import Drawing, predict_texts
from bayeslora.engine.network import Network
from bayeslora.engine.progress import Advance, progress_bar, quiet_transformers
from bayeslora.engine.rows import inputs
from bayeslora.errors import InputError
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.robustness import KEYS, Attack, Robustness, RobustnessPoint
from bayeslora.predictions.files import UNCERTAINTIES
from bayeslora.predictions.parts import joined
from bayeslora.predictions.record import Predictions

_PIECE = 32
"""Rows attacked together."""


def robustness(network: Network, rows: Examples, attack: Attack) -> Robustness:
    """Return the scores of rows by radius of the perturbation.

    Args:
        network: The classifier.
        rows: Labelled rows.
        attack: Options of the attack.

    Raises:
        InputError: A row has no label, or the classifier is from another library.
    """
    by_eps = attacked(network, rows, attack)
    points = []
    for eps, predictions in by_eps.items():
        scores = evaluate(predictions)
        points.append(RobustnessPoint(eps, {key: scores[key] for key in KEYS}))
    return Robustness(
        method_name(network.record),
        space_of(network),
        attack.steps,
        attack.restarts,
        len(rows),
        tuple(points),
    )


def space_of(network: Network) -> str:
    """Return the perturbed space: `embeddings` or `pixels`."""
    return "pixels" if network.encoder.backbone.kind == "vision" else "embeddings"


def attacked(network: Network, rows: Examples, attack: Attack) -> dict[float, Predictions]:
    """Return the predictions of perturbed rows by radius, starting at 0.

    With several restarts, each row has the answer that gives its label the lowest probability.

    Args:
        network: The classifier.
        rows: Labelled rows.
        attack: Options of the attack.

    Raises:
        InputError: See `robustness`.
    """
    encoder = network.encoder
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{method_name(network.record)} was fitted by another library, so its inputs cannot be "
            "perturbed; attacks need a classifier that was fitted here"
        )
    labels = torch.from_numpy(encode_for(network.record, rows))
    missing = np.flatnonzero(labels.numpy() < 0)
    if len(missing):
        raise InputError(
            f"{rows.source}, row {rows.rows[missing[0]]}: the label is missing, and an attack "
            "needs it"
        )
    radii = (0.0, *attack.radii(space_of(network)))
    num_options = len(classes_for(network.record, most_options(rows)))
    by_eps: dict[float, list[Predictions]] = {eps: [] for eps in radii}
    passes = 1 + (len(radii) - 1) * attack.restarts
    network.eval()
    total = passes * len(rows)
    with (
        progress_bar("attack", total, shown=network.progress, unit="row") as advance,
        quiet_transformers(),
    ):
        for start in range(0, len(rows), _PIECE):
            indices = range(start, min(start + _PIECE, len(rows)))
            piece_labels = labels[indices.start : indices.stop]
            piece = _Piece(network, rows.take(indices), piece_labels, start, num_options)
            for eps in radii:
                by_eps[eps].append(piece.worst(attack, eps, advance))
    return {eps: joined(parts) for eps, parts in by_eps.items()}


class _Piece:
    """A batch of rows under attack."""

    def __init__(
        self, network: Network, rows: Examples, labels: Tensor, start: int, num_options: int
    ) -> None:
        self.network, self.rows, self.labels, self.start = network, rows, labels, start
        encoder = network.encoder
        texts = encoder.prepare(**inputs(rows, num_options))
        encoder.forget(texts)
        # The lower layers see perturbed inputs too.
        self.texts = encoder.with_contexts(replace(texts, prefix=None), rows)

    def worst(self, attack: Attack, eps: float, advance: Advance) -> Predictions:
        """Return the predictions of the worst restart of each row."""
        if not eps:
            advance(len(self.rows))
            return self._predictions(self.texts)
        answers = []
        for restart in range(attack.restarts):
            key = [attack.seed, self.start, restart]
            seed = int(np.random.default_rng(key).integers(1 << 62))
            answers.append(self._predictions(self._perturbed(attack, eps, seed)))
            advance(len(self.rows))
        return _worst_of(answers, self.labels.numpy())

    def _perturbed(self, attack: Attack, eps: float, seed: int) -> PreparedTexts:
        encoder = self.network.encoder
        if not isinstance(encoder, Encoder):
            raise TypeError("only inputs of an Encoder can be perturbed")
        generator = torch.Generator().manual_seed(seed)
        clean = open_inputs(encoder, self.texts, range(len(self.rows)))
        delta = ascend(self._losses, clean, eps=eps, steps=attack.steps, generator=generator)
        tokens: Any = _as_tokens(self.texts, clean, delta)
        # A gate's context is recomputed from the perturbed inputs, but has no gradient.
        return encoder.with_contexts(replace(self.texts, tokens=tokens), self.rows)

    def _losses(self, batch: Batch) -> Iterator[Tensor]:
        network, members = self.network, self.network.members
        labels = self.labels.to(network.feature_scale.device)
        try:
            for state in members:
                if len(members) > 1:
                    network.load_trained_state(state)
                yield network.head.data_loss(replace(network(batch), labels=labels))
        finally:
            if len(members) > 1:
                network.load_trained_state(members[0])

    def _predictions(self, texts: PreparedTexts) -> Predictions:
        prepared = replace(texts, labels=self.labels)
        drawing = Drawing.of(self.network.posterior)
        return predict_texts(self.network, self.rows, prepared, drawing, advance=lambda _: None)


def _as_tokens(texts: PreparedTexts, clean: Inputs, delta: Tensor) -> Perturbed:
    values = (clean.values + delta).cpu()
    lengths = texts.tokens.lengths.tolist()
    if clean.name == "pixel_values":
        rows = tuple(values)
    else:
        rows = tuple(row[:length] for row, length in zip(values, lengths, strict=True))
    return Perturbed(texts.tokens, clean.name, rows)


def _worst_of(answers: Sequence[Predictions], labels: NDArray[np.int64]) -> Predictions:
    """Return, for each row, the answer that gives its label [N] the lowest probability."""
    rows = np.arange(len(labels))
    label_probs = np.stack([answer.probs[rows, labels] for answer in answers])
    worst = label_probs.argmin(0)

    def chosen(values: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
        picked: NDArray[np.float64] = np.stack([*values])[worst, rows]
        return picked

    first = answers[0]
    return first.replace(
        probs=chosen(answer.probs for answer in answers),
        scores={name: chosen(answer.scores[name] for answer in answers) for name in first.scores},
        **{
            name: chosen(getattr(answer, name) for answer in answers)
            for name in UNCERTAINTIES
            if getattr(first, name) is not None
        },
    )
