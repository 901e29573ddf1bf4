"""Posteriors of the last layer side by side on the same examples.

    with validation examples   fitted to all training examples; one half of the validation examples
                               chooses and the other is scored, and the other way round
    without, or for `best`     cross-validated over the training examples

Differences of NLL are paired. Their intervals and p-values allow for fits that share examples
(`metrics/refits.py`, after Nadeau and Bengio 2003), and the p-values for the number of candidates
(Holm 1979).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeslora import options
from bayeslora.data.splits import stratified_folds
from bayeslora.engine.fitted.card import learnt_from
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training.final_fit import drawing_of, fit_head
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.refits import mean_nll, refit_comparison
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import BEST, COMPARED, OWN_SOFTMAX, POSTERIORS, resolve_posterior
from bayeslora.predictions.record import Predictions

if TYPE_CHECKING:
    from bayeslora.engine.fitted.model import FittedModel

FEWEST_EXAMPLES = 20
"""Examples below which no difference is worth a table."""

TOO_LONG = "too slow to fit here"

_KEYS = ("accuracy", "nll", "ece", "overconfidence")


@dataclass(frozen=True)
class SideBySide:
    """Posteriors on the same examples.

    Attributes:
        examples: The scored examples: `validation` or `train`.
        folds: Number of parts of a division of the examples.
        chosen: Name of the posterior that was fitted in the end.
        comparison: Scores of each, means over divisions, best NLL first. The paired differences
            from the chosen posterior have the interval and p-value of `refit_difference` for NLL.
        options: Options of each candidate fitted for the comparison, by name.
        left_out: Why a candidate is missing, by name.
        divisions: Largest number of divisions of the examples.
        is_best: Whether the posterior was chosen for its NLL here.
        as_fitted: Whether the chosen posterior is scored as fitted, on the examples that chose its
            options.
        notes: Conclusions, in sentences.
    """

    examples: Literal["validation", "train"]
    folds: int
    chosen: str
    comparison: Comparison
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    divisions: int = 1
    is_best: bool = False
    as_fitted: bool = False
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers, for a model's record."""
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
            "divisions": self.divisions,
            "chosen": self.chosen,
            "is_best": self.is_best,
            "as_fitted": self.as_fitted,
            "rows": rows,
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


def best_posterior(
    fitted: FittedModel, train: Features, held_out: Features | None
) -> tuple[Posterior, SideBySide]:
    """Return the candidate of lowest cross-validated NLL, and the comparison of all.

    Args:
        fitted: The classifier as it is.
        train: Examples to cross-validate on.
        held_out: Held-out examples, on which candidates choose their options.

    Raises:
        InputError: There are fewer than `FEWEST_EXAMPLES` training examples.
    """
    if len(train) < FEWEST_EXAMPLES:
        raise InputError(
            f"posterior {BEST!r} is chosen by cross-validation, which needs at least "
            f"{FEWEST_EXAMPLES} labelled rows, got {len(train)}; choose a posterior by name"
        )
    race = Race(fitted, train, held_out, FOLDS)
    entries = race.candidates(COMPARED)
    predictions = race.predictions(entries)
    lowest = min(predictions, key=lambda name: mean_nll(predictions[name]))
    config = entries[lowest]
    if config is None:
        raise ValueError(f"{lowest!r} was not fitted")
    return config, _compared(predictions, config, entries, race, is_best=True)


def beside_others(
    fitted: FittedModel,
    config: Posterior,
    train: Features,
    held_out: Features | None,
    answer: Callable[[], Predictions],
) -> SideBySide | None:
    """Compare the chosen posterior with the candidates; return None if there is nothing to compare.

    Args:
        fitted: The classifier before `config` was fitted.
        config: The chosen posterior.
        train: Examples that it was fitted to.
        held_out: Held-out examples; None compares with the network's own softmax only.
        answer: Returns its predictions of the held-out examples; called if refits would take too
            long. Its options were then chosen on these examples.
    """
    race = Race(fitted, train, held_out, HALVES, scores_held_out=held_out is not None)
    is_own = learnt_from(config, has_validation=held_out is not None) == "nothing"
    is_short = is_own or config.compared is not None
    entry = race.affordable(config, OWN_LIMIT, OWN_LIMIT) if is_short else None
    if (held_out is None and (entry is None or is_own)) or len(race.scored) < FEWEST_EXAMPLES:
        return None
    names = (OWN_SOFTMAX.name,) if held_out is None else COMPARED
    entries = race.candidates(names) | {config.name: entry}
    predictions = race.predictions(entries)
    if entry is None:
        once = answer().replace(name=config.name)
        predictions[config.name] = [
            once.replace(metadata={"fit_seed": f"{k}"}) for k in range(REPEATS)
        ]
    return _compared(predictions, config, entries, race, as_fitted=entry is None)


def _compared(
    predictions: PredictionsByName,
    config: Posterior,
    entries: Entries,
    race: Race,
    *,
    is_best: bool = False,
    as_fitted: bool = False,
) -> SideBySide:
    """Return scores, paired differences from the chosen posterior, and notes."""
    both = SideBySide(
        examples="validation" if race.scores_held_out else "train",
        folds=race.num_folds,
        chosen=config.name,
        comparison=refit_comparison(predictions, config.name, race.folds, _KEYS),
        options={
            name: options.as_mapping(entry) for name, entry in entries.items() if entry is not None
        },
        left_out={name: TOO_LONG for name in entries if name not in predictions},
        divisions=max(map(len, predictions.values())),
        is_best=is_best,
        as_fitted=as_fitted,
    )
    return replace(both, notes=tuple(_notes(both, config)))


def _notes(both: SideBySide, config: Posterior) -> Iterator[str]:
    """Yield notes on a comparison: a clearly better posterior, and underconfidence."""
    rows = {row.name: row for row in both.comparison.rows}
    chosen, softmax = rows[both.chosen], rows.get(OWN_SOFTMAX.name)
    examples = f"{both.comparison.n} {both.examples} examples"
    better = [
        row
        for row in both.comparison.rows
        if row.is_clear("nll") and row.differences["nll"].value < 0
    ]
    # Memorised examples say nothing about a posterior.
    if both.examples == "train" and softmax is not None and softmax.scores["accuracy"].value == 1:
        return
    if better:
        yield _better(better[0], chosen, examples, len(rows) - 1)
    bias = None if softmax is None else softmax.scores["overconfidence"]
    if bias is not None and bias.high < 0 and config.only_softens:
        sharpen = (name for name in COMPARED[1:] if not POSTERIORS[name].only_softens)
        yield (
            f"the network is underconfident: its mean confidence is {-100 * bias.value:.1f} "
            f"points below its accuracy on {examples}. {both.chosen!r} can only lower confidence; "
            f"{' or '.join(map(repr, sharpen))} can also raise it"
        )


def _better(best: ComparisonRow, chosen: ComparisonRow, examples: str, looks: int) -> str:
    gain = best.differences["nll"]
    who = "the network's own softmax" if best.name == OWN_SOFTMAX.name else repr(best.name)
    words = (
        f"{who} is clearly better than {chosen.name!r} on {examples}: NLL "
        f"{best.scores['nll'].value:.3f} against {chosen.scores['nll'].value:.3f} nats, difference "
        f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    )
    if looks > 1:
        words += f"; it is the best of {looks} compared here, so confirm it on other examples"
    return words


FOLDS, HALVES = 5, 2

MOST_DRAWS = 200
"""Draws of a candidate's link: enough to rank by NLL, and a fifth of the time."""

REPEATS, LONG_REPEATS = 10, 3
"""Largest number of divisions of the examples, and that of a candidate with long fits."""

MOST_ROWS = 20_000
"""Scored examples in all divisions of a candidate, so that its bootstrap intervals take seconds.
With many examples the result hardly depends on the division."""

MOST_LOGITS = 1e7
"""Limit on the logits drawn for the predictions of a candidate's divisions; a prior search draws
them some thirty times. A few seconds on one core."""

FIRST_LIMIT, LAST_LIMIT = 1e9, 2.5e9
"""Limits on the multiplications per round (`posteriors/cost.py`) of a long fit for `FOLDS` parts:
the first for a variant with a cheaper alternative, the second for the cheapest variant. A few
seconds on one core."""

OWN_LIMIT = 1e10
"""The same for the chosen posterior, whose own fit took about as long."""

Entries = dict[str, Posterior | None]
"""Options of candidates by name; None if the fits would take too long."""

Split = tuple[Features, Features | None, Tensor]
"""Training examples, examples for choosing options, and a mask of scored examples [M] bool."""

PredictionsByName = dict[str, list[Predictions]]
"""Predictions by candidate: one `Predictions` of all scored examples per division."""


@dataclass(frozen=True)
class Race:
    """A network and its examples, divided in the same way for every candidate.

    Attributes:
        fitted: The classifier.
        train: Training examples.
        held_out: Held-out examples, or None.
        num_folds: Parts of a division.
        scores_held_out: Whether the held-out examples are divided: each part is scored by a fit to
            all training examples whose options the other parts choose. Otherwise each part of the
            training examples is scored by a fit to the others, and all held-out examples choose.
    """

    fitted: FittedModel
    train: Features
    held_out: Features | None
    num_folds: int
    scores_held_out: bool = False

    @property
    def scored(self) -> Features:
        """The examples that are divided and scored."""
        return self.held_out if self.scores_held_out and self.held_out is not None else self.train

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """Part of each scored example in each division, [REPEATS, M]."""
        labels = self.scored.targets.cpu().numpy()
        seeds = np.random.SeedSequence(self.fitted.record.seed).generate_state(REPEATS)
        return np.stack([stratified_folds(labels, self.num_folds, int(seed)) for seed in seeds])

    def candidates(self, names: Sequence[str]) -> Entries:
        """Return the options of each candidate; None if it would take too long."""
        return {name: self.affordable(resolve_posterior(name)) for name in names}

    def affordable(
        self,
        config: Posterior,
        first_limit: float | None = None,
        last_limit: float | None = None,
    ) -> Posterior | None:
        """Return the first variant within the limits; None if all take too long."""
        *others, last = self._costs(config)
        first_limit = FIRST_LIMIT if first_limit is None else first_limit
        last_limit = LAST_LIMIT if last_limit is None else last_limit
        for simpler, work in others:
            if work <= first_limit:
                return simpler
        return last[0] if last[1] <= last_limit else None

    def _costs(self, config: Posterior) -> list[tuple[Posterior, float]]:
        """Return the variants of the options and their multiplications for `FOLDS` parts."""
        classes, size = self.fitted.network.head.mean_weight.shape
        rows = len(self.train)
        variants = config.variants(classes, size, rows)
        return [
            (variant, cost.multiplications * self.num_folds / FOLDS) for variant, cost in variants
        ]

    def _repeats(self, config: Posterior) -> int:
        """Return the number of affordable divisions, at least one."""
        draws = config.num_samples or 1
        rows = len(self.scored)
        logits = self.num_folds * rows * len(self.fitted.record.classes) * draws
        work = self._costs(config)[0][1]
        most = min(LONG_REPEATS, FIRST_LIMIT / work) if work else REPEATS
        return max(1, int(min(most, MOST_ROWS / rows, MOST_LOGITS / logits)))

    def predictions(self, entries: Entries) -> PredictionsByName:
        """Return each candidate's predictions of all scored examples, division by division.

        Each example is predicted by a fit that it neither entered nor chose for.

        Args:
            entries: Options by name; candidates with None are left out.
        """
        configs = {
            name: _with_few_draws(config) for name, config in entries.items() if config is not None
        }
        repeats = {name: self._repeats(config) for name, config in configs.items()}
        total = self.num_folds * sum(repeats.values())
        shown = self.fitted.progress
        with _without_notes(), progress_bar("compare", total, shown=shown, unit="fit") as advance:
            return {
                name: [self._division(name, config, r, advance) for r in range(repeats[name])]
                for name, config in configs.items()
            }

    def _division(self, name: str, config: Posterior, number: int, advance: Any) -> Predictions:
        classes, scored = tuple(self.fitted.record.classes), self.scored
        probs = np.empty((len(scored), len(classes)))
        for train, choosing, rows in self._splits(number):
            part = self._part_probs(config, train, choosing, scored.take(rows))
            probs[rows.cpu().numpy()] = part.cpu().numpy()
            advance(1)
        labels = scored.targets.cpu().numpy()
        return Predictions(probs, classes, labels, name=name, metadata={"fit_seed": f"{number}"})

    def _splits(self, number: int) -> Iterator[Split]:
        scored = self.scored
        fold = torch.from_numpy(self.folds[number]).to(scored.values.device)
        for part in range(self.num_folds):
            rows = fold == part
            if self.scores_held_out:
                yield self.train, scored.take(~rows), rows
            else:
                yield scored.take(~rows), self.held_out, rows

    def _part_probs(
        self, config: Posterior, train: Features, choosing: Features | None, rows: Features
    ) -> Tensor:
        network = self.fitted.with_posterior(config).network
        fit_head(network, train, choosing)
        return link_probabilities(network.head.predict(rows), **drawing_of(config)).probs


def _with_few_draws(config: Any) -> Any:
    if config.link is None or config.num_samples is None:
        return config
    return replace(config, num_samples=min(config.num_samples, MOST_DRAWS))


@contextmanager
def _without_notes() -> Iterator[None]:
    """Hide warnings of the candidates' fits, such as a prior at the edge of its grid."""
    logger = logging.getLogger("bayeslora")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
