"""Posteriors of the last layer side by side on the same examples.

    with validation examples   fitted to all training examples; of the validation examples one half
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
from bayeslora.engine.card import learnt_from
from bayeslora.engine.final_fit import drawing_of, fit_head
from bayeslora.engine.progress import progress_bar
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.refits import mean_nll, refit_comparison
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import BEST, POSTERIORS, resolve_posterior
from bayeslora.predictions.record import Predictions
from bayeslora.tasks.splits import stratified_folds

if TYPE_CHECKING:
    from bayeslora.engine.model import FittedModel

CANDIDATES = ("mle", "temperature", "laplace", "vbll")
"""What is compared, the simplest first: the network's own softmax; one number, which can soften and
sharpen; a covariance around the same mean, which can only soften; other means too. Each is fitted
in closed form or by a short search, so that all of them take seconds. G-VBLL and NUTS do not."""

FEWEST_EXAMPLES = 20
"""Examples below which no difference is worth a table."""

TOO_LONG = "too slow to fit here"

_KEYS = ("accuracy", "nll", "ece", "overconfidence")


@dataclass(frozen=True)
class SideBySide:
    """Posteriors on the same examples.

    Attributes:
        examples: Which examples score them: `validation` or `train`.
        folds: Parts that these were divided into.
        chosen: Name of the posterior that was fitted in the end.
        comparison: Scores of each, means over divisions, best NLL first. The paired differences
            from the chosen one have the interval and p-value of `refit_difference` for NLL.
        options: Options of each candidate that was fitted for the comparison, by name.
        left_out: Why a candidate is missing, by name.
        divisions: How often the examples were divided at most.
        is_best: Whether the chosen one was chosen because of its NLL here.
        as_fitted: Whether the chosen one is scored as it was fitted, on examples that chose what it
            chose.
        notes: What follows, in sentences.
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
            "divisions": self.divisions,
            "chosen": self.chosen,
            "is_best": self.is_best,
            "as_fitted": self.as_fitted,
            "rows": rows,
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


def best_posterior(
    fitted: FittedModel, train: Features, held: Features | None
) -> tuple[Posterior, SideBySide]:
    """Return the candidate of lowest cross-validated NLL, and how all of them did.

    Args:
        fitted: The classifier as it is.
        train: Examples to cross-validate on.
        held: Held-out examples, by which candidates choose what they choose.

    Raises:
        InputError: There are fewer than `FEWEST_EXAMPLES` training examples.
    """
    if len(train) < FEWEST_EXAMPLES:
        raise InputError(
            f"posterior {BEST!r} is chosen by cross-validation, which needs at least "
            f"{FEWEST_EXAMPLES} labelled rows, got {len(train)}; name a posterior"
        )
    race = Race(fitted, train, held, FOLDS)
    entries = race.candidates(CANDIDATES)
    found = race.predictions(entries)
    lowest = min(found, key=lambda name: mean_nll(found[name]))
    config = entries[lowest]
    if config is None:
        raise ValueError(f"{lowest!r} was not fitted")
    return config, _compared(found, config, entries, race, is_best=True)


def beside_others(
    fitted: FittedModel,
    config: Posterior,
    train: Features,
    held: Features | None,
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
    race = Race(fitted, train, held, HALVES, halves_held=held is not None)
    is_own = learnt_from(config, has_validation=held is not None) == "nothing"
    is_short = is_own or config.name in CANDIDATES
    own = race.affordable(config, OWN_LIMIT, OWN_LIMIT) if is_short else None
    if (held is None and (own is None or is_own)) or len(race.scored) < FEWEST_EXAMPLES:
        return None
    beside = CANDIDATES[:1] if held is None else CANDIDATES
    entries = race.candidates(beside) | {config.name: own}
    found = race.predictions(entries)
    if own is None:
        once = answer().replace(name=config.name)
        found[config.name] = [once.replace(metadata={"fit_seed": f"{k}"}) for k in range(REPEATS)]
    return _compared(found, config, entries, race, as_fitted=own is None)


def _compared(
    found: Found,
    config: Posterior,
    entries: Entries,
    race: Race,
    *,
    is_best: bool = False,
    as_fitted: bool = False,
) -> SideBySide:
    """Return scores, paired differences from the chosen posterior, and what follows."""
    both = SideBySide(
        examples="validation" if race.halves_held else "train",
        folds=race.num_folds,
        chosen=config.name,
        comparison=refit_comparison(found, config.name, race.folds, _KEYS),
        options={name: options.as_mapping(one) for name, one in entries.items() if one is not None},
        left_out={name: TOO_LONG for name in entries if name not in found},
        divisions=max(map(len, found.values())),
        is_best=is_best,
        as_fitted=as_fitted,
    )
    return replace(both, notes=tuple(_notes(both, config)))


def _notes(both: SideBySide, config: Posterior) -> Iterator[str]:
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
    if bias is not None and bias.high < 0 and config.only_softens:
        sharpen = (name for name in CANDIDATES[1:] if not POSTERIORS[name].only_softens)
        yield (
            f"the network is underconfident: its mean confidence is {-100 * bias.value:.1f} points "
            f"below its accuracy on {where}. {both.chosen!r} can only soften; one that can sharpen "
            f"is {' or '.join(map(repr, sharpen))}"
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
        words += f"; it is the best of {looks} compared here, so confirm it on other examples"
    return words


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

Split = tuple[Features, Features | None, Tensor]
"""Examples to fit to, examples that choose, examples to score [M] bool."""

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

    fitted: FittedModel
    train: Features
    held: Features | None
    num_folds: int
    halves_held: bool = False

    @property
    def scored(self) -> Features:
        """The examples that are divided."""
        return self.held if self.halves_held and self.held is not None else self.train

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """[REPEATS, M] part of each scored example in each division."""
        labels = self.scored.targets.cpu().numpy()
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
        for simpler, work in others:
            if work <= first_limit:
                return simpler
        return last[0] if last[1] <= last_limit else None

    def _costs(self, config: Posterior) -> list[tuple[Posterior, float]]:
        """Return what the options may stand for, and its work in a division."""
        classes, size = self.fitted.network.head.mean_weight.shape
        rows = len(self.train)
        found = config.variants(classes, size, rows)
        return [(one, cost.multiplications * self.num_folds / FOLDS) for one, cost in found]

    def _repeats(self, config: Posterior) -> int:
        """Return how many divisions are affordable, at least one."""
        draws = config.num_samples or 1
        rows = len(self.scored)
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
            if self.halves_held:
                yield self.train, scored.take(~rows), rows
            else:
                yield scored.take(~rows), self.held, rows

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
    """Hide what the fits of candidates note, such as a prior at the edge of its grid."""
    ours = logging.getLogger("bayeslora")
    before = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(before)
