"""Alternating updates of head and adapter: which one moves when, and by which gradient."""

from dataclasses import replace

import pytest
import torch
from small_fits import GRADIENT, fresh

from bayeslora import MAP, MLE, Laplace
from bayeslora.engine.loop import Loop
from bayeslora.engine.network import set_feature_scale

POSTERIORS = [MLE(), MAP(), GRADIENT, Laplace()]


def loop_of(fit):
    """Return the loop of a fit."""
    set_feature_scale(fit.network, fit.train)
    fit.settings = replace(fit.settings, head_lr=0.05)
    loop = Loop(fit.training())
    fit.network.train()
    return loop


def batch_of(fit, size=6):
    rows = list(range(size))
    return {**fit.train.collate(rows), "labels": fit.train.labels[rows]}


def adapter_gradients(network):
    return {
        f"{site.name}.{key}": None if value.grad is None else value.grad.clone()
        for site in network.sites
        for key, value in site.trainable().items()
    }


@pytest.mark.parametrize("posterior", POSTERIORS, ids=repr)
def test_a_step_moves_the_head_and_leaves_the_adapters_gradient(encoder, posterior):
    fit = fresh(encoder, posterior)
    loop = loop_of(fit)
    before = fit.network.trained_state()
    loop.backward(batch_of(fit))
    after = fit.network.trained_state()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("head.") for name in moved)
    # Gradients of the head would count towards the clipping of the adapter's gradients.
    assert all(item.grad is None for item in fit.network.head.parameters())
    cores = [item for name, item in adapter_gradients(fit.network).items() if "core" in name]
    assert all(float(item.norm()) > 0 for item in cores)


def test_the_adapters_gradient_is_that_of_the_data_term_at_the_new_head(decoder):
    """A decoder has no dropout, so the same pass can be repeated."""
    fit = fresh(decoder, GRADIENT)
    loop = loop_of(fit)
    batch = batch_of(fit)
    loop.backward(dict(batch))
    gradients = adapter_gradients(fit.network)
    fit.network.zero_grad()
    labels = batch.pop("labels")
    head, features = fit.network.head, fit.network(batch).values
    logits = features @ head.mean.detach().T
    variance = features.square() @ head.spread.detach().exp().square().T
    # Jensen's bound: E log softmax >= m_y - log sum exp(m + v / 2).
    bound = logits[torch.arange(6), labels] - (logits + variance / 2).logsumexp(1)
    (-bound.mean()).backward()
    for name, expected in adapter_gradients(fit.network).items():
        torch.testing.assert_close(gradients[name], expected, atol=1e-7, rtol=1e-5)


def test_the_kl_is_weighed_by_the_training_rows(decoder, tmp_path, monkeypatch):
    """Every step of a fit uses KL/N with the N of the training set, not of the batch."""
    fit = fresh(decoder, GRADIENT, num_train=30, epochs=1)
    seen = []
    loss = type(fit.network.head).loss

    def record(head, rows, num_train):
        seen.append((len(rows), num_train))
        return loss(head, rows, num_train)

    monkeypatch.setattr(type(fit.network.head), "loss", record)
    fit.run(tmp_path)
    assert {num_train for _, num_train in seen} == {30}
    assert sorted(size for size, _ in seen) == [6, 8, 8, 8]


@pytest.mark.parametrize("head_lr", [1e-4, 1e-1])
def test_the_heads_learning_rate_is_the_posteriors(decoder, tmp_path, head_lr):
    fit = fresh(decoder, replace(GRADIENT, head_lr=head_lr), epochs=1, batch_size=30)
    fit.run(tmp_path, fit_last=False)
    # Adam's first step moves every weight by the learning rate; the schedule starts at its top.
    assert float(fit.network.head.mean.detach().abs().max()) == pytest.approx(head_lr, rel=0.01)
