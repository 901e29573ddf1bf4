"""A last layer over the classes of several tasks equals a separate last layer per task.

Rows of a task have `ABSENT` as the known logit of the other tasks' classes, so the likelihood is a
product over tasks. With a prior that is independent between classes, the oracle is one head per
task, fitted to its own rows in float64.
"""

from dataclasses import replace

import pytest
import torch

from bayeslora.links import link_probabilities, nll
from bayeslora.logits import ABSENT, GaussianLogits
from bayeslora.posteriors.last_layer.gvbll import GVBLL
from bayeslora.posteriors.last_layer.laplace import Laplace
from bayeslora.posteriors.last_layer.prototypes import Prototypes
from bayeslora.posteriors.last_layer.vbll import VBLL
from bayeslora.posteriors.last_layer.vbll.final import polish
from bayeslora.posteriors.point import MAP
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features

SIZES, WIDTH, ROWS = (3, 2), 6, 40
CLASSES = sum(SIZES)
OF_TASK = (slice(0, 3), slice(3, 5))

POSTERIORS = {
    "map": MAP(prior_scale=3.0),
    "laplace": Laplace(structure="full", prior_scale=3.0, prior_precision=0.7),
}


def rows(seed=0):
    """Return rows of both tasks in float64, with labels among all classes."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(SIZES) * ROWS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(
        CLASSES, WIDTH, generator=torch.Generator().manual_seed(100), dtype=torch.float64
    )
    known = torch.full((len(states), CLASSES), ABSENT, dtype=torch.float64)
    for task, own in enumerate(OF_TASK):
        known[task * ROWS : (task + 1) * ROWS, own] = 0.0
    logits = states @ weight.T + known
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return Features(states, labels, known)


def polished(num_classes, features):
    """Return the optimum of the evidence lower bound to more digits than a head needs."""
    return polish(features, num_classes, prior_variance=1.5, max_iterations=2000, tolerance=1e-15)


def of_task(task, features):
    own = features.take(slice(task * ROWS, (task + 1) * ROWS))
    return Features(own.values, own.labels - OF_TASK[task].start)


def fitted(config, num_classes, features):
    head = build_head(config, WIDTH, num_classes).double()
    if hasattr(head, "solve"):
        head.solve(features)
    head.fit(features)
    return head


@pytest.mark.parametrize("name", POSTERIORS)
def test_it_has_the_weights_and_predictions_of_a_head_for_each_task(name):
    features = rows()
    head = fitted(POSTERIORS[name], CLASSES, features)
    whole = head.predict(features)
    for task, own in enumerate(OF_TASK):
        part = of_task(task, features)
        alone = fitted(POSTERIORS[name], SIZES[task], part)
        torch.testing.assert_close(
            head.mean_weight[own].double(), alone.mean_weight.double(), atol=1e-5, rtol=1e-5
        )
        some = slice(task * ROWS, (task + 1) * ROWS)
        probs = link_probabilities(whole, "probit").probs[some]
        expected = link_probabilities(alone.predict(part), "probit").probs
        torch.testing.assert_close(probs[:, own], expected, atol=1e-5, rtol=1e-4)
        assert (probs.sum(1) - probs[:, own].sum(1)).abs().max() == 0


def test_a_variational_one_has_the_optimum_of_one_for_each_task():
    features = rows()
    whole = polished(CLASSES, features)
    mean, variance = whole.moments(features)
    elbo = 0.0
    for task, own in enumerate(OF_TASK):
        part = of_task(task, features)
        alone = polished(SIZES[task], part)
        elbo += alone.elbo[-1]
        torch.testing.assert_close(whole.mean[own], alone.mean, atol=1e-5, rtol=1e-5)
        some = slice(task * ROWS, (task + 1) * ROWS)
        expected = alone.moments(part)
        torch.testing.assert_close(mean[some, own], expected[0], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(variance[some, own], expected[1], atol=1e-4, rtol=1e-5)
    assert whole.elbo[-1] == pytest.approx(elbo, rel=1e-10)


@pytest.mark.parametrize("config", [MAP(prior_scale=3.0), VBLL(prior_scale=3.0)], ids=str)
def test_its_objective_is_the_mean_of_theirs_by_rows(config):
    """The KL is counted once: KL / N = Σ_t (N_t / N) KL_t / N_t."""
    features = rows(1)
    head = build_head(config, WIDTH, CLASSES).double()
    weight = torch.randn(CLASSES, WIDTH, dtype=torch.float64, generator=torch.Generator())
    head.set_mean(weight)
    loss = head.loss(features, len(features))
    torch.autograd.backward(loss)
    gradient = next(head.parameters()).grad
    total = 0.0
    for task, own in enumerate(OF_TASK):
        own_rows = of_task(task, features)
        alone = build_head(config, WIDTH, SIZES[task]).double()
        alone.set_mean(weight[own])
        part = alone.loss(own_rows, ROWS) * ROWS / len(features)
        torch.autograd.backward(part)
        total += float(part.detach())
        torch.testing.assert_close(gradient[own], next(alone.parameters()).grad)
    assert float(loss.detach()) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("link", ["mc", "probit", "bridge"])
@pytest.mark.parametrize("shape", ["variances", "covariances"])
def test_links_are_those_of_the_classes_that_a_row_has(link, shape):
    features = rows(3)
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(len(features), CLASSES, CLASSES, generator=generator, dtype=torch.float64)
    covariance = root @ root.mT / CLASSES
    if shape == "variances":
        covariance = covariance.diagonal(dim1=-2, dim2=-1)
    mean = features.values[:, :CLASSES] + features.known
    probs = link_probabilities(GaussianLogits(mean, covariance), link, num_samples=20_000).probs
    for task, own in enumerate(OF_TASK):
        some = slice(task * ROWS, (task + 1) * ROWS)
        among = covariance[some, own]
        among = among if among.ndim == 2 else among[:, :, own]
        alone = GaussianLogits(mean[some, own], among)
        expected = link_probabilities(alone, link, num_samples=20_000).probs
        # The draws differ: a mean of 20,000 numbers in [0, 1] has a standard error below 0.004.
        atol = 0.02 if link == "mc" else 1e-12
        torch.testing.assert_close(probs[some, own], expected, atol=atol, rtol=0)
        assert float(probs[some].sum()) == pytest.approx(ROWS)


@pytest.mark.parametrize(
    ("free", "name"),
    [
        (GVBLL(shrinkage=0.3, inflation="validation", num_samples=2), "inflation"),
        (Prototypes(), "scale"),
    ],
    ids=["gvbll", "prototypes"],
)
def test_what_held_out_rows_choose_is_best_among_the_classes_of_their_task(free, name):
    held_out = rows(5)

    def loss(config):
        head = build_head(config, WIDTH, CLASSES).double()
        head.fit(rows(4), held_out)
        probs = link_probabilities(head.predict(held_out)).probs
        return nll(probs, held_out.labels), head.report()[name]

    lowest, chosen = loss(free)
    for factor in (0.8, 1.25):
        assert lowest < loss(replace(free, **{name: factor * chosen}))[0]
