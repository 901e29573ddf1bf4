"""Fit a posterior to labelled rows of a finished network, beside others on the same rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bayeslora.checkpoint import ModelRecord
from bayeslora.data.columns import DataColumns
from bayeslora.data.examples import Examples, data_hash
from bayeslora.data.splits import split_examples, stratified_folds
from bayeslora.engine.build import scores_of_format
from bayeslora.engine.data import (
    check_pairs,
    columns_of,
    encode_for,
    read_labelled,
    read_validation,
)
from bayeslora.engine.fitted import refit
from bayeslora.engine.fitted.card import learnt_from
from bayeslora.engine.network import Network
from bayeslora.engine.progress import progress_bar
from bayeslora.engine.training.final_fit import fit_head
from bayeslora.engine.training_options import columns_in
from bayeslora.errors import InputError
from bayeslora.links import link_probabilities
from bayeslora.metrics.compare import Comparison, ComparisonRow, compare
from bayeslora.metrics.rowwise import row_scores
from bayeslora.metrics.scores import Scores
from bayeslora.option_checks import BelowOne, checked
from bayeslora.posteriors import feature_scores as feature_options
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.registry import BEST, COMPARED, POSTERIORS, own_softmax, resolve_posterior
from bayeslora.posteriors.types import Features
from bayeslora.predictions.record import Predictions

logger = logging.getLogger(__name__)


def calibrate(
    network: Network,
    posterior: Posterior | None,
    train: Any,
    validation: Any,
    *,
    names: Mapping[str, Any],
    feature_scores: str | Sequence[str] | None = (),
    hold_out: float = 0.0,
) -> tuple[Network, tuple[Scores, Scores] | None, SideBySide | None]:
    """Fit a posterior to labelled rows; see `BayesianClassifier.calibrate`.

    Args:
        network: The finished network; unchanged, also if anything fails.
        posterior: Posterior to fit; None for the candidate of lowest cross-validated NLL.
        train: Rows to fit to.
        validation: Held-out rows, or None.
        names: `ColumnNames` that differ from those of the fit.
        feature_scores: Names of scores to fit as well; None for the default ones.
        hold_out: Share of `train` to use as `validation`, which must be None; 0 for none.

    Returns:
        The network with the posterior, scores of the held-out rows before and after, and the
        comparison with other posteriors; None without any.

    Raises:
        InputError: The data is not allowed, or the posterior cannot be fitted to this network.
    """
    refit.check_takes(network, posterior or own_softmax())
    validated, record = validation is not None, network.record
    scores = check_calibration(posterior, feature_scores, hold_out, validated=validated)
    if scores is None and (posterior is None or feature_options.has_one_feature(posterior)):
        scores = tuple(record.feature_scores) or None
    check_pairs(record, names.get("pair_column"))
    columns = columns_of(record).renamed(**columns_in(names))
    rows = read_labelled(train, columns, record)
    # A point estimate is not fitted to these rows, nor is a temperature with validation rows.
    if learnt_from(posterior, has_validation=validated or bool(hold_out)) == "train":
        check_labels(record, rows, moves=posterior is not None and posterior.moves_mean)
    held_out = read_validation(validation, columns, rows, record) if validated else None
    parts = rows, held_out
    if hold_out:
        split = split_examples(rows, encode_for(record, rows), hold_out, record.seed)
        parts = rows.take(split[0]), rows.take(split[1])
    new, before_and_after, race = _fitted(
        network, posterior, *parts, columns=columns, feature_scores=scores
    )
    if hold_out:
        results, data = dict(new.record.results), dict(new.record.data)
        results["calibration"] = results["calibration"] | {"hold_out": hold_out}
        data["whole"] = data_hash(rows)
        new.record = replace(new.record, results=results, data=data)
    return new, before_and_after, race


def _fitted(
    network: Network,
    posterior: Posterior | None,
    train: Examples,
    validation: Examples | None,
    *,
    columns: DataColumns,
    feature_scores: Sequence[str] | None,
) -> tuple[Network, tuple[Scores, Scores] | None, SideBySide | None]:
    """Fit a posterior to rows that were checked; see `calibrate`."""
    held_out = None if validation is None else refit.known(network, validation)
    rows = None if held_out is None else held_out[2]
    before = None if held_out is None else refit.scores_of(network, held_out)
    fitted_to = refit.known(network, train, to_fit=True)
    features = fitted_to[2]
    race: SideBySide | None = None
    if posterior is None:
        race = best_posterior(network, features, rows)
        posterior = race.posterior
    classes, size = network.head.mean_weight.shape
    posterior = posterior.sized(classes, size, len(train))
    # A new head even if the posterior is the same: the present one may have fixed its means, and
    # remains the classifier's if the fit fails.
    try:
        names = scores_of_format(network.plan.format, feature_scores)
        names = feature_options.settled_scores(names, posterior)
        new = refit.with_posterior(network, posterior)
        refit.refit(new, fitted_to, held_out, columns, names)
        if race is None:
            answer = partial(refit.answers, new, held_out or fitted_to)
            race = beside_others(network, posterior, features, rows, answer)
    except BaseException:
        # Both share the adapters, which an unfinished search may have rotated.
        network.load_trained_state(network.members[0])
        raise
    results = dict(new.record.results)
    scores: tuple[Scores, Scores] | None = None
    if held_out is not None and before is not None:
        refit.say_too_wide(new, held_out)
        scores = before, refit.scores_of(new, held_out)
        results["validation"] = refit.compared(*scores)
    if race is not None:
        for note in race.notes:
            logger.warning("%s", note)
        results["comparison"] = race.to_json()
    elif len(rows or features) < FEWEST_EXAMPLES and posterior.name != own_softmax().name:
        logger.warning(
            "%d examples are too few to compare %r with the network's own softmax (at least %d are "
            "needed), so it may be worse",
            *(len(rows or features), posterior.name, FEWEST_EXAMPLES),
        )
    new.record = replace(new.record, results=results)
    return new, scores, race


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
    if checked("hold_out", hold_out, BelowOne) and validated:
        raise InputError(
            "hold_out (--hold-out) takes validation rows from the training rows; leave validation "
            "(--validation) out",
            code="clash",
        )
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
        posterior: The posterior that was fitted in the end.
        comparison: Scores of each, best NLL first, and paired differences from the chosen one.
        is_best: Whether the posterior was chosen for its NLL here.
        as_fitted: Whether the chosen posterior is scored as fitted, on the examples that chose its
            options.
    """

    examples: Literal["validation", "train"]
    folds: int
    posterior: Posterior
    comparison: Comparison
    is_best: bool = False
    as_fitted: bool = False

    @property
    def chosen(self) -> str:
        """Name of the posterior that was fitted in the end."""
        return self.posterior.name

    @property
    def notes(self) -> tuple[str, ...]:
        """Conclusions in sentences: a clearly better posterior, and underconfidence."""
        rows = {row.name: row for row in self.comparison.rows}
        softmax = rows.get(own_softmax().name)
        # Memorised examples say nothing about a posterior.
        learnt = softmax is not None and softmax.scores["accuracy"].value == 1
        if self.examples == "train" and learnt:
            return ()
        notes = []
        examples = f"{self.comparison.n} {self.examples} examples"
        worse = self.worse_than_network
        for row in self.comparison.rows:
            if row.is_clear("nll") and row.differences["nll"].value < 0:
                notes.append(_better(row, rows[self.chosen], examples, len(rows) - 1))
                if row is softmax:
                    worse.pop("nll", None)  # said already
                break
        if worse:
            scores = (
                f"{key.upper()} {each['value']:.3f} against {each['network']:.3f}"
                f"{'' if each['is_clear'] else ' (within chance)'}"
                for key, each in worse.items()
            )
            what = f"{self.chosen!r} is worse than the network's own softmax on {examples}"
            notes.append(f"{what}: {', '.join(scores)}")
        bias = None if softmax is None else softmax.scores["overconfidence"]
        if bias is not None and bias.high < 0 and self.posterior.only_softens:
            sharpen = (name for name in COMPARED[1:] if not POSTERIORS[name].only_softens)
            notes.append(
                f"the network is underconfident: its mean confidence is {-100 * bias.value:.1f} "
                f"points below its accuracy on {examples}. {self.chosen!r} can only lower "
                f"confidence; {' or '.join(map(repr, sharpen))} can also raise it"
            )
        return tuple(notes)

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


def best_posterior(network: Network, train: Features, held_out: Features | None) -> SideBySide:
    """Compare the candidates by cross-validation, and choose the one of lowest NLL.

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
    configs = _candidates(network, COMPARED, len(train))
    predictions = _cross_fitted(
        network, configs, train, FOLDS, lambda rows: (train.take(~rows), held_out)
    )
    best = min(predictions, key=lambda name: row_scores(predictions[name]).nll.mean())
    comparison = compare(list(predictions.values()), reference=best, scores=_KEYS)
    return SideBySide("train", FOLDS, configs[best], comparison, is_best=True)


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
    configs = _candidates(network, [name for name in names if name != config.name], len(train))
    if refits:
        configs[config.name] = config
    predictions = _cross_fitted(network, configs, scored, HALVES, split)
    if not refits:
        predictions[config.name] = answer().replace(name=config.name, ids=None, metadata={})
    comparison = compare(list(predictions.values()), reference=config.name, scores=_KEYS)
    examples: Literal["validation", "train"] = "train" if held_out is None else "validation"
    return SideBySide(examples, HALVES, config, comparison, as_fitted=not refits)


def _candidates(network: Network, names: Iterable[str], num_rows: int) -> dict[str, Posterior]:
    """Return the default options of posteriors by name, for a number of examples."""
    classes, size = network.head.mean_weight.shape
    return {name: resolve_posterior(name).sized(classes, size, num_rows) for name in names}


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
            few_draws: Any = config
            if config.link is not None and config.num_samples is not None:
                few_draws = replace(few_draws, num_samples=min(config.num_samples, MOST_DRAWS))
            probs = np.empty((len(scored), len(classes)))
            for part in range(num_folds):
                rows = fold == part
                new = refit.with_posterior(network, few_draws)
                fit_head(new, *split(rows))
                logits = new.head.predict(scored.take(rows))
                drawn = link_probabilities(logits, **few_draws.drawing).probs
                probs[rows.cpu().numpy()] = drawn.cpu().numpy()
                advance(1)
            predictions[name] = Predictions(probs, classes, labels, name=name)
    return predictions


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
