"""Detection is not judged by uninformative epistemic uncertainty."""

import numpy as np
import pytest

from bayeslora.metrics.evaluate import evaluate
from bayeslora.metrics.ood import NEGLIGIBLE, default_detector, doubt, draw_errors
from bayeslora.predictions.record import Predictions


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def entropies(probs):
    return -(probs * np.log(probs)).sum(-1)


def drawn(mean, variance, draws, generator, *, paired):
    """Return probabilities and information of rows [N, C] from their draws, by the textbook."""
    if paired:
        half = generator.normal(size=(draws // 2, *mean.shape))
        noise = np.concatenate([half, -half])
    else:
        noise = generator.normal(size=(draws, *mean.shape))
    probs = softmax(mean + np.sqrt(variance)[:, None] * noise)
    return probs.mean(0), entropies(probs.mean(0)) - entropies(probs).mean(0)


def predictions(mean, variance, draws, seed=0, *, paired=True, **more):
    generator = np.random.default_rng(seed)
    probs, information = drawn(mean, variance, draws, generator, paired=paired)
    names = tuple("abcdefgh"[: mean.shape[1]])
    notes = {"num_samples": str(draws), "link": "mc" if paired else "softmax"}
    return Predictions(probs, names, epistemic=information, **{"metadata": notes, **more})


def logits(rows, classes=4, scale=1.5, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, classes)) * scale


@pytest.mark.parametrize(("classes", "draws"), [(2, 40), (4, 12), (8, 6)])
@pytest.mark.parametrize("paired", [True, False])
def test_the_error_of_the_draws_is_what_repeated_sampling_shows(classes, draws, paired):
    """3,000 repetitions: variances have a relative error of about 5 %, heavy tails included."""
    mean = logits(6, classes)
    again = np.repeat(mean, 3000, axis=0)
    record = predictions(again, np.full(len(again), 0.01), draws, paired=paired)
    estimated = np.square(draw_errors(record)).reshape(6, 3000).mean(1)
    true = record.epistemic.reshape(6, 3000).var(1)
    np.testing.assert_allclose(estimated, true, rtol=0.25)


def test_a_posterior_that_varies_from_row_to_row_is_judged_by_it():
    spread = np.random.default_rng(1).gamma(1.0, 0.3, size=200)
    inside, outside = (predictions(logits(200, seed=s), spread, 1000, s) for s in (0, 1))
    assert doubt(inside, outside) == ""
    assert default_detector(inside, outside) == "epistemic"
    by_option, by_letter = (
        [record.replace(metadata=record.metadata | {"question_format": name}) for record in pair]
        for pair, name in (((inside, outside), "options"), ((inside, outside), "letters"))
    )
    assert default_detector(*by_option) == "max_probability"
    assert default_detector(*by_letter) == "epistemic"


def test_a_prior_at_its_edge_leaves_a_point_estimate():
    """Variances of 1e-5, as after a Laplace fit that drives its precision to the upper limit."""
    tiny = np.full(200, 1e-5) * np.random.default_rng(0).gamma(1.0, 1.0, size=200)
    inside, outside = (predictions(logits(200, seed=s), tiny, 1000, s) for s in (0, 1))
    assert 0 < inside.epistemic.mean() < NEGLIGIBLE * inside.uncertainty("entropy").mean()
    assert doubt(inside, outside) == "negligible"
    assert default_detector(inside, outside) == "max_probability"


def test_differences_that_the_draws_make_are_noise():
    """All rows are alike: only the error of four passes varies."""
    same = np.tile([1.0, 0.0], (300, 1))
    inside, outside = (
        predictions(same, np.full(300, 0.05), 4, seed, paired=False) for seed in (0, 1)
    )
    # half of the values lie above the expected error, so slightly smaller ones are surely noise
    calmer = [record.replace(epistemic=0.9 * record.epistemic + 0.1 * record.epistemic.mean())
              for record in (inside, outside)]  # fmt: skip
    assert doubt(*calmer) == "noise"
    assert default_detector(*calmer) == "max_probability"
    unknown = [record.replace(metadata={}) for record in calmer]
    assert default_detector(*unknown) == "epistemic"


def useless():
    """Return uninformative epistemic uncertainty with an informative highest probability."""
    generator = np.random.default_rng(0)

    def rows(size, scale):
        probs = softmax(generator.normal(size=(size, 3)) * scale)
        return Predictions(probs, ("a", "b", "c"), epistemic=generator.random(size) / 10)

    return rows(300, 5.0), rows(200, 0.5)


def test_distance_and_doubt_come_before_all_uncertainties_where_both_sets_have_them():
    inside, outside = useless()
    inside_scored, outside_scored = (
        rows.replace(scores={"unfamiliarity": np.arange(float(len(rows)))})
        for rows in (inside, outside)
    )
    assert default_detector(inside_scored, outside_scored) == "unfamiliarity"
    assert (
        default_detector(inside_scored, outside)
        == default_detector(inside, outside_scored)
        == "epistemic"
    )


def test_no_score_is_beaten_by_chance_or_by_itself():
    inside, outside = useless()
    options = {"ood_score": "max_probability", "num_resamples": 200}
    assert evaluate(inside, ood={"far": outside}, **options).ood["far"].better == ""
    # two uninformative scores: neither is better
    none = inside.take(np.arange(150)), inside.take(np.arange(150, 300))
    assert evaluate(none[0], ood={"far": none[1]}, num_resamples=200).ood["far"].better == ""
