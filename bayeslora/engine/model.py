"""A fitted classifier's working parts, without the conveniences that a user sees around them."""

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
from bayeslora.backbones.final_encoder import FinalLayerEncoder
from bayeslora.checkpoint import ADAPTED, ModelFiles, ModelRecord
from bayeslora.engine.build import check_episodes, check_last_layer, last_layer
from bayeslora.engine.card import answering, fit_options, learnt_from, method_name, method_notes
from bayeslora.engine.data import (
    Unknown,
    classes_for,
    columns_of,
    encode_for,
    format_of,
    most_options,
    split,
)
from bayeslora.engine.final_fit import final_fit, fit_last_layer
from bayeslora.engine.load import model_tensors
from bayeslora.engine.network import Network
from bayeslora.engine.pieces import Drawing, predict_pieces, predict_texts
from bayeslora.engine.predict import num_passes
from bayeslora.engine.progress import progress_bar, quiet_transformers
from bayeslora.engine.rows import FeatureRows, KnownRows, LabelledTexts, feature_rows, prepare
from bayeslora.engine.side_by_side import SideBySide
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
from bayeslora.predictions.parts import joined
from bayeslora.predictions.record import Predictions
from bayeslora.tasks.columns import DataColumns
from bayeslora.tasks.examples import Examples, data_hash, dropped_by_split
from bayeslora.tasks.union import TASK

logger = logging.getLogger(__name__)

# From here on, no mistake means an accuracy above 0.95 at 95 % confidence: 0.95 ** 59 < 0.05.
_TELLING_ROWS = 59
# What a spread may cost, in nats, before it is pointed out, and how sure that has to be.
_WORSE, _STANDARD_ERRORS, _FEWEST_ROWS = 0.05, 2, 20
_RECORDED_SCORES = ("accuracy", "nll", "ece")


@dataclass(frozen=True)
class FittedModel:
    """Networks with the record of how they came to be.

    Attributes:
        record: Configuration and results.
        network: Holds the first member's tensors.
        members: Trained tensors of each member, whose answers are averaged; most often one.
        progress: Whether to show bars on stderr.
        validation_scores: Scores of the validation rows before and after the last calibration.
        side_by_side: The posterior beside others in the last calibration.
    """

    record: ModelRecord
    network: Network
    members: list[dict[str, Tensor]]
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
        """What tables call it, such as `polar-vbll`."""
        return method_name(self.record)

    @property
    def columns(self) -> DataColumns:
        """The data columns that the classifier was fitted on."""
        return columns_of(self.record)

    def files(self) -> ModelFiles:
        """Return what a model directory holds."""
        return ModelFiles(self.record, *model_tensors(self.members))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every tensor and of the backbone; a second of work for large last layers."""
        return self.files().fingerprint

    def prepare(self, rows: Examples) -> LabelledTexts:
        """Return rows ready for the networks; log how many texts were cut."""
        labels = torch.from_numpy(encode_for(self.record, rows))
        room = len(classes_for(self.record, most_options(rows)))
        with quiet_transformers():
            return prepare(
                self.network.encoder, (rows, labels), progress=self.progress, num_options=room
            )

    def predict(
        self,
        rows: Examples,
        *,
        num_samples: int | None,
        link: str | None,
        unknown: Unknown,
        seed: int,
        known: FeatureRows | None = None,
        say: bool = True,
    ) -> Predictions:
        """Return the predictions of rows; see `BayesianClassifier.predict`.

        `known` has the rows' features, where this network has given them already; `say=False`
        leaves out what was said of the rows before.
        """
        drawing = Drawing.of(
            self.posterior, num_samples=num_samples, link=link, seed=seed, unknown=unknown
        )
        if known is not None:
            passes = num_passes(self.posterior, num_samples, len(self.members))
            with progress_bar(
                "predict", passes * len(rows), shown=self.progress, unit="text"
            ) as advance:
                return predict_texts(
                    self, rows, known.source, drawing, advance=advance, features=known.features
                )
        labels = torch.from_numpy(encode_for(self.record, rows, unknown))
        pieces = split(rows, labels)
        most = most_options(rows)
        found = predict_pieces(
            self, pieces, drawing, total=len(rows), most_options=most, keep=True, say=say
        )
        return joined(list(found))

    def notes(self, passes: int, num_samples: int | None = None) -> dict[str, str]:
        """Return what predictions say of the classifier that made them.

        Args:
            passes: Passes of the adapted layers that the prediction takes.
            num_samples: Its draws; None for the posterior's own number.
        """
        adapter = self.record.adapter
        posterior = answering(self.record, num_samples)
        share = self.record.results.get("posterior", {}).get("prior_share")
        return {
            **method_notes(None if adapter is None else adapter["name"], posterior, passes),
            "fit_seed": str(self.record.seed),
            "fit_options": fit_options(self.record),
            "model_fingerprint": self.fingerprint,
            **({} if share is None else {"prior_share": f"{share:.3f}"}),
        }

    def spectra(self) -> list[list[SiteSpectrum]]:
        """Return the spectrum of every adapter site, or trained matrix, member by member.

        Raises:
            InputError: The network has no adapters of ours.
        """
        if not self.network.is_adapted:
            raise InputError(f"{self.name} has no adapter of ours, so no weight was changed")
        found = []
        try:
            for member in self.members:
                self.network.load_trained_state(member)
                full = self.network.full
                sites = [spectrum(site) for site in self.network.sites]
                found.append(sites if full is None else full_spectrum(full))
        finally:
            self.network.load_trained_state(self.members[0])
        return found

    @contextmanager
    def one_member(self, number: int | None = None) -> Iterator[FittedModel]:
        """Yield one of the networks, which is in place while the context lasts.

        Args:
            number: From 1; None where there is one alone.

        Raises:
            InputError: There are several and none was named, or there is no such one.
        """
        if isinstance(self.network.encoder, FinalLayerEncoder) and self.network.is_adapted:
            raise InputError(
                f"{self.name} has the adapters of a checkpoint, which is a PEFT checkpoint itself: "
                f"{self.record.backbone['name']}; exports are of adapters that were fitted here"
            )
        count = len(self.members)
        if number is None and count > 1:
            raise InputError(
                f"{self.name} has {count} networks; say which one: member=1 to {count} (--member)",
                code="several-networks",
            )
        if number is not None and count == 1 and not self.posterior.has_members:
            raise InputError(
                f"{self.name} is no ensemble, and member={number} (--member) names a network of "
                "one; leave it out"
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
        """Raise InputError if the network cannot be given a posterior.

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
        """Return what a posterior's prior is centred at: the language model's answer, if any."""
        head, record = self.network.head, self.record
        if record.adapter is not None and not record.num_train:  # before the first label
            return head.mean_weight
        return head.prior_centre()

    def with_posterior(self, config: Posterior) -> FittedModel:
        """Return the same network with an unfitted posterior that starts from the present mean.

        Raises:
            InputError: As `check_takes`.
        """
        self.check_takes(config)
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
            validation: Held-out ones.
            columns: Where the data came from.
            feature_scores: Names of scores to fit as well; None takes the usual ones.

        Raises:
            InputError: The data is not allowed.
        """
        network, rows = self.network, train.rows
        config = self.posterior
        held = None if validation is None else validation.rows.source
        seed = self.record.seed
        fit = final_fit(network, rows.source, held, seed=seed, shown=self.progress)
        if config.before_last_layer(fit):
            rows = feature_rows(network, rows.source)
        accuracy = _accuracy(network, rows.features, train.examples.source)
        chosen = fit_last_layer(
            network,
            config,
            rows,
            None if validation is None else validation.rows,
            feature_scores=feature_scores,
            seed=seed,
            progress=self.progress,
        )
        old = self.record.results
        record = replace(
            self.record,
            columns=columns.recorded(),
            num_train=len(train.examples),
            data={
                "before": fit_options(self.record),
                "train": data_hash(train.examples),
                "validation": None if validation is None else data_hash(validation.examples),
            },
            dropped=dropped_by_split(
                train=train.examples,
                validation=None if validation is None else validation.examples,
            ),
            head=network.head.extra_config(),
            feature_scores=network.feature_scores.extra_config(),
            # What the fit measured on its validation rows it measured under another posterior.
            results={
                "posterior": chosen,
                "calibration": {
                    "rows": len(train.examples),
                    "accuracy": accuracy,
                    "validation_rows": 0 if validation is None else len(validation.examples),
                    "fitted_to": learnt_from(config, has_validation=validation is not None),
                },
            }
            | ({"adapter": old["adapter"]} if "adapter" in old else {}),
        )
        members = [network.trained_state()]
        return replace(
            self, record=record, members=members, validation_scores=None, side_by_side=None
        )

    def known(self, rows: Examples) -> KnownRows:
        """Return labelled rows with their features, which no posterior of the last layer changes.

        Raises:
            InputError: A label is unknown.
        """
        return KnownRows(rows, feature_rows(self.network, self.prepare(rows)))

    def scores_of(self, held: KnownRows) -> Scores:
        """Return the scores of labelled rows; a posterior without a fit counts as its mean."""
        is_fitted = bool(self.record.num_train)
        one = self if is_fitted else self.with_posterior(OWN_SOFTMAX)
        return evaluate(one.answers(held))

    def answers(self, held: KnownRows, num_samples: int | None = None) -> Predictions:
        """Return the predictions of rows with known features."""
        return self.predict(
            held.examples,
            num_samples=num_samples,
            link=None,
            unknown="error",
            seed=0,
            known=held.rows,
            say=False,
        )

    def measured(self, rows: Examples) -> FittedModel:
        """Return the same with NLL and accuracy on labelled rows in its record.

        They are those of the predictions that the saved classifier makes by default, of all its
        members.
        """
        found = self.predict(rows, num_samples=None, link=None, unknown="error", seed=0, say=False)
        scores = row_scores(found)
        kept: dict[str, Any] = {
            "validation_nll": float(scores.nll.mean()),
            "validation_accuracy": float(scores.correct.mean()),
        }
        if self.record.tasks:
            names = np.asarray(found.columns[TASK])
            kept["validation_tasks"] = {
                task: {
                    "nll": float(scores.nll[names == task].mean()),
                    "accuracy": float(scores.correct[names == task].mean()),
                    "num_rows": int((names == task).sum()),
                }
                for task in self.record.tasks
                if (names == task).any()
            }
        return replace(self, record=replace(self.record, results=self.record.results | kept))

    def say_too_wide(self, rows: KnownRows) -> None:
        """Warn where the spread of a last layer's posterior makes its predictions much worse.

        A prior that is too wide does that: draws of it drown what the rows say, and more of them
        do not help. The mean weights then predict better alone.

        Args:
            rows: Labelled, best held out.
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

    def compared(self, before: Scores, held: KnownRows) -> FittedModel:
        """Return the same with the scores of labelled rows before and after in its record."""
        after = self.scores_of(held)
        kept = {
            key: without_nan({"before": asdict(before[key]), "after": asdict(after[key])})
            for key in _RECORDED_SCORES
        }
        record = replace(self.record, results={**self.record.results, "validation": kept})
        return replace(self, record=record, validation_scores=(before, after))


def _accuracy(network: Network, rows: Features, source: str) -> float:
    """Return the accuracy of the mean weights on the rows to fit to; say where it is too good."""
    labels = rows.targets
    found = rows.double().logits(network.head.mean_weight.double()).argmax(1)
    accuracy = (found == labels).double().mean().item()
    if accuracy == 1 and len(labels) >= _TELLING_ROWS:
        logger.warning(
            "%s: the network is right on all %d rows. If it was trained on them, they hide its "
            "mistakes and the posterior will be overconfident: use rows that it has not seen",
            source,
            len(labels),
        )
    return accuracy
