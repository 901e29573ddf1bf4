"""Predictions of adversarially perturbed inputs: embeddings of texts, or pixels of images.

    python -m bayeslora.contrib.attacks MODEL DATA --out DIR [--eps 0.05 0.1] [--steps 10]
    bayeslora report test.parquet --shifted DIR/*.parquet --out my-report

The attack is projected gradient ascent on the last layer's data loss at the mean weights, summed
over the networks of an ensemble; see `contrib.perturbation`. Predictions use all draws of the
posterior, so for a posterior that draws weights the attack targets their mean, and stronger attacks
may exist. A perturbed embedding need not correspond to any text: this is robustness in embedding
space, not against attacks with words.

Source: Madry et al. 2018, arXiv 1706.06083.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.backbones.encoder import Encoder, PreparedTexts
from bayeslora.backbones.tokens import Batch
from bayeslora.classifier import BayesianClassifier
from bayeslora.contrib.perturbation import Perturbed, ascend, open_inputs
from bayeslora.data.examples import Examples
from bayeslora.engine.card import method_name
from bayeslora.engine.data import classes_for, columns_of, encode_for, most_options, read_for
from bayeslora.engine.network import Network, inputs
from bayeslora.engine.pieces import Drawing, predict_texts
from bayeslora.engine.progress import progress_bar, quiet_transformers
from bayeslora.errors import InputError
from bayeslora.predictions.files import UNCERTAINTIES
from bayeslora.predictions.parts import joined
from bayeslora.predictions.record import Predictions

_PIECE = 32
"""Rows attacked together."""
_TEXTS, _IMAGES = (0.05, 0.1, 0.2), (1 / 255, 2 / 255, 4 / 255, 8 / 255)
_STEPS, _RESTARTS = 10, 2


def attacked(
    clf: BayesianClassifier,
    data: Any,
    eps: Sequence[float] | None = None,
    *,
    steps: int = _STEPS,
    restarts: int = _RESTARTS,
    seed: int = 0,
) -> dict[float, Predictions]:
    """Return the predictions of perturbed rows by radius, ascending.

    With several restarts, each row has the answer that gives its label the lowest probability. The
    metadata name the perturbed space as `corruption` and the radius as `severity`, so that a report
    shows calibration against the radius (`report(..., shifted=...)`).

    Args:
        clf: A classifier that was fitted here.
        data: Labelled data, as for `clf.predict`.
        eps: Radii > 0: for texts shares of the mean norm of an embedding, in L2 per token; for
            images shares of the pixel range, in L∞. None means 0.05, 0.1 and 0.2 for texts, and 1,
            2, 4 and 8 of 255 for images.
        steps: Number of gradient steps.
        restarts: Number of random starts; the worst one counts for each row.
        seed: Seed of the random starts.

    Raises:
        InputError: A row has no label, or the classifier is from another library.
    """
    network = clf.network
    encoder = network.encoder
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"{method_name(network.record)} was fitted by another library, so its inputs cannot be "
            "perturbed; attacks need a classifier that was fitted here"
        )
    rows = read_for(network.record, data, columns_of(network.record))
    labels = torch.from_numpy(encode_for(network.record, rows))
    missing = np.flatnonzero(labels.numpy() < 0)
    if len(missing):
        raise InputError(
            f"{rows.source}, row {rows.rows[missing[0]]}: the label is missing, and an attack "
            "needs it"
        )
    images = encoder.backbone.kind == "vision"
    radii = sorted(eps or (_IMAGES if images else _TEXTS))
    by_eps: dict[float, list[Predictions]] = {radius: [] for radius in radii}
    num_options = len(classes_for(network.record, most_options(rows)))
    network.eval()
    total = len(by_eps) * restarts * len(rows)
    with (
        progress_bar("attack", total, shown=network.progress, unit="row") as advance,
        quiet_transformers(),
    ):
        for start in range(0, len(rows), _PIECE):
            indices = range(start, min(start + _PIECE, len(rows)))
            piece_labels = labels[indices.start : indices.stop]
            piece = _Piece(network, rows.take(indices), piece_labels, num_options)
            for radius, parts in by_eps.items():
                answers = []
                for restart in range(restarts):
                    key = np.random.default_rng([seed, start, restart])
                    drawn = int(key.integers(1 << 62))
                    answers.append(piece.predictions(piece.perturbed(radius, steps, drawn)))
                    advance(len(piece_labels))
                parts.append(_worst_of(answers, piece_labels.numpy()))
    space = "attack on pixels" if images else "attack on embeddings"
    result = {}
    for radius, parts in by_eps.items():
        whole, notes = joined(parts), {"corruption": space, "severity": f"{radius:.6g}"}
        result[radius] = whole.replace(metadata={**whole.metadata, **notes})
    return result


class _Piece:
    """A batch of rows under attack."""

    def __init__(self, network: Network, rows: Examples, labels: Tensor, num_options: int) -> None:
        self.network, self.rows, self.labels = network, rows, labels
        encoder = network.encoder
        texts = encoder.prepare(**inputs(rows, num_options))
        encoder.forget(texts)
        # The lower layers see perturbed inputs too.
        self.texts = encoder.with_columns(replace(texts, prefix=None), rows)

    def perturbed(self, eps: float, steps: int, seed: int) -> PreparedTexts:
        """Return the texts or images at the end of one ascent."""
        encoder = cast("Encoder", self.network.encoder)
        generator = torch.Generator().manual_seed(seed)
        clean = open_inputs(encoder, self.texts, range(len(self.rows)))
        delta = ascend(self._losses, clean, eps=eps, steps=steps, generator=generator)
        values = (clean.values + delta).cpu()
        rows = tuple(values)
        if clean.name != "pixel_values":
            lengths = self.texts.tokens.lengths.tolist()
            rows = tuple(row[:length] for row, length in zip(values, lengths, strict=True))
        tokens: Any = Perturbed(self.texts.tokens, clean.name, rows)
        # A gate's context is recomputed from the perturbed inputs, but has no gradient.
        return encoder.with_columns(replace(self.texts, tokens=tokens), self.rows)

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

    def predictions(self, texts: PreparedTexts) -> Predictions:
        """Return the predictions of perturbed texts or images."""
        prepared = replace(texts, labels=self.labels)
        drawing = Drawing.of(self.network.posterior)
        return predict_texts(self.network, self.rows, prepared, drawing, advance=lambda _: None)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Attack a saved classifier and write a Parquet file of predictions for each radius."""
    parser = argparse.ArgumentParser(prog="python -m bayeslora.contrib.attacks")
    parser.add_argument("model", metavar="MODEL", help="directory of a fitted classifier")
    parser.add_argument("data", metavar="DATA", help="file with labelled rows")
    parser.add_argument("--out", metavar="DIR", required=True, help="directory of the predictions")
    parser.add_argument(
        "--eps", type=float, nargs="+", help="shares of an embedding's norm, or of the pixel range"
    )
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--restarts", type=int, default=_RESTARTS)
    args = parser.parse_args(argv)
    out = Path(args.out)
    try:
        clf = BayesianClassifier.from_pretrained(args.model)
        options = {"steps": args.steps, "restarts": args.restarts}
        for radius, predictions in attacked(clf, args.data, args.eps, **options).items():
            out.mkdir(parents=True, exist_ok=True)
            predictions.save(out / f"attack-{radius:.4g}.parquet")
    except (InputError, OSError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
