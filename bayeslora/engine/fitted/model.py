"""The fitted model behind the public classifier."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayeslora import options
from bayeslora.adapters.registry import stored_adapter
from bayeslora.adapters.spectrum import SiteSpectrum, full_spectrum, spectrum
from bayeslora.backbones.final_layer import FinalLayerEncoder
from bayeslora.checkpoint import ADAPTED, ModelFiles, ModelRecord
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import Examples, data_hash, dropped_by_split
from bayeslora.data.union import TASK
from bayeslora.engine import rows as engine_rows
from bayeslora.engine.build import check_episodes, check_last_layer, last_layer
from bayeslora.engine.data import (
    classes_for,
    columns_of,
    encode_for,
    format_of,
    most_options,
)
from bayeslora.engine.fitted.card import (
    answering,
    fit_options,
    held_out_words,
    learnt_from,
    method_name,
    method_notes,
)
from bayeslora.engine.fitted.pieces import Drawing, predict_pieces, predict_texts
from bayeslora.engine.fitted.side_by_side import SideBySide
from bayeslora.engine.formats import LETTER_MASS, rows_to_fit
from bayeslora.engine.network import Network
from bayeslora.engine.predict import num_passes
from bayeslora.engine.progress import progress_bar, quiet_transformers
from bayeslora.engine.rows import KnownRows, LabelledTexts, feature_rows, prepare
from bayeslora.engine.training.final_fit import LastFit, final_fit, fit_last_layer
from bayeslora.errors import InputError
from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.rowwise import row_scores
from bayeslora.metrics.scores import Scores, without_nan
from bayeslora.option_checks import is_whole
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import (
    OWN_SOFTMAX,
    build_weights,
    check_factors,
    provider,
    stored_posterior,
)
from bayeslora.predictions.names import QUESTION_FORMAT
from bayeslora.predictions.parts import joined
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)

# Zero mistakes on 59 rows mean an accuracy above 0.95 at 95 % confidence: 0.95 ** 59 < 0.05.
_TELLING_ROWS = 59
# Loss by the posterior's spread, in nats, before a warning, and its certainty.
_WORSE, _STANDARD_ERRORS, _FEWEST_ROWS = 0.05, 2, 20
_RECORDED_SCORES = ("accuracy", "nll", "ece")


Members = list[dict[str, Tensor]]


def member_prefix(number: int, count: int) -> str:
    """Return the prefix of the tensors of a member, counted from 0, in a model directory."""
    return f"member-{number}." if count > 1 else ""


@dataclass(frozen=True)
class FittedModel:
    """Trained networks and their record.

    Attributes:
        record: Configuration and results.
        network: Network with the first member's tensors.
        members: Trained tensors of each member, whose predictions are averaged; usually one.
        progress: Whether to show progress bars on stderr.
        validation_scores: Scores of the validation rows before and after the last calibration.
        side_by_side: Comparison of posteriors in the last calibration.
    """

    record: ModelRecord
    network: Network
    members: Members
    progress: bool = True
    validation_scores: tuple[Scores, Scores] | None = None
    side_by_side: SideBySide | None = None

    @property
    def posterior(self) -> Posterior:
        """The posterior's options."""
        config: Posterior = stored_posterior(self.record.posterior)
        return config

    @property
    def name(self) -> str:
        """Name in tables, such as `polar-vbll`."""
        return method_name(self.record)

    @property
    def columns(self) -> DataColumns:
        """The data columns that the classifier was fitted on."""
        return columns_of(self.record)

    def files(self) -> ModelFiles:
        """Return the content of the model directory."""
        files = ModelFiles(self.record, adapter={}, posterior={})
        for number, tensors in enumerate(self.members):
            prefix = member_prefix(number, len(self.members))
            for name, tensor in tensors.items():
                part = files.adapter if name.startswith("adapter.") else files.posterior
                part[prefix + name] = tensor.contiguous()
        return files

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all tensors and the backbone; takes a second for large last layers."""
        return self.files().fingerprint

    def prepare(self, rows: Examples) -> LabelledTexts:
        """Return rows prepared for the networks; warn about truncated texts."""
        labels = torch.from_numpy(encode_for(self.record, rows))
        room = len(classes_for(self.record, most_options(rows)))
        with quiet_transformers():
            return prepare(
                self.network.encoder, (rows, labels), progress=self.progress, num_options=room
            )

    def predict(
        self, rows: Examples, drawing: Drawing | None = None, *, say: bool = True
    ) -> Predictions:
        """Return the predictions of rows; see `BayesianClassifier.predict`.

        Args:
            rows: Rows, labelled or not.
            drawing: Options of the prediction; None for the defaults.
            say: Whether to warn about truncated texts.
        """
        drawing = Drawing.of(self.posterior) if drawing is None else drawing
        labels = torch.from_numpy(encode_for(self.record, rows, drawing.unknown))
        size = engine_rows.PIECE
        starts = range(0, len(rows), size)
        predictions = predict_pieces(
            self,
            ((rows.take(range(len(rows))[k : k + size]), labels[k : k + size]) for k in starts),
            drawing,
            total=len(rows),
            most_options=0 if rows.choices is None else most_options(rows),
            keep=True,
            say=say,
        )
        return joined(list(predictions))

    def notes(self, passes: int, num_samples: int | None = None) -> dict[str, str]:
        """Return the metadata of predictions that describe this classifier.

        Args:
            passes: Number of passes through the adapted layers.
            num_samples: Number of draws; None for the posterior's own number.
        """
        adapter = self.record.adapter
        posterior = answering(self.record, num_samples)
        share = self.record.results.get("posterior", {}).get("prior_share")
        format = self.record.backbone.get("format")
        held_out = held_out_words(self.record.results)
        return {
            **method_notes(None if adapter is None else adapter["name"], posterior, passes),
            "fit_seed": str(self.record.seed),
            "fit_options": fit_options(self.record),
            "model_fingerprint": self.fingerprint,
            **({} if format is None else {QUESTION_FORMAT: format}),
            **({} if share is None else {"prior_share": f"{share:.3f}"}),
            **({"held_out_nll": held_out} if held_out else {}),
        }

    def spectra(self) -> list[list[SiteSpectrum]]:
        """Return the spectrum of every adapter site, or trained matrix, by member.

        Raises:
            InputError: The network was not adapted here.
        """
        if not self.network.is_adapted:
            raise InputError(
                f"{self.name} has no bayeslora adapter, so none of its weights were changed"
            )
        spectra = []
        try:
            for member in self.members:
                self.network.load_trained_state(member)
                full = self.network.full
                sites = [spectrum(site) for site in self.network.sites]
                spectra.append(sites if full is None else full_spectrum(full))
        finally:
            self.network.load_trained_state(self.members[0])
        return spectra

    @contextmanager
    def one_member(self, number: int | None = None) -> Iterator[FittedModel]:
        """Yield the model of one member, whose tensors are loaded within the context.

        Args:
            number: Number of the member, from 1; None for a single network.

        Raises:
            InputError: There are several members and `number` is None, or there is no such member.
        """
        if isinstance(self.network.encoder, FinalLayerEncoder) and self.network.is_adapted:
            raise InputError(
                f"{self.name} uses the adapters of a PEFT checkpoint, which needs no export: "
                f"{self.record.backbone['name']}; only adapters that were fitted here can be "
                "exported"
            )
        count = len(self.members)
        if number is None and count > 1:
            raise InputError(
                f"{self.name} has {count} networks; choose one: member=1 to {count} (--member)",
                code="several-networks",
            )
        if number is not None and count == 1 and not self.posterior.has_members:
            raise InputError(
                f"{self.name} is not an ensemble, so it has no members to choose from; leave "
                f"member={number} (--member) out"
            )
        number = 1 if number is None else number
        if not is_whole(number) or not 1 <= number <= count:
            raise InputError(f"member must be a whole number from 1 to {count}, got {number!r}")
        chosen = self.members[number - 1]
        try:
            self.network.load_trained_state(chosen)
            yield replace(self, members=[chosen])
        finally:
            self.network.load_trained_state(self.members[0])

    def check_takes(self, config: Posterior) -> None:
        """Raise InputError if a posterior cannot be fitted to the network.

        Raises:
            InputError: `config` cannot be fitted to this network, or there is no single last layer.
        """
        sites = self.network.sites
        check_last_layer(
            config,
            adapted=self.network.is_adapted,
            with_sites=bool(sites),
            # Gates that belong to the adapter stay with it.
            gated_by=self.posterior.name
            if self.network.conditioning is None and any(site.is_gated for site in sites)
            else "",
        )
        if self.record.adapter is not None and self.record.backbone["kind"] == ADAPTED:
            check_episodes(stored_adapter(self.record.adapter), config)
        check_factors(config, low_rank=all(site.has_factors for site in sites))
        if len(self.members) != 1:
            raise InputError(
                "an ensemble has no single last layer to calibrate", code="several-networks"
            )

    def _prior_mean(self) -> Tensor | None:
        """Return the centre of a posterior's prior: the language model's answer, or None."""
        head, record = self.network.head, self.record
        if record.adapter is not None and not record.num_train:  # before the first label
            return head.mean_weight
        return head.prior_centre()

    def with_posterior(self, config: Posterior) -> FittedModel:
        """Return the same network with an unfitted posterior that starts from the current mean.

        Args:
            config: Options of a posterior that the network takes; see `check_takes`.
        """
        head = last_layer(
            config,
            config.start_from(self.network.head),
            self.record.seed,
            shared=format_of(self.record) == "options",
        )
        centre = self._prior_mean()
        if centre is not None:
            head.set_prior_mean(centre, start=False)
        network = Network(self.network.encoder, self.network.sites, head, self.network.full)
        network.weights = build_weights(config, network, self.record.seed)
        network.to(self.network.feature_scale.device)
        network.feature_scale.copy_(self.network.feature_scale)
        record = replace(
            self.record,
            posterior=options.as_mapping(config),
            data={"before": fit_options(self.record)},
            versions=self.record.versions | provider(config),
        )
        return replace(self, record=record, network=network.eval())

    def calibrated(
        self,
        train: KnownRows,
        validation: KnownRows | None,
        columns: DataColumns,
        feature_scores: Sequence[str] | None = (),
    ) -> FittedModel:
        """Return the same network with the posterior fitted to other rows; see `check_takes`.

        Args:
            train: Labelled rows, from `known`.
            validation: Held-out rows, from `known`, or None.
            columns: Columns that the data was read from.
            feature_scores: Names of scores to fit as well; None for the default ones.

        Raises:
            InputError: The data is not allowed.
        """
        network, rows = self.network, train.rows
        config = self.posterior
        held_out = None if validation is None else validation.rows
        last = LastFit(config, feature_scores, seed=self.record.seed, progress=self.progress)
        fit = final_fit(network, last, rows.source, None if held_out is None else held_out.source)
        if config.before_last_layer(fit):
            rows = feature_rows(network, rows.source)
        accuracy = _accuracy(network, rows.features, train.examples.source)
        chosen = fit_last_layer(network, last, rows, held_out)
        record = refitted_record(
            self.record,
            network,
            train.examples,
            None if validation is None else validation.examples,
            columns=columns,
            # Drop the fit's validation results, which were measured under another posterior.
            results={
                "posterior": chosen,
                "calibration": {
                    "rows": len(train.examples),
                    "accuracy": accuracy,
                    "validation_rows": 0 if validation is None else len(validation.examples),
                    "fitted_to": learnt_from(config, has_validation=validation is not None),
                },
            },
        )
        members = [network.trained_state()]
        return replace(
            self, record=record, members=members, validation_scores=None, side_by_side=None
        )

    def known(self, rows: Examples, *, to_fit: bool = False) -> KnownRows:
        """Return labelled rows with their features, which no posterior of the last layer changes.

        Args:
            rows: Labelled rows.
            to_fit: Whether a last layer is fitted to them; see `rows_to_fit`.

        Raises:
            InputError: A label is unknown.
        """
        read = rows_to_fit(rows, format_of(self.record), self.record.seed) if to_fit else rows
        return KnownRows(rows, feature_rows(self.network, self.prepare(read)))

    def scores_of(self, rows: KnownRows) -> Scores:
        """Return the scores of labelled rows; an unfitted posterior is scored at its mean."""
        is_fitted = bool(self.record.num_train)
        model = self if is_fitted else self.with_posterior(OWN_SOFTMAX)
        return evaluate(model.answers(rows))

    def answers(self, rows: KnownRows, num_samples: int | None = None) -> Predictions:
        """Return the predictions of rows with known features."""
        drawing = Drawing.of(self.posterior, num_samples=num_samples)
        texts, features = rows.rows.source, rows.rows.features
        passes = num_passes(self.posterior, num_samples, len(self.members))
        total = passes * len(rows.examples)
        with progress_bar("predict", total, shown=self.progress, unit="text") as advance:
            return predict_texts(
                self, rows.examples, texts, drawing, advance=advance, features=features
            )

    def measured(self, rows: Examples) -> FittedModel:
        """Return the model with NLL and accuracy on labelled rows in its record.

        They are those of the saved classifier's default predictions with all its members.
        """
        predictions = self.predict(rows, say=False)
        scores = row_scores(predictions)
        metrics: dict[str, Any] = {
            "validation_nll": float(scores.nll.mean()),
            "validation_accuracy": float(scores.correct.mean()),
        }
        if self.record.tasks:
            names = np.asarray(predictions.columns[TASK])
            metrics["validation_tasks"] = {
                task: {
                    "nll": float(scores.nll[names == task].mean()),
                    "accuracy": float(scores.correct[names == task].mean()),
                    "num_rows": int((names == task).sum()),
                }
                for task in self.record.tasks
                if (names == task).any()
            }
        return replace(self, record=replace(self.record, results=self.record.results | metrics))

    def say_too_wide(self, rows: KnownRows) -> None:
        """Warn if the spread of a last layer's posterior makes its predictions much worse.

        The cause is a prior that is too wide: its draws drown the information of the rows, and more
        draws do not help. The mean weights alone then predict better.

        Args:
            rows: Labelled rows, preferably held out.
        """
        if self.network.weights is not None or len(self.members) != 1:
            return
        drawn, mean = (row_scores(self.answers(rows, count)).nll for count in (None, 0))
        loss = drawn - mean
        if len(loss) < _FEWEST_ROWS:
            return
        error = loss.std(ddof=1) / len(loss) ** 0.5
        if loss.mean() > max(_WORSE, _STANDARD_ERRORS * error):
            logger.warning(
                "%s: NLL is %.3f nats with the posterior's spread and %.3f at its mean: the prior "
                "is too wide; choose its scale or precision on validation rows",
                rows.examples.source,
                drawn.mean(),
                mean.mean(),
            )

    def compared(self, before: Scores, rows: KnownRows) -> FittedModel:
        """Return the model with scores of rows before and after calibration in its record."""
        after = self.scores_of(rows)
        scores = {
            key: without_nan({"before": asdict(before[key]), "after": asdict(after[key])})
            for key in _RECORDED_SCORES
        }
        record = replace(self.record, results={**self.record.results, "validation": scores})
        return replace(self, record=record, validation_scores=(before, after))


def refitted_record(
    record: ModelRecord,
    network: Network,
    train: Examples,
    validation: Examples | None,
    *,
    columns: DataColumns,
    results: dict[str, Any],
) -> ModelRecord:
    """Return the record of a model whose last layer was fitted to other rows.

    Args:
        record: Record of the model before.
        network: Network with the fitted last layer.
        train: Rows that it was fitted to.
        validation: Held-out rows, or None.
        columns: Columns that the rows were read from.
        results: Results of the fit; those on the network are taken over.
    """
    lasting = ("adapter", LETTER_MASS)
    of_network = {name: record.results[name] for name in lasting if name in record.results}
    return replace(
        record,
        columns=columns.recorded(),
        num_train=len(train),
        data={
            "before": fit_options(record),
            "train": data_hash(train),
            "validation": None if validation is None else data_hash(validation),
        },
        dropped=dropped_by_split(train=train, validation=validation),
        head=network.head.extra_config(),
        feature_scores=network.feature_scores.extra_config(),
        results=results | of_network,
    )


def _accuracy(network: Network, rows: Features, source: str) -> float:
    """Return the accuracy of the mean weights on the training rows; warn if it is perfect."""
    labels = rows.targets
    predicted = rows.double().logits(network.head.mean_weight.double()).argmax(1)
    accuracy = (predicted == labels).double().mean().item()
    if accuracy == 1 and len(labels) >= _TELLING_ROWS:
        logger.warning(
            "%s: the network classifies all %d rows correctly. If it was trained on them, the "
            "posterior will be overconfident: use rows that it has not seen",
            source,
            len(labels),
        )
    return accuracy
