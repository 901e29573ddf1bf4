"""Posteriors of the last layer side by side on the same examples; the fits are in `race.py`.

    with validation examples   fitted to all training examples; of the validation examples one half
                               chooses and the other is scored, and the other way round
    without, or for `best`     cross-validated over the training examples

Differences of NLL are paired. Their intervals and p-values allow for fits that share examples
(`metrics/refits.py`, after Nadeau and Bengio 2003), and the p-values for the number of candidates
(Holm 1979).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from bayeslora import options
from bayeslora.errors import InputError
from bayeslora.metrics.compare import Comparison, ComparisonRow
from bayeslora.metrics.refits import mean_nll, refit_comparison
from bayeslora.posteriors.base import Posterior
from bayeslora.predictions.record import Predictions
from bayeslora.training.notes import learnt_from
from bayeslora.training.race import FOLDS, HALVES, OWN_LIMIT, REPEATS, Entries, Found, Race
from bayeslora.training.rows import FeatureRows

if TYPE_CHECKING:
    from bayeslora.training.fitted import Fitted

BEST = "best"
"""In the place of a posterior: the candidate of lowest cross-validated NLL."""

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
    fitted: Fitted, train: FeatureRows, held: FeatureRows | None
) -> tuple[Posterior, SideBySide]:
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
    race = Race(fitted, train, held, FOLDS)
    entries = race.candidates(CANDIDATES)
    found = race.predictions(entries)
    lowest = min(found, key=lambda name: mean_nll(found[name]))
    config = entries[lowest]
    if config is None:
        raise ValueError(f"{lowest!r} was not fitted")
    return config, _compared(found, config, entries, race, is_best=True)


def beside_others(
    fitted: Fitted,
    config: Posterior,
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
    race = Race(fitted, train, held, HALVES, halves_held=held is not None)
    is_own = learnt_from(config, has_validation=held is not None) == "nothing"
    is_short = is_own or config.name in CANDIDATES
    own = race.affordable(config, OWN_LIMIT, OWN_LIMIT) if is_short else None
    if (held is None and (own is None or is_own)) or len(race.scored.labels) < FEWEST_EXAMPLES:
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
        yield (
            f"the network is underconfident: its mean confidence is {-100 * bias.value:.1f} points "
            f"below its accuracy on {where}. {both.chosen!r} can only soften; 'temperature' "
            "can sharpen, and 'vbll' may"
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
