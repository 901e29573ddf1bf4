"""An adapted backbone with a Bayesian head, and labelled texts prepared for it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Sampler

from bayeslora.adapters.inject import adapter_state, lay_out, load_adapter_state
from bayeslora.adapters.site import Companion, Site
from bayeslora.backbones.encoder import Encoder, FeatureExtractor, PreparedTexts
from bayeslora.backbones.tokens import Batch
from bayeslora.checkpoint import ModelFiles, ModelRecord
from bayeslora.data.examples import Examples
from bayeslora.engine.data import LabelledExamples
from bayeslora.engine.plan import Plan
from bayeslora.engine.progress import progress_bar
from bayeslora.errors import DivergedError
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.fitted_scores import FeatureScores
from bayeslora.posteriors.types import Features, LastLayer, WeightPosterior
from bayeslora.predictions.record import Predictions
from bayeslora.processes import current

if TYPE_CHECKING:
    from bayeslora.backbones.sequence import FinalLayerEncoder

Members = list[dict[str, Tensor]]


def member_prefix(number: int, count: int) -> str:
    """Return the prefix of the tensors of a member, counted from 0, in a model directory."""
    return f"member-{number}." if count > 1 else ""


class Network(nn.Module):
    """Encoder, adapter sites and last layer, with the scale that features are divided by.

    Attributes:
        feature_scores: Out-of-distribution scores fitted to the features of training rows.
        weights: Posterior over the network's weights, or None.
        record: Configuration and results, once the network is finished; see `finished`.
        members: Trained tensors of each member, whose predictions are averaged; usually one. Those
            of the first are loaded.
        progress: Whether to show progress bars on stderr.
        held_out: Predictions of training rows by networks that were fitted without them; None if
            no fit held any out.
    """

    record: ModelRecord
    members: Members
    progress: bool

    def __init__(
        self, encoder: Encoder | FinalLayerEncoder, sites: list[Site], head: LastLayer
    ) -> None:
        """Combine the parts.

        Args:
            encoder: Maps texts to features.
            sites: The adapters, already injected into `encoder`.
            head: The last layer.
        """
        super().__init__()
        self.encoder = encoder
        self.sites = sites
        self.head = head
        self.feature_scores = FeatureScores()
        self.weights: WeightPosterior | None = None
        self.held_out: Predictions | None = None
        self.register_buffer("feature_scale", torch.ones(()))
        self.feature_scale: Tensor

    def finished(
        self, record: ModelRecord, members: Members | None = None, *, progress: bool
    ) -> Network:
        """Return this network in evaluation mode, with what belongs to it once it is trained.

        Args:
            record: Configuration and results.
            members: Trained tensors of each member; None for the present ones.
            progress: Whether to show progress bars on stderr.
        """
        self.record, self.progress = record, progress
        self.members = [self.trained_state()] if members is None else members
        return self.eval()

    @property
    def plan(self) -> Plan:
        """What was chosen, as recorded."""
        return Plan.of(self.record)

    @property
    def posterior(self) -> Posterior:
        """The options of the recorded posterior."""
        return self.plan.posterior

    def files(self) -> ModelFiles:
        """Return the content of the model directory."""
        files = ModelFiles(self.record, adapter={}, posterior={}, held_out=self.held_out)
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

    @property
    def companion(self) -> Companion | None:
        """What is trained besides the sites, if anything."""
        companion: Companion | None = self.encoder.companion
        return companion

    def forward(self, batch: Batch) -> Features:
        """Return features [B, d] float32, scaled so that their mean square norm starts at 1."""
        return self.scaled(self.encoder(batch))

    def features_of(
        self,
        texts: PreparedTexts,
        labels: Tensor | None = None,
        *,
        batch_size: int = 64,
        advance: Callable[[int], object] = lambda _: None,
    ) -> Features:
        """Return the scaled features of N texts, with their states in the middle.

        Args:
            texts: The texts.
            labels: [N] int64.
            batch_size: Texts per pass.
            advance: Called with the number of finished texts.
        """
        features, middle = self.encoder.features_and_middle(
            texts, batch_size=batch_size, advance=advance
        )
        return self.scaled(features, labels, middle)

    def scaled(
        self, features: Tensor, labels: Tensor | None = None, middle: Tensor | None = None
    ) -> Features:
        """Return features [N, ...] of the encoder scaled for the head, on the head's device.

        Args:
            features: Features, followed by known logits, if any.
            labels: [N] int64.
            middle: [N, d] states in the middle of the backbone; None if there are none.

        Raises:
            InputError: The features are not finite.
        """
        device = self.feature_scale.device
        rows = unscaled(self.encoder, features.to(device))
        width = self.encoder.num_scaled
        scaled = rows.values[..., :width] / self.feature_scale
        # In training the check would synchronise the GPU at every step; the next pass in evaluation
        # mode, at the end of the epoch or of the fit, detects it too.
        looks = not (self.training and scaled.is_cuda)
        if looks and not bool(scaled.isfinite().all()):
            raise DivergedError(
                "the network's features are not finite; if this happened in training, it "
                "diverged: lower the adapter's learning rate (lr)"
            )
        rest = rows.values[..., width:]
        values = torch.cat([scaled, rest], -1) if rest.shape[-1] else scaled
        labels, middle = (None if part is None else part.to(device) for part in (labels, middle))
        return Features(values, labels, rows.known, middle)

    def trained_state(self) -> dict[str, Tensor]:
        """Return copies of all tensors that training changes: adapter, head, scale, posterior."""
        adapter = adapter_state(self.sites)
        if self.companion is not None:
            adapter |= self.companion.tensors()
        parts = {"adapter": adapter, "head": self.head.state_dict()}
        parts["scores"] = self.feature_scores.parts.state_dict()
        if self.weights is not None:
            parts["weights"] = self.weights.state_dict()
        state = {f"{part}.{name}": parts[part][name] for part in parts for name in parts[part]}
        state["feature_scale"] = self.feature_scale
        return {name: item.detach().cpu().clone() for name, item in state.items()}

    def expect(self, state: Mapping[str, Tensor]) -> None:
        """Resize sites and companion to the shapes that a state determines.

        Raises:
            InputError: They do not fit the network.
        """
        tensors = under("adapter.", state)
        lay_out(self.sites, tensors)
        if self.companion is not None:
            self.companion.resize(tensors)

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `trained_state` returned."""
        adapter = under("adapter.", state)
        if self.companion is not None:
            self.companion.resize(adapter)
            names = self.companion.tensors().keys() & adapter.keys()
            self.companion.load({name: adapter.pop(name) for name in names})
        load_adapter_state(self.sites, adapter)
        self.head.load_state_dict(under("head.", state))
        self.feature_scores.parts.load_state_dict(under("scores.", state))
        self.feature_scale.copy_(state["feature_scale"])
        if self.weights is not None:
            self.weights.load_state_dict(under("weights.", state))


def unscaled(encoder: FeatureExtractor, features: Tensor) -> Features:
    """Split outputs [N, ...] of an encoder into features and the known logits behind them.

    Known logits are one column for options, and otherwise one per class if a row lacks a class.
    """
    size = encoder.num_features
    values, known = features[..., :size], features[..., size:]
    if not known.shape[-1]:
        return Features(values)
    return Features(values, known=(known[..., 0] if known.ndim == 3 else known).contiguous())


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, without the prefix."""
    return {name[len(prefix) :]: item for name, item in state.items() if name.startswith(prefix)}


logger = logging.getLogger(__name__)

_POOL_BATCHES = 8


def prepare(
    encoder: Encoder | FinalLayerEncoder,
    rows: LabelledExamples,
    *,
    progress: bool,
    say: bool = True,
    num_options: int | None = None,
) -> PreparedTexts:
    """Tokenise rows and run the frozen layers below the first adapted one.

    Args:
        encoder: Maps texts to features.
        rows: Rows with their labels [N] int64.
        progress: Whether to show a progress bar.
        say: Whether to warn about truncated texts.
        num_options: Number of options that questions are padded to; None for the largest of a row.
    """
    examples, labels = rows
    with progress_bar("frozen layers", len(examples), shown=progress, unit="text") as advance:
        texts = encoder.prepare(**inputs(examples, num_options), advance=advance, keep=True)
    if say:
        say_truncation(examples.source, texts.tokens.num_truncated, len(texts), encoder.max_length)
    return replace(texts, labels=targets_of(examples, labels))


def targets_of(examples: Examples, labels: Tensor) -> Tensor:
    """Return what a fit learns of N rows: shares [N, C] of the annotators' choices, or labels [N].

    Args:
        examples: The rows.
        labels: [N] class indices.
    """
    return labels if examples.shares is None else torch.tensor(examples.shares)


def inputs(examples: Examples, num_options: int | None = None) -> dict[str, Any]:
    """Return the arguments of an encoder's `prepare` for rows.

    Args:
        examples: N rows.
        num_options: Number of options that questions are padded to; None for the largest of a row.
    """
    return {
        "texts": examples.texts,
        "pairs": examples.pairs,
        "choices": examples.choices,
        "available": examples.available(num_options),
        "rows": examples,
    }


def say_truncation(source: str, num_truncated: int, total: int, max_length: int) -> None:
    """Warn about truncated texts, if there are any."""
    if num_truncated:
        logger.warning(
            "%s: %d of %d texts (%.0f %%) are longer than %d tokens and were truncated",
            *(source, num_truncated, total, 100 * num_truncated / total, max_length),
        )


def say_fitted_to(record: ModelRecord, data: str, source: str) -> None:
    """Warn if the rows to predict are those that a model was fitted to.

    Args:
        record: Record of the model.
        data: `data_hash` of the rows.
        source: Name of the rows.
    """
    rows = record.results.get("calibration", {}).get("fitted_to", "train")
    if rows != "nothing" and data in {record.data.get(name) for name in (rows, "whole", "update")}:
        logger.warning(
            "%s contains rows that the model was fitted to, so scores on them are optimistic; "
            "use rows that it has not seen",
            source,
        )


SCALE_ROWS = 64
"""Texts for the scale of features: their root mean square, and so the meaning of a prior scale, is
within 0.3 % (SmolLM2-135M) and 4 % (MiniLM) of that of all texts, without a cost in NLL
(`reports/archive/scale-rows`)."""


def set_feature_scale(network: Network, texts: PreparedTexts) -> None:
    """Set the feature scale to their root mean square norm, so that prior scales are in logits.

    It is computed from at most `SCALE_ROWS` evenly spaced texts.
    """
    network.eval()
    rows = np.unique(np.linspace(0, len(texts) - 1, SCALE_ROWS).round().astype(int))
    features = network.encoder.features(texts, rows=rows.tolist())
    network.feature_scale.fill_(network.encoder.root_mean_square(features))


def feature_rows(network: Network, texts: PreparedTexts) -> Features:
    """Return the labelled features of texts from the network in evaluation mode."""
    network.eval()
    return network.features_of(texts, texts.labels)


class LengthBatchSampler(Sampler[list[int]]):
    """Random batches of similar length, determined by seed and epoch.

    Rows are shuffled, sorted by length within pools of a few batches, and cut into batches, which
    are shuffled. Padding stays low and every epoch sees every row once.
    """

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.lengths = lengths
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0, which determines the order."""
        self._epoch = int(epoch)

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self.lengths))
        pool = self.batch_size * _POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [
                rows[first : first + self.batch_size].tolist()
                for first in range(0, len(rows), self.batch_size)
            ]
        for index in rng.permutation(len(batches)):
            yield batches[index]


def collate(texts: PreparedTexts, rows: list[int]) -> Batch:
    """Return the padded batch of some row numbers, with `labels` [B] int64.

    Each of several processes gets its share of the texts, at least one, and all labels.
    """
    part = rows[current().share(len(rows))] or rows[:1]
    return {**texts.collate(part), "labels": texts.labels[torch.tensor(rows)]}


def unknown_labels(rows: Examples, codes: NDArray[np.int64]) -> dict[str, tuple[str | None, ...]]:
    """Return the labels that are not classes as the further column `unknown_label`.

    Args:
        rows: Rows, labelled or not.
        codes: [N] int64, the index of each row's label among the classes, -1 if there is none.
    """
    labels = (
        None if label is None or code >= 0 else str(label)
        for label, code in zip(rows.labels, codes.tolist(), strict=True)
    )
    return {"unknown_label": tuple(labels)}
