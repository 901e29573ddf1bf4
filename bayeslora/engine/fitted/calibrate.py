"""Fit a posterior to labelled rows of a finished network, beside others on the same rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bayeslora.checkpoint import ModelRecord
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import Examples, data_hash
from bayeslora.data.splits import split_examples, stratified_folds
from bayeslora.engine import formats
from bayeslora.engine.data import check_hold_out, encode_for
from bayeslora.engine.fitted.card import learnt_from
from bayeslora.engine.fitted.refit import (
    answers,
    compared,
    known,
    refit,
    say_too_wide,
    scores_of,
    with_posterior,
)
from bayeslora.engine.network import Network
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training.final_fit import fit_head
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.metrics.compare import Comparison, ComparisonRow, compare
from bayeslora.metrics.rowwise import row_scores
from bayeslora.metrics.scores import Scores
from bayeslora.posteriors import feature_scores as feature_options
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.features import Features
from bayeslora.posteriors.registry import BEST, COMPARED, POSTERIORS, own_softmax, resolve_posterior
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)


def calibrate(
    network: Network,
    posterior: Posterior | None,
    train: Examples,
    validation: Examples | None,
    *,
    columns: DataColumns,
    feature_scores: Sequence[str] | None = (),
    hold_out: float = 0.0,
) -> tuple[Network, tuple[Scores, Scores] | None, SideBySide | None]:
    """Fit a posterior to labelled examples; see `check_takes`.

    Args:
        network: The finished network; unchanged, also if anything fails.
        posterior: Posterior to fit; None for the candidate of lowest cross-validated NLL.
        train: Examples to fit to.
        validation: Held-out examples, or None.
        columns: Columns that the data was read from.
        feature_scores: Names of scores to fit as well; None for the default ones.
        hold_out: Share of `train` to use as `validation`, which must be None; 0 for none.

    Returns:
        The network with the posterior, scores of the held-out examples before and after, and the
        comparison with other posteriors; None without any.

    Raises:
        InputError: The data is not allowed, or the posterior cannot be fitted to this network.
    """
    record, whole = network.record, train
    if hold_out:
        labels = encode_for(record, whole)
        train_rows, validation_rows = split_examples(whole, labels, hold_out, record.seed)
        train, validation = whole.take(train_rows), whole.take(validation_rows)
    held_out = None if validation is None else known(network, validation)
    rows = None if held_out is None else held_out[2]
    before = None if held_out is None else scores_of(network, held_out)
    fitted_to = known(network, train, to_fit=True)
    features = fitted_to[2]
    race: SideBySide | None = None
    if posterior is None:
        posterior, race = best_posterior(network, features, rows)
    classes, size = network.head.mean_weight.shape
    posterior = posterior.sized(classes, size, len(train))
    # A new head even if the posterior is the same: the present one may have fixed its means, and
    # remains the classifier's if the fit fails.
    try:
        names = formats.feature_scores(network.plan.format, feature_scores)
        new = with_posterior(network, posterior)
        refit(new, fitted_to, held_out, columns, feature_options.settled_scores(names, posterior))
        if race is None:
            race = beside_others(
                network, posterior, features, rows, lambda: answers(new, held_out or fitted_to)
            )
    except BaseException:
        # Both share the adapters, which an unfinished search may have rotated.
        network.load_trained_state(network.members[0])
        raise
    results, data = dict(new.record.results), dict(new.record.data)
    scores: tuple[Scores, Scores] | None = None
    if held_out is not None and before is not None:
        say_too_wide(new, held_out)
        scores = before, scores_of(new, held_out)
        results["validation"] = compared(*scores)
    if race is None:
        _say_too_few(posterior, len(rows or features))
    else:
        for note in race.notes:
            logger.warning("%s", note)
        results["comparison"] = race.to_json()
    if hold_out:
        results["calibration"] = results["calibration"] | {"hold_out": hold_out}
        data["whole"] = data_hash(whole)
    new.record = replace(new.record, results=results, data=data)
    return new, scores, race


def _say_too_few(posterior: Posterior, examples: int) -> None:
    """Warn if the examples are too few to compare the posterior with the network's softmax."""
    if examples < FEWEST_EXAMPLES and posterior.name != own_softmax().name:
        logger.warning(
            "%d examples are too few to compare %r with the network's own softmax (at least %d are "
            "needed), so it may be worse",
            examples,
            posterior.name,
            FEWEST_EXAMPLES,
        )


def check_calibration(
    posterior: Posterior | None,
    feature_scores: str | Sequence[str] | None,
    hold_out: float,
    *,
    validated: bool,
) -> Sequence[str] | None:
    """Check the options of a calibration, for which no model is needed.

    Args:
        posterior: Options of the posterior; None to choose the best.
        feature_scores: Names of scores to fit as well; None for the default ones.
        hold_out: Share of the rows to use as validation rows.
        validated: Whether there are validation rows.

    Returns:
        The names of the scores, or None.

    Raises:
        InputError: An option is not allowed.
    """
    check_hold_out(hold_out, validated=validated)
    names = feature_options.feature_scores(feature_scores)
    if posterior is not None:
        feature_options.check_feature_scores(names, posterior)
    return names


def check_labels(record: ModelRecord, rows: Examples, *, moves: bool) -> None:
    """Raise InputError if all rows are of one class, and warn about classes without rows.

    Args:
        record: Record of the classifier.
        rows: Rows to fit a posterior to.
        moves: Whether that posterior fits its own mean, from these rows alone.

    Raises:
        InputError: All rows are of one class, or a label is unknown.
    """
    if rows.choices is not None:  # letters are not classes
        encode_for(record, rows)
        return
    classes = record.classes
    counts = np.bincount(encode_for(record, rows), minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if len(missing) == len(classes) - 1:
        only = classes[int(counts.argmax())]
        raise InputError(
            f"{rows.source}: all {len(rows)} rows have the label {only!r}; a posterior needs rows "
            "of every class"
        )
    if missing and moves:
        logger.warning(
            "%s: no row of %s; a posterior fitted to the other classes lowers its probability",
            rows.source,
            ", ".join(map(repr, missing)),
        )


FEWEST_EXAMPLES = 20
"""Examples below which no difference is worth a table."""

FOLDS, HALVES = 5, 2

MOST_DRAWS = 200
"""Draws of a candidate's link: enough to rank by NLL, and a fifth of the time."""

_KEYS = ("accuracy", "nll", "ece", "overconfidence")

_SHOWN = 0.0005
"""Smallest difference that three digits show."""

_NOTICED = {"nll": _SHOWN, "ece": 0.01}
"""Differences from the network's own softmax that are said, even if they may be chance."""


@dataclass(frozen=True)
class SideBySide:
    """Posteriors on the same examples.

    Attributes:
        examples: The scored examples: `validation` or `train`.
        folds: Number of parts of the scored examples.
        chosen: Name of the posterior that was fitted in the end.
        comparison: Scores of each, best NLL first, and paired differences from the chosen one.
        is_best: Whether the posterior was chosen for its NLL here.
        as_fitted: Whether the chosen posterior is scored as fitted, on the examples that chose its
            options.
        notes: Conclusions, in sentences.
    """

    examples: Literal["validation", "train"]
    folds: int
    chosen: str
    comparison: Comparison
    is_best: bool = False
    as_fitted: bool = False
    notes: tuple[str, ...] = ()

    @property
    def worse_than_network(self) -> dict[str, dict[str, float | bool]]:
        """Scores that the network's own softmax has better: `value`, `network`, and `is_clear`."""
        rows = {row.name: row for row in self.comparison.rows}
        chosen, own = rows[self.chosen], rows.get(own_softmax().name, rows[self.chosen])
        worse: dict[str, dict[str, float | bool]] = {}
        for key, least in _NOTICED.items():
            value, network = chosen.scores[key].value, own.scores[key].value
            is_clear = own.is_clear(key)
            if value - network >= (_SHOWN if is_clear else least):
                worse[key] = {"value": value, "network": network, "is_clear": is_clear}
        return worse

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain mappings, lists and numbers, for a model's record."""
        content = self.comparison.to_json()
        rows = [
            {
                "posterior": row["name"],
                "scores": row["scores"],
                "nll_difference": row["differences"]["nll"],
                "p": row["p_holm"].get("nll"),
            }
            for row in content["rows"]
        ]
        return {
            "examples": self.examples,
            "n": content["n"],
            "folds": self.folds,
            "chosen": self.chosen,
            "is_best": self.is_best,
            "as_fitted": self.as_fitted,
            "worse_than_network": self.worse_than_network,
            "rows": rows,
            "notes": list(self.notes),
        }


def best_posterior(
    network: Network, train: Features, held_out: Features | None
) -> tuple[Posterior, SideBySide]:
    """Return the candidate of lowest cross-validated NLL, and the comparison of all.

    Args:
        network: The classifier as it is.
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
    configs = {name: _candidate(network, name, train) for name in COMPARED}
    predictions = _cross_fitted(
        network, configs, train, FOLDS, lambda rows: (train.take(~rows), held_out)
    )
    best = min(predictions, key=lambda name: row_scores(predictions[name]).nll.mean())
    race = SideBySide("train", FOLDS, best, _compared(predictions, best), is_best=True)
    return configs[best], _with_notes(race, configs[best])


def beside_others(
    network: Network,
    config: Posterior,
    train: Features,
    held_out: Features | None,
    answer: Callable[[], Predictions],
) -> SideBySide | None:
    """Compare the chosen posterior with the candidates; return None if there is nothing to compare.

    Args:
        network: The classifier before `config` was fitted.
        config: The chosen posterior.
        train: Examples that it was fitted to.
        held_out: Held-out examples; None compares with the network's own softmax only.
        answer: Returns its predictions of the held-out examples, which are scored if it is no
            candidate: its fits take longer. Its options were then chosen on these examples.
    """
    is_own = learnt_from(config, has_validation=held_out is not None) == "nothing"
    refits = is_own or config.name in COMPARED
    scored = train if held_out is None else held_out
    if (held_out is None and (is_own or not refits)) or len(scored) < FEWEST_EXAMPLES:
        return None

    def split(rows: Tensor) -> tuple[Features, Features | None]:
        return (train.take(~rows), None) if held_out is None else (train, held_out.take(~rows))

    names = (own_softmax().name,) if held_out is None else COMPARED
    configs = {name: _candidate(network, name, train) for name in names}
    configs.pop(config.name, None)
    if refits:
        configs[config.name] = config
    predictions = _cross_fitted(network, configs, scored, HALVES, split)
    if not refits:
        predictions[config.name] = answer().replace(name=config.name, ids=None, metadata={})
    race = SideBySide(
        "train" if held_out is None else "validation",
        HALVES,
        config.name,
        _compared(predictions, config.name),
        as_fitted=not refits,
    )
    return _with_notes(race, config)


def _candidate(network: Network, name: str, train: Features) -> Posterior:
    """Return the default options of a posterior for these examples."""
    classes, size = network.head.mean_weight.shape
    config: Posterior = resolve_posterior(name)
    return config.sized(classes, size, len(train))


def _cross_fitted(
    network: Network,
    configs: Mapping[str, Posterior],
    scored: Features,
    num_folds: int,
    split: Callable[[Tensor], tuple[Features, Features | None]],
) -> dict[str, Predictions]:
    """Return each candidate's predictions, by fits that an example neither entered nor chose for.

    Args:
        network: The classifier.
        configs: Options by name.
        scored: Examples to predict.
        num_folds: Number of parts that they are divided into.
        split: From a mask of the part to predict, [M] bool, to the examples to fit to and those
            that choose options.
    """
    labels, classes = scored.targets.cpu().numpy(), tuple(network.record.classes)
    fold = torch.from_numpy(stratified_folds(labels, num_folds, network.record.seed))
    fold = fold.to(scored.values.device)
    predictions = {}
    total = num_folds * len(configs)
    bar = progress_bar("compare", total, shown=network.progress, unit="fit")
    with _without_notes(), bar as advance:
        for name, config in configs.items():
            few_draws = _with_few_draws(config)
            probs = np.empty((len(scored), len(classes)))
            for part in range(num_folds):
                rows = fold == part
                new = with_posterior(network, few_draws)
                fit_head(new, *split(rows))
                logits = new.head.predict(scored.take(rows))
                drawn = link_probabilities(logits, **few_draws.drawing).probs
                probs[rows.cpu().numpy()] = drawn.cpu().numpy()
                advance(1)
            predictions[name] = Predictions(probs, classes, labels, name=name)
    return predictions


def _with_few_draws(config: Any) -> Any:
    if config.link is None or config.num_samples is None:
        return config
    return replace(config, num_samples=min(config.num_samples, MOST_DRAWS))


def _compared(predictions: Mapping[str, Predictions], chosen: str) -> Comparison:
    return compare(list(predictions.values()), reference=chosen, scores=_KEYS)


def _with_notes(race: SideBySide, config: Posterior) -> SideBySide:
    return replace(race, notes=tuple(_notes(race, config)))


def _notes(race: SideBySide, config: Posterior) -> Iterator[str]:
    """Yield notes on a comparison: a clearly better posterior, and underconfidence."""
    rows = {row.name: row for row in race.comparison.rows}
    chosen, softmax = rows[race.chosen], rows.get(own_softmax().name)
    examples = f"{race.comparison.n} {race.examples} examples"
    better = [
        row
        for row in race.comparison.rows
        if row.is_clear("nll") and row.differences["nll"].value < 0
    ]
    # Memorised examples say nothing about a posterior.
    if race.examples == "train" and softmax is not None and softmax.scores["accuracy"].value == 1:
        return
    if better:
        yield _better(better[0], chosen, examples, len(rows) - 1)
    worse = race.worse_than_network
    if better and better[0].name == own_softmax().name:
        worse.pop("nll", None)  # said already
    if worse:
        scores = (
            f"{key.upper()} {each['value']:.3f} against {each['network']:.3f}"
            f"{'' if each['is_clear'] else ' (within chance)'}"
            for key, each in worse.items()
        )
        yield (
            f"{race.chosen!r} is worse than the network's own softmax on {examples}: "
            f"{', '.join(scores)}"
        )
    bias = None if softmax is None else softmax.scores["overconfidence"]
    if bias is not None and bias.high < 0 and config.only_softens:
        sharpen = (name for name in COMPARED[1:] if not POSTERIORS[name].only_softens)
        yield (
            f"the network is underconfident: its mean confidence is {-100 * bias.value:.1f} "
            f"points below its accuracy on {examples}. {race.chosen!r} can only lower confidence; "
            f"{' or '.join(map(repr, sharpen))} can also raise it"
        )


def _better(best: ComparisonRow, chosen: ComparisonRow, examples: str, looks: int) -> str:
    gain = best.differences["nll"]
    who = "the network's own softmax" if best.name == own_softmax().name else repr(best.name)
    words = (
        f"{who} is clearly better than {chosen.name!r} on {examples}: NLL "
        f"{best.scores['nll'].value:.3f} against {chosen.scores['nll'].value:.3f} nats, difference "
        f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    )
    if looks > 1:
        words += f"; it is the best of {looks} compared here, so confirm it on other examples"
    return words


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
