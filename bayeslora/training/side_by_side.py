"""Posteriors of the last layer side by side, on cached features of the same examples.

No posterior of the last layer changes a feature, so a candidate costs a fit of the head and no
pass of the network. What a candidate chooses (a temperature, a prior, its means) it never chooses
on the examples that score it:

    with validation examples   fitted to all training examples; of the validation examples one half
                               chooses and the other is scored, and the other way round
    without, or for `best`     cross-validated over the training examples

Differences are paired, and their p-values corrected for the number of candidates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.metrics.compare import Comparison, ComparisonRow, compare
from bayeslora.metrics.rowwise import row_scores
from bayeslora.posteriors.config import VBLL, PosteriorConfig
from bayeslora.posteriors.registry import resolve_posterior
from bayeslora.posteriors.vbll_cost import fit_cost, with_family
from bayeslora.predictions.record import Predictions
from bayeslora.tasks.splits import stratified_folds
from bayeslora.training.final_fit import drawing_of, fit_head
from bayeslora.training.progress import progress_bar
from bayeslora.training.rows import FeatureRows

if TYPE_CHECKING:
    from bayeslora.training.fitted import Fitted

logger = logging.getLogger(__name__)

BEST = "best"
"""In the place of a posterior: the candidate of lowest cross-validated NLL."""

CANDIDATES = ("mle", "temperature", "laplace", "vbll")
"""What is compared, the simplest first: the network's own softmax; one number, which can soften and
sharpen; a covariance around the same mean, which can only soften; other means too. Each is fitted
in closed form or by a short search, so that all of them take seconds. G-VBLL and NUTS do not."""

FOLDS, HALVES = 5, 2
FEWEST_EXAMPLES = 20
"""Examples below which no difference is worth a table."""
MOST_DRAWS = 200
"""Draws of a candidate's link: enough to rank by NLL, and a fifth of the time."""
DENSE_LIMIT, DIAGONAL_LIMIT = 1e9, 2.5e9
"""Multiplications a round (`vbll_cost.py`) of a variational last layer up to which it is fitted
with a dense covariance here, and at all: a few seconds for all folds on one core."""

OWN_LIMIT = 1e10
"""The same of the chosen posterior, where that is one of the candidates."""

TOO_LONG = "its fits would take too long"

_KEYS = ("accuracy", "nll", "ece", "overconfidence")


@dataclass(frozen=True)
class SideBySide:
    """Posteriors on the same examples.

    Attributes:
        examples: Which ones score them: `validation` or `train`.
        folds: Parts that they were divided into.
        chosen: Name of the posterior that was fitted in the end.
        comparison: Scores of each, with paired differences from the chosen one, best NLL first.
        options: Options of each candidate that was fitted for the comparison, by name.
        left_out: Why a candidate is missing, by name.
        notes: What follows, in sentences.
    """

    examples: Literal["validation", "train"]
    folds: int
    chosen: str
    comparison: Comparison
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers: what a model's record keeps."""
        content = self.comparison.to_json()
        rows = [
            {
                "posterior": row["name"],
                "scores": {key: row["scores"][key] for key in _KEYS},
                "nll_difference": row["differences"]["nll"],
                "p": row["p_holm"].get("nll"),
                "options": dict(self.options.get(row["name"], {})),
            }
            for row in content["rows"]
        ]
        return {
            "examples": self.examples,
            "n": content["n"],
            "folds": self.folds,
            "chosen": self.chosen,
            "rows": rows,
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


def best_posterior(
    fitted: Fitted, train: FeatureRows, held: FeatureRows | None
) -> tuple[PosteriorConfig, SideBySide]:
    """Return the candidate of lowest cross-validated NLL, and how all of them did.

    Args:
        fitted: The classifier as it is.
        train: Examples to cross-validate on.
        held: Held-out examples, by which candidates choose what they choose.

    Raises:
        InputError: There are fewer than `FEWEST_EXAMPLES` training examples.
    """
    if len(train.labels) < FEWEST_EXAMPLES:
        raise InputError(
            f"posterior {BEST!r} is chosen by cross-validation, which needs at least "
            f"{FEWEST_EXAMPLES} labelled rows, got {len(train.labels)}; name a posterior"
        )
    race = _Race(fitted, train, held)
    entries = race.candidates(CANDIDATES, FOLDS)
    found = race.cross_validated(entries, FOLDS)
    lowest = min(found, key=lambda name: float(row_scores(found[name]).nll.mean()))
    config = entries[lowest]
    if config is None:
        raise ValueError(f"{lowest!r} was not fitted")
    return config, _compared(found, config, entries, "train", FOLDS)


def beside_others(
    fitted: Fitted,
    config: PosteriorConfig,
    train: FeatureRows,
    held: FeatureRows | None,
    answer: Callable[[], Predictions],
) -> SideBySide | None:
    """Return the chosen posterior beside the candidates; None where there is nothing to compare.

    Args:
        fitted: The classifier before it was given `config`.
        config: The chosen posterior.
        train: Examples that it was fitted to.
        held: Held-out examples. Without them it is compared with the network's own softmax alone.
        answer: Returns its predictions of the held-out examples, asked for where it is not fitted
            in seconds; what it chose it has chosen on them then.
    """
    race = _Race(fitted, train, held)
    # Its own fit took about as long, so its limit is wider.
    own = race.affordable(config, HALVES, OWN_LIMIT) if config.name in CANDIDATES else None
    if held is None:
        if own is None or config.name == CANDIDATES[0] or len(train.labels) < FEWEST_EXAMPLES:
            return None
        entries = race.candidates(CANDIDATES[:1], HALVES) | {config.name: own}
        found = race.cross_validated(entries, HALVES)
        return _compared(found, config, entries, "train", HALVES)
    if len(held.labels) < FEWEST_EXAMPLES:
        return None
    entries = race.candidates(CANDIDATES, HALVES) | {config.name: own}
    found = race.halved(entries)
    if own is None:
        found[config.name] = answer().replace(name=config.name)
    return _compared(found, config, entries, "validation", HALVES)


Entries = dict[str, PosteriorConfig | None]
"""Options of candidates by name; None where a fit of each fold would take too long."""

Split = tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor]
"""Training examples to fit to [N] bool, examples that choose, examples to score [M] bool."""


@dataclass(frozen=True)
class _Race:
    """One network and its examples.

    Attributes:
        fitted: The classifier as it is.
        train: Examples to fit to.
        held: Held-out examples, or None.
    """

    fitted: Fitted
    train: FeatureRows
    held: FeatureRows | None

    def candidates(self, names: Sequence[str], folds: int) -> Entries:
        """Return the options of each candidate, None where it would take too long."""
        return {name: self.affordable(resolve_posterior(name), folds) for name in names}

    def affordable(
        self, config: PosteriorConfig, folds: int, dense_limit: float | None = None
    ) -> PosteriorConfig | None:
        """Return the options as they are compared; None where that would take too long."""
        if not isinstance(config, VBLL):
            return config
        size, classes = self.train.features.shape[1], len(self.fitted.record.classes)

        def cost(options: VBLL) -> float:
            work = fit_cost(options, classes, size, len(self.train.labels)).multiplications
            return work * folds / FOLDS

        most = DENSE_LIMIT if dense_limit is None else dense_limit
        dense = with_family(config, "dense")
        config = dense if cost(dense) <= most else with_family(config, "diagonal")
        limit = DIAGONAL_LIMIT if config.covariance == "diagonal" else most
        return config if cost(config) <= limit else None

    def cross_validated(self, entries: Entries, folds: int) -> dict[str, Predictions]:
        """Return each candidate's predictions of all training examples, each by a fit without it.

        Args:
            entries: Options by name.
            folds: Number of folds.
        """
        labels = self.train.labels
        held = None if self.held is None else self.held.pair
        fold = self._folds(labels, folds)
        splits = [(fold != k, held, fold == k) for k in range(folds)]
        return self._predicted(entries, self.train, splits)

    def halved(self, entries: Entries) -> dict[str, Predictions]:
        """Return predictions of all held-out examples, where the other half of them chooses."""
        if self.held is None:
            raise ValueError("there are no held-out examples")
        features, labels = self.held.pair
        fold = self._folds(labels, HALVES)
        every = torch.ones_like(self.train.labels, dtype=torch.bool)
        splits = [
            (every, (features[fold != k], labels[fold != k]), fold == k) for k in range(HALVES)
        ]
        return self._predicted(entries, self.held, splits)

    def _folds(self, labels: Tensor, folds: int) -> Tensor:
        found = stratified_folds(labels.cpu().numpy(), folds, self.fitted.record.seed)
        return torch.from_numpy(found).to(labels.device)

    def _predicted(
        self, entries: Entries, scored: FeatureRows, splits: Sequence[Split]
    ) -> dict[str, Predictions]:
        known = {name: config for name, config in entries.items() if config is not None}
        classes = tuple(self.fitted.record.classes)
        labels = scored.labels.cpu().numpy()
        shown, total = self.fitted.progress, len(splits) * len(known)
        found = {}
        with (
            _without_notes(),
            progress_bar("compare", total, shown=shown, unit="fit") as advance,
        ):
            for name, config in known.items():
                probs = np.empty((len(labels), len(classes)))
                for kept, choosing, rows in splits:
                    part = self._fold_probs(config, kept, choosing, scored.features[rows])
                    probs[rows.cpu().numpy()] = part.cpu().numpy()
                    advance(1)
                found[name] = Predictions(probs, classes, labels, name=name)
        return found

    def _fold_probs(
        self,
        config: PosteriorConfig,
        kept: Tensor,
        choosing: tuple[Tensor, Tensor] | None,
        features: Tensor,
    ) -> Tensor:
        config = _with_few_draws(config)
        network = self.fitted.with_posterior(config).network
        own, labels = self.train.pair
        fit_head(network, (own[kept], labels[kept]), choosing)
        return link_probabilities(network.head.predict(features), **drawing_of(config)).probs


def _compared(
    found: Mapping[str, Predictions],
    config: PosteriorConfig,
    entries: Entries,
    examples: Literal["validation", "train"],
    folds: int,
) -> SideBySide:
    """Return paired differences from the chosen posterior."""
    records = [one.replace(ids=None) for one in found.values()]
    comparison = compare(records, reference=config.name, scores=_KEYS)
    used = {name: options.as_mapping(one) for name, one in entries.items() if one is not None}
    left_out = {name: TOO_LONG for name in entries if name not in found}
    both = SideBySide(examples, folds, config.name, comparison, used, left_out)
    return replace(both, notes=tuple(_notes(both, config)))


def _notes(both: SideBySide, config: PosteriorConfig) -> Iterator[str]:
    """Yield what follows from a comparison: who is clearly better, and what a posterior cannot."""
    rows = {row.name: row for row in both.comparison.rows}
    chosen, own = rows[both.chosen], rows.get(CANDIDATES[0])
    where = f"{both.comparison.n} {both.examples} examples"
    better = [
        row
        for row in both.comparison.rows
        if row.is_clear("nll") and row.differences["nll"].value < 0
    ]
    # Examples that a network knows by heart say nothing of a posterior.
    if both.examples == "train" and own is not None and own.scores["accuracy"].value == 1:
        return
    if better:
        yield _better(better[0], chosen, where, len(rows) - 1)
    bias = None if own is None else own.scores["overconfidence"]
    if bias is not None and bias.high < 0 and getattr(config, "only_softens", False):
        yield (
            f"the network is underconfident: its mean confidence is {-100 * bias.value:.1f} points "
            f"below its accuracy on {where}. {both.chosen!r} keeps its mean and only softens; "
            "'temperature' can sharpen, and 'vbll' may"
        )


def _better(best: ComparisonRow, chosen: ComparisonRow, where: str, looks: int) -> str:
    gain = best.differences["nll"]
    who = "the network's own softmax" if best.name == CANDIDATES[0] else repr(best.name)
    words = (
        f"{who} is clearly better than {chosen.name!r} on {where}: NLL "
        f"{best.scores['nll'].value:.3f} against {chosen.scores['nll'].value:.3f} nats, difference "
        f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    )
    if looks > 1:
        words += f"; it is the best of {looks} looked at on these examples, so confirm it on others"
    return words


def _with_few_draws(config: Any) -> Any:
    if not hasattr(config, "link") or not hasattr(config, "num_samples"):
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
