"""Predictions in pieces, so that memory does not grow with the number of rows.

Texts are always tokenised, run and forgotten one piece at a time (`examples.PIECE`): `predict` in
Python and on the command line give the same numbers, since the batches are the same. Every piece
has the same draws of the weights and of the link. With an output file, finished pieces are stored
on disk: a killed run resumes with the next piece and produces the same file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import torch

from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.checkpoint import FOREIGN, ModelRecord, library_versions
from bayeslora.data import examples
from bayeslora.data.columns import Reader
from bayeslora.data.examples import Examples, data_hash
from bayeslora.data.questions import question_columns
from bayeslora.engine.card import fit_options, held_out_words, method_name, method_notes
from bayeslora.engine.data import LabelledExamples, Unknown, classes_for, encode_for, most_options
from bayeslora.engine.network import Network, inputs, say_fitted_to, say_truncation, unknown_labels
from bayeslora.engine.predict import answer, num_passes, to_predictions
from bayeslora.engine.progress import Advance, progress_bar, quiet_transformers
from bayeslora.errors import InputError
from bayeslora.io import lock
from bayeslora.option_checks import as_seed, checked
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import check_draws, check_link
from bayeslora.posteriors.types import Features
from bayeslora.predictions.collection import EXAMPLE_COLUMN, QUESTION_FORMAT
from bayeslora.predictions.parts import PredictionParts, joined
from bayeslora.predictions.record import Predictions
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.data.corruptions import Corruption


class DrawOptions(TypedDict, total=False):
    """How logits become predictions.

    Attributes:
        num_samples: Number of posterior draws; by default that of the posterior, and 0 for the
            mean weights.
        link: `mc`, `probit` or `bridge`; by default the link that the posterior was tuned with.
            Refused if the posterior has no choice of link.
        seed: Seed of the draws; 0 by default.
        unknown_labels: Handling of labels that are not a class: `error` by default, or `ood` to
            keep the row unlabelled as out of distribution, with its label in an additional column
            `unknown_label`.
    """

    num_samples: int | None
    link: str | None
    seed: int
    unknown_labels: Literal["error", "ood"]


@dataclass(frozen=True)
class Drawing:
    """Checked `DrawOptions`, with the posterior's own link as the default."""

    num_samples: int | None
    link: str
    seed: int
    unknown_labels: Unknown

    @classmethod
    def of(cls, posterior: Posterior, **options: Unpack[DrawOptions]) -> Drawing:
        """Return the options for a posterior.

        Raises:
            InputError: An option is not allowed.
        """
        num_samples, link = options.get("num_samples"), options.get("link")
        if num_samples is not None:
            check_draws(posterior, num_samples)
        check_link(posterior, link)
        return cls(
            num_samples,
            link or posterior.link or "mc",
            as_seed(options.get("seed", 0)),
            checked("unknown_labels", options.get("unknown_labels", "error"), Unknown),
        )


def predict_rows(
    network: Network, rows: Examples, drawing: Drawing | None = None, *, say: bool = True
) -> Predictions:
    """Return the predictions of rows; see `BayesianClassifier.predict`.

    Args:
        network: The finished network.
        rows: Rows, labelled or not.
        drawing: Options of the prediction; None for the defaults.
        say: Whether to warn about truncated texts.
    """
    drawing = Drawing.of(network.posterior) if drawing is None else drawing
    labels = torch.from_numpy(encode_for(network.record, rows, drawing.unknown_labels))
    pieces = predict_pieces(
        network,
        zip(rows.pieces(), torch.split(labels, examples.PIECE), strict=True),
        drawing,
        total=len(rows),
        most_options=0 if rows.choices is None else most_options(rows),
        keep=True,
        say=say,
    )
    return joined(list(pieces))


def predict_pieces(
    network: Network,
    pieces: Iterable[LabelledExamples],
    drawing: Drawing,
    *,
    total: int,
    done: int = 0,
    most_options: int = 0,
    keep: bool = False,
    say: bool = True,
) -> Iterator[Predictions]:
    """Yield the predictions of each piece.

    Args:
        network: The classifier.
        pieces: Rows with their labels [N] int64, -1 where unlabelled or unknown.
        drawing: Options of the prediction.
        total: Total number of rows, for the progress bar.
        done: Number of rows predicted before.
        most_options: Largest number of options of a question in all pieces; 0 for texts.
        keep: Whether to keep the states of the frozen layers in memory for another call.
        say: Whether to warn about truncated texts.
    """
    encoder = network.encoder
    num_options = len(classes_for(network.record, most_options))
    members = len(network.members)
    passes = 1 + num_passes(network.posterior, drawing.num_samples, members)  # frozen layers: one
    cut = rows = 0
    source = ""
    with progress_bar(
        "predict", passes * total, shown=network.progress, unit="text pass", done=passes * done
    ) as advance:
        for piece, labels in pieces:
            with quiet_transformers():
                texts = encoder.prepare(**inputs(piece, num_options), advance=advance)
            prepared = replace(texts, labels=labels)
            yield predict_texts(network, piece, prepared, drawing, advance=advance)
            if not keep:
                encoder.forget(texts)
            source = piece.source
            cut += texts.tokens.num_truncated
            rows += len(piece)
    if say:
        say_truncation(source, cut, rows, encoder.max_length)


def predict_texts(
    network: Network,
    rows: Examples,
    texts: PreparedTexts,
    drawing: Drawing,
    *,
    advance: Advance,
    features: Features | None = None,
) -> Predictions:
    """Return the predictions of prepared texts.

    Args:
        network: The classifier.
        rows: N rows.
        texts: The same rows, prepared.
        drawing: Options of the prediction.
        advance: Called with the number of texts after each batch of a pass.
        features: Features of the texts, if this network has computed them already.
    """
    posterior, draws = network.posterior, drawing.num_samples
    codes = texts.labels.numpy()
    classes = classes_for(network.record, texts.num_options)
    answers = answer(
        network,
        network.members,
        posterior,
        texts,
        features=features,
        num_samples=draws,
        seed=drawing.seed,
        advance=advance,
    )
    # Reports show the images of listed rows.
    images = {EXAMPLE_COLUMN: rows.texts} if rows.images else {}
    unknown = unknown_labels(rows, codes) if drawing.unknown_labels == "ood" else {}
    return to_predictions(
        answers,
        classes,
        link=drawing.link,
        num_samples=posterior.num_samples or 0 if draws is None else draws,
        seed=drawing.seed,
        feature_scores=network.feature_scores,
        available=rows.available(len(classes)),
        notes=model_notes(network, draws),
        name=method_name(network.record, draws),
        labels=codes if (codes >= 0).any() else None,
        ids=rows.ids,
        columns={**images, **question_columns(rows), **rows.further, **unknown},
    )


def model_notes(network: Network, draws: int | None = None) -> dict[str, str]:
    """Return the metadata of predictions that describe a classifier; see `predict_texts`."""
    record = network.record
    passes = num_passes(network.posterior, draws, len(network.members))
    share = record.results.get("posterior", {}).get("prior_share")
    format = record.backbone.get("format")
    held_out = held_out_words(record.results)
    calibrated = "yes" if "calibration" in record.results else "no"
    return {
        **method_notes(record, draws),
        "passes": str(passes),
        "fit_seed": str(record.seed),
        "fit_options": fit_options(record),
        "model_fingerprint": network.fingerprint,
        **({} if format is None else {QUESTION_FORMAT: format}),
        **({} if share is None else {"prior_share": f"{share:.3f}"}),
        **({"held_out_nll": held_out} if held_out else {}),
        **({"calibrated": calibrated} if record.backbone["kind"] == FOREIGN else {}),
    }


class CheckedRows:
    """Rows to predict, read and checked once before a model is loaded.

    Attributes:
        source: Name of the rows.
        num_rows: Number of rows.
        num_labelled: Number of rows with a label that is a class.
        most_options: Largest number of options of a question; 0 for texts.
        data_hash: Hash of texts and labels, as in a model's record.
        digest: SHA-256 of ids, texts, labels and further columns of all rows.
        further: Names of the further columns.
        notes: Metadata for the predictions.
    """

    def __init__(
        self,
        record: ModelRecord,
        rows: Examples | Reader,
        unknown: Unknown,
        corruption: Corruption | None = None,
    ) -> None:
        """Read the rows once.

        Args:
            record: Record of the model.
            rows: The rows.
            unknown: How to treat a label that is not a class.
            corruption: Changes the texts before they are predicted; None to leave them.

        Raises:
            InputError: A label is not a class and `unknown` is not `ood`.
        """
        self._record, self._rows, self._unknown = record, rows, unknown
        self._corruption = corruption
        self.source = rows.source
        self.num_rows = self.num_labelled = self.most_options = 0
        self.further: tuple[str, ...] = ()
        self.notes = {} if corruption is None else corruption.notes
        digest = hashlib.sha256()
        self.data_hash = data_hash(self._counted(digest))
        self.digest = digest.hexdigest()

    def _counted(self, digest: Any) -> Iterator[Examples]:
        """Yield all rows once; count them and add them to `digest`."""
        for piece, labels in self.pieces():
            fields: list[Any] = [piece.ids, piece.texts, piece.pairs, piece.labels]
            fields += piece.further.items()
            fields += [column for column in (piece.choices, piece.history) if column is not None]
            digest.update(json.dumps(fields).encode())
            self.num_rows += len(piece)
            self.num_labelled += int((labels >= 0).sum())
            self.most_options = max(self.most_options, most_options(piece))
            self.further = tuple(piece.further)
            yield piece

    def pieces(self) -> Iterator[LabelledExamples]:
        """Yield the rows in pieces, with the index of each label; -1 if there is none."""
        for part in self._rows.pieces():
            piece = part if self._corruption is None else self._corruption.corrupted(part)
            yield piece, torch.from_numpy(encode_for(self._record, piece, self._unknown))


def predict_to_file(
    network: Network,
    rows: CheckedRows,
    drawing: Drawing,
    out: str | Path,
    *,
    overwrite: bool = False,
) -> None:
    """Write the predictions of rows to a file, resuming an interrupted run.

    Warns if the classifier was fitted to the rows. Several processes share the passes inside
    `processes.together`; only the first writes.

    Args:
        network: The classifier.
        rows: Rows to predict.
        drawing: Options of the prediction.
        out: A `.parquet`, `.csv` or `.jsonl` file.
        overwrite: Whether pieces of other interrupted predictions may be deleted.

    Raises:
        InputError: There are pieces of other predictions beside `out`, or another process is
            writing to it.
    """
    say_fitted_to(network.record, rows.data_hash, rows.source)
    world, parts = current(), PredictionParts(out)
    model = {"model": network.fingerprint, "device": str(network.feature_scale.device)}

    def claimed() -> list[int]:
        parts.claim(identity(rows, drawing) | model, overwrite=overwrite)
        return parts.missing(math.ceil(rows.num_rows / examples.PIECE))

    with world.first_holds(lambda: lock(out)):
        missing, total, size = world.first(claimed), rows.num_rows, examples.PIECE
        todo = (piece for number, piece in enumerate(rows.pieces()) if number in {*missing})
        done = total - sum(min(size, total - number * size) for number in missing)
        made = predict_pieces(
            network, todo, drawing, total=total, done=done, most_options=rows.most_options
        )
        try:
            for predictions, number in zip(made, missing, strict=True):
                notes = {**predictions.metadata, **rows.notes}
                noted = predictions.replace(metadata=notes)
                world.first(partial(parts.add, number, noted))
        except InputError:
            if not parts.num_finished():  # the same command would be refused again
                parts.remove()
            raise
        world.first(parts.finish)


def identity(rows: CheckedRows, drawing: Drawing) -> dict[str, str]:
    """Return everything that determines predictions besides the model."""
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    return {
        "data": rows.digest,
        **{name: str(value) for name, value in asdict(drawing).items()},
        "piece": str(examples.PIECE),
        "versions": versions,
    }
