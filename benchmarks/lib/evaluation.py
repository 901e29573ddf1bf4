"""Evaluation of many posteriors on the stored states of a few fits.

Features of every split are computed once per state and shared by all last-layer methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bayeslora.adapters.base import Adapter
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.backbones.load import Backbone
from bayeslora.data.examples import Examples, encode_labels
from bayeslora.engine.build import build_network, last_layer
from bayeslora.engine.fitted.card import method_notes
from bayeslora.engine.network import Network
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import Answer, answer, to_predictions
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.rows import feature_rows
from bayeslora.engine.training.final_fit import scale_by
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.logits import SampledLogits
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.point import Ensemble
from bayeslora.posteriors.types import LastLayer
from bayeslora.posteriors.weights.mc_dropout import MCDropout
from bayeslora.predictions.record import Predictions
from benchmarks.lib.experiment_data import ExperimentData

State = Mapping[str, Tensor]

TRAIN, VALIDATION, TEST = "train", "validation", "test"


@dataclass(frozen=True)
class FitSpec:
    """One fit.

    Attributes:
        adapter: Options of the adapter.
        posterior: Posterior to train with the adapter.
        epochs: Passes over the training rows.
        seed: Seed of initialisation, row order and dropout.
        max_length: Maximum tokens per text.
        head_lr: Learning rate of a point estimate's last layer.
    """

    adapter: Adapter
    posterior: Posterior
    epochs: int
    seed: int
    max_length: int = 64
    head_lr: float = TrainingSettings.head_lr


def fresh_network(backbone: Backbone, spec: FitSpec, num_classes: int) -> Network:
    """Create an untrained network."""
    return build_network(
        backbone,
        Plan(
            adapter=spec.adapter,
            posterior=spec.posterior,
            seed=spec.seed,
            max_length=spec.max_length,
        ),
        num_classes,
    )


@dataclass(frozen=True)
class Outcome:
    """Predictions of one method.

    Attributes:
        predictions: Predictions by split: `test` and the out-of-distribution sets.
        report: Values chosen by the posterior.
    """

    predictions: dict[str, Predictions]
    report: dict[str, float | str] = field(default_factory=dict)


class Evaluation:
    """The splits of a data set, prepared for the states of one kind of fit."""

    def __init__(self, backbone: Backbone, spec: FitSpec, data: ExperimentData) -> None:
        """Create the network of `spec`, which the states belong to."""
        self.data = data
        self.spec = spec
        self.network: Network = fresh_network(backbone, spec, len(data.classes))
        self.rows: dict[str, Examples] = {
            TRAIN: data.train,
            VALIDATION: data.validation,
            TEST: data.test,
            **data.ood,
        }
        self._texts: dict[str, PreparedTexts] = {}

    def prepare(self, *, progress: bool) -> None:
        """Run the frozen layers on all splits, with a progress bar."""
        total = sum(map(len, self.rows.values()))
        with progress_bar("frozen layers", total, shown=progress, unit="text") as advance:
            for split in self.rows:
                self.texts(split, advance)

    def texts(self, split: str, advance: Callable[[int], object] = lambda _: None) -> PreparedTexts:
        """Return a split, prepared on first use."""
        if split not in self._texts:
            rows = self.rows[split]
            # An out-of-distribution row has no class, even if it shares the name of a label.
            classes = () if split in self.data.ood else self.data.classes
            labels = torch.from_numpy(encode_labels(rows, classes, unknown="ood"))
            texts = self.network.encoder.prepare(rows.texts, rows.pairs, advance=advance)
            self._texts[split] = replace(texts, labels=labels)
        return self._texts[split]

    def features(self, state: State, splits: Sequence[str]) -> dict[str, Features]:
        """Return the features of the given splits with `state` loaded."""
        self.network.load_trained_state(state)
        return {name: feature_rows(self.network, self.texts(name)) for name in splits}

    def trained_head(self, state: State) -> LastLayer:
        """Return the trained head; loading another state overwrites it."""
        self.network.load_trained_state(state)
        return self.network.head

    def last_layer(
        self,
        name: str,
        state: State,
        features: Mapping[str, Features],
        config: Posterior | None,
    ) -> Outcome:
        """Return the predictions of a last-layer posterior on the features of a state.

        Args:
            name: Name of the method.
            state: State with the trained head.
            features: Features of the state, including training rows; the posterior may use
                validation rows, if included, to choose its options.
            config: Options of the posterior; None uses the trained head.
        """
        head = self.trained_head(state)
        if config is not None:
            head = fitted_head(config, head, features[TRAIN], features.get(VALIDATION))
        factor = 1.0
        if config is not None and config.scales_logits and VALIDATION in features:
            factor = scale_by(head, features[VALIDATION])
        answers = {
            split: [Answer(head.predict(rows).sharpened(factor))]
            for split, rows in features.items()
            if split not in {TRAIN, VALIDATION}
        }
        report = {} if config is None else head.report()
        report |= {} if factor == 1 else {"logit_scale": factor}
        used = self.spec.posterior if config is None else config
        link = "mc" if config is None or config.link is None else config.link
        return Outcome(self.predictions(name, answers, link, posterior=used), report)

    def dropout(
        self,
        name: str,
        state: State,
        config: MCDropout,
        advance: Callable[[int], object] = lambda _: None,
    ) -> Outcome:
        """Return the predictions of Monte Carlo dropout with `state` loaded."""
        self.network.load_trained_state(state)
        answers = {
            split: answer(self.network, [state], config, self.texts(split), advance=advance)
            for split in self.scored
        }
        return Outcome(self.predictions(name, answers, posterior=config, passes=config.num_samples))

    def ensemble(
        self, name: str, members: Sequence[tuple[State, Mapping[str, Features]]]
    ) -> Outcome:
        """Return the mean predictions of several states, from their features."""
        means: dict[str, list[Tensor]] = {split: [] for split in self.scored}
        for state, features in members:
            head = self.trained_head(state)
            for split, values in means.items():
                values.append(head.predict(features[split]).mean)
        answers = {
            split: [Answer(SampledLogits(torch.stack(values)))] for split, values in means.items()
        }
        used = Ensemble(num_members=len(members))
        return Outcome(self.predictions(name, answers, posterior=used, passes=len(members)))

    def predictions(
        self,
        name: str,
        answers: Mapping[str, Iterable[Answer]],
        link: str = "mc",
        *,
        posterior: Posterior,
        passes: int = 1,
    ) -> dict[str, Predictions]:
        """Convert the answers of each split to predictions with notes on the method."""
        about = method_notes(self.spec.adapter.name, posterior, passes)
        notes = {**about, "fit_seed": str(self.spec.seed)}
        return {
            split: to_predictions(
                item,
                self.data.classes,
                link=link,
                notes=notes,
                name=name,
                labels=self.texts(split).labels.numpy(),
                ids=self.rows[split].ids,
            )
            for split, item in answers.items()
        }

    @property
    def scored(self) -> list[str]:
        """Names of the splits to predict."""
        return [split for split in self.rows if split not in {TRAIN, VALIDATION}]


def fitted_head(
    config: Posterior, trained: LastLayer, train: Features, held_out: Features | None
) -> LastLayer:
    """Return the last layer of `config`, fitted to features from the mean of a trained head.

    Args:
        config: Options of the posterior over the last layer.
        trained: Head trained with the adapter; its mean is the starting point.
        train: Features of the training rows.
        held_out: Features of held-out rows to choose the prior; None chooses it without them.
    """
    head = last_layer(config, trained.mean_weight)
    head.to(train.values.device)
    head.fit(train, held_out)
    return head
