"""Posteriors of the last layer, fitted again and again to cached features of the same examples.

No posterior of the last layer changes a feature, so a candidate costs a fit of the head and no
pass of the network. What a candidate chooses (a temperature, a prior, its means) it never chooses
on the examples that score it. Which examples are in which part is chance, so the division is
repeated where that is cheap, and scores are means over the repeats.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora.links import link_probabilities
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import resolve_posterior
from bayeslora.predictions.record import Predictions
from bayeslora.tasks.splits import stratified_folds
from bayeslora.training.final_fit import drawing_of, fit_head
from bayeslora.training.progress import progress_bar
from bayeslora.training.rows import FeatureRows

if TYPE_CHECKING:
    from bayeslora.training.fitted import Fitted

FOLDS, HALVES = 5, 2

MOST_DRAWS = 200
"""Draws of a candidate's link: enough to rank by NLL, and a fifth of the time."""

REPEATS, LONG_REPEATS = 10, 3
"""Divisions of the examples, at most, and of a candidate whose fits take long."""

MOST_ROWS = 20_000
"""Scored examples of all divisions of a candidate: its bootstrap intervals take seconds then. Of
many examples a division is hardly an accident."""

MOST_LOGITS = 1e7
"""Logits that the divisions of a candidate may draw while it predicts; a search for a prior draws
them some thirty times over. A few seconds on one core."""

FIRST_LIMIT, LAST_LIMIT = 1e9, 2.5e9
"""Multiplications a round (`posteriors/cost.py`) of a long fit for `FOLDS` parts: up to the first a
variant is taken that has a cheaper one behind it, up to the second the cheapest is fitted at all. A
few seconds on one core."""

OWN_LIMIT = 1e10
"""The same of the chosen posterior, whose own fit took about as long."""

Entries = dict[str, Posterior | None]
"""Options of candidates by name; None where a fit of each part would take too long."""

Split = tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor]
"""Training examples to fit to [N] bool, examples that choose, examples to score [M] bool."""

Found = dict[str, list[Predictions]]
"""Predictions of each candidate, one of all scored examples per division."""


@dataclass(frozen=True)
class Race:
    """One network and its examples, to be divided in the same way for every candidate.

    Attributes:
        fitted: The classifier as it is.
        train: Examples to fit to.
        held: Held-out examples, or None.
        num_folds: Parts of a division.
        halves_held: Whether the held-out examples are divided and scored: each part by fits to all
            training examples, for which the others choose. Else the training examples are, each
            part by a fit to the others, and all held-out examples choose.
    """

    fitted: Fitted
    train: FeatureRows
    held: FeatureRows | None
    num_folds: int
    halves_held: bool = False

    @property
    def scored(self) -> FeatureRows:
        """The examples that are divided."""
        return self.held if self.halves_held and self.held is not None else self.train

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """[REPEATS, M] part of each scored example in each division."""
        labels = self.scored.labels.cpu().numpy()
        seeds = np.random.SeedSequence(self.fitted.record.seed).generate_state(REPEATS)
        return np.stack([stratified_folds(labels, self.num_folds, int(seed)) for seed in seeds])

    def candidates(self, names: Sequence[str]) -> Entries:
        """Return the options of each candidate, None where it would take too long."""
        return {name: self.affordable(resolve_posterior(name)) for name in names}

    def affordable(
        self,
        config: Posterior,
        first_limit: float | None = None,
        last_limit: float | None = None,
    ) -> Posterior | None:
        """Return the options as they are compared; None where that would take too long."""
        *others, last = self._costs(config)
        first_limit = FIRST_LIMIT if first_limit is None else first_limit
        last_limit = LAST_LIMIT if last_limit is None else last_limit
        for options, work in others:
            if work <= first_limit:
                return options
        return last[0] if last[1] <= last_limit else None

    def _costs(self, config: Posterior) -> list[tuple[Posterior, float]]:
        """Return what the options may stand for, and its work in a division."""
        classes, (rows, size) = len(self.fitted.record.classes), self.train.features.shape
        found = config.variants(classes, size, rows)
        return [(one, cost.multiplications * self.num_folds / FOLDS) for one, cost in found]

    def _repeats(self, config: Posterior) -> int:
        """Return how many divisions are affordable, at least one."""
        draws = config.num_samples or 1
        rows = len(self.scored.labels)
        logits = self.num_folds * rows * len(self.fitted.record.classes) * draws
        work = self._costs(config)[0][1]
        most = min(LONG_REPEATS, FIRST_LIMIT / work) if work else REPEATS
        return max(1, int(min(most, MOST_ROWS / rows, MOST_LOGITS / logits)))

    def predictions(self, entries: Entries) -> Found:
        """Return each candidate's predictions of all scored examples, division by division.

        Each example is predicted by a fit that it neither entered nor chose for.

        Args:
            entries: Options by name; candidates without are left out.
        """
        known = {
            name: _with_few_draws(config) for name, config in entries.items() if config is not None
        }
        repeats = {name: self._repeats(config) for name, config in known.items()}
        total = self.num_folds * sum(repeats.values())
        shown = self.fitted.progress
        with _without_notes(), progress_bar("compare", total, shown=shown, unit="fit") as advance:
            return {
                name: [self._division(name, config, r, advance) for r in range(repeats[name])]
                for name, config in known.items()
            }

    def _division(self, name: str, config: Posterior, number: int, advance: Any) -> Predictions:
        classes, scored = tuple(self.fitted.record.classes), self.scored
        probs = np.empty((len(scored.labels), len(classes)))
        for kept, choosing, rows in self._splits(number):
            part = self._part_probs(config, kept, choosing, scored.features[rows])
            probs[rows.cpu().numpy()] = part.cpu().numpy()
            advance(1)
        labels = scored.labels.cpu().numpy()
        return Predictions(probs, classes, labels, name=name, metadata={"fit_seed": f"{number}"})

    def _splits(self, number: int) -> Iterator[Split]:
        features, labels = self.scored.pair
        fold = torch.from_numpy(self.folds[number]).to(labels.device)
        held = None if self.held is None else self.held.pair
        for part in range(self.num_folds):
            rows = fold == part
            if self.halves_held:
                every = torch.ones_like(self.train.labels, dtype=torch.bool)
                yield every, (features[~rows], labels[~rows]), rows
            else:
                yield ~rows, held, rows

    def _part_probs(
        self,
        config: Posterior,
        kept: Tensor,
        choosing: tuple[Tensor, Tensor] | None,
        features: Tensor,
    ) -> Tensor:
        network = self.fitted.with_posterior(config).network
        own, labels = self.train.pair
        fit_head(network, (own[kept], labels[kept]), choosing)
        return link_probabilities(network.head.predict(features), **drawing_of(config)).probs


def _with_few_draws(config: Any) -> Any:
    if config.link is None or config.num_samples is None:
        return config
    return replace(config, num_samples=min(config.num_samples, MOST_DRAWS))


@contextmanager
def _without_notes() -> Iterator[None]:
    """Hide what the fits of candidates note, such as a prior at the edge of its grid."""
    ours = logging.getLogger("bayeslora")
    before = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(before)
