"""Alternating updates of head and adapter: which one moves when, and by which gradient."""

from dataclasses import replace

import pytest
import torch
from small_fits import GRADIENT, POLAR, equal_states, fresh
from tiny import CLASSES

from bayeslora import MAP, MLE, VBLL, Laplace
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.engine import rows
from bayeslora.engine.build import build_network
from bayeslora.engine.plan import Plan
from bayeslora.engine.rows import set_feature_scale
from bayeslora.engine.training import loop as loops
from bayeslora.engine.training.final_fit import LastFit
from bayeslora.engine.training.head_updates import HeadUpdate, Moment
from bayeslora.engine.training.loop import Loop, Training
from bayeslora.posteriors.features import Features

POSTERIORS = [
    MLE(),
    MAP(),
    GRADIENT,
    replace(GRADIENT, bound="knowles_minka"),
    replace(GRADIENT, bound="mc"),
    Laplace(),
]


def loop_of(fit, monkeypatch, update_head=None):
    """Return the loop of a fit, with the head's updates of the published alternation."""
    set_feature_scale(fit.network, fit.train)
    update_head = update_head or HeadUpdate(1, len(fit.train.labels))
    monkeypatch.setattr(loops, "_head_update", lambda *_: update_head)
    training = Training(
        *(fit.network, fit.train, None, fit.adapter, LastFit(fit.posterior)),
        replace(fit.settings, head_lr=0.05),
    )
    loop = Loop(training)
    fit.network.train()
    return loop


@pytest.mark.parametrize("most", [3, 1000])
def test_the_scale_of_features_is_taken_of_few_rows_from_all_over(monkeypatch, encoder, most):
    monkeypatch.setattr(rows, "SCALE_ROWS", most)
    fit = fresh(encoder)
    set_feature_scale(fit.network, fit.train)
    last = len(fit.train.labels) - 1
    chosen = [0, round(last / 2), last] if most == 3 else range(last + 1)
    features = fit.network.encoder.features(fit.train)[list(chosen)]
    assert float(fit.network.feature_scale) == pytest.approx(
        features.square().sum(1).mean().sqrt().item()
    )


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
def test_a_step_moves_the_head_and_leaves_the_adapters_gradient(encoder, monkeypatch, posterior):
    fit = fresh(encoder, posterior)
    loop = loop_of(fit, monkeypatch)
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


def test_the_adapters_gradient_is_that_of_the_data_term_at_the_new_head(decoder, monkeypatch):
    """A decoder has no dropout, so the same pass can be repeated."""
    fit = fresh(decoder, GRADIENT)
    loop = loop_of(fit, monkeypatch)
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


def test_the_head_does_not_see_the_adapter(encoder):
    """Its update gets features without a graph, so no gradient can reach the adapter."""
    fit = fresh(encoder, GRADIENT)
    optimizer = build_optimizer(fit.network.sites, list(fit.network.head.parameters()), POLAR, 0.05)
    batch = batch_of(fit)
    labels = batch.pop("labels")
    before = {name: item for name, item in fit.network.trained_state().items() if "adapter" in name}
    rows = replace(fit.network(batch).detach(), labels=labels)
    HeadUpdate(3, 30)(Moment(fit.network, optimizer, rows))
    assert all(item is None for item in adapter_gradients(fit.network).values())
    after = fit.network.trained_state()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_head_takes_its_number_of_steps(encoder, num_steps):
    fit = fresh(encoder, GRADIENT)
    head = fit.network.head
    optimizer = build_optimizer(fit.network.sites, list(head.parameters()), POLAR, 0.05)
    rows = Features(torch.randn(6, 16), torch.tensor([0, 1, 2] * 2))
    HeadUpdate(num_steps, 30)(Moment(fit.network, optimizer, rows))
    assert int(optimizer.state[head.mean]["step"]) == num_steps


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


@pytest.mark.parametrize("adapter", [POLAR, LoRA(r=2, num_layers=1)], ids=["polar", "lora"])
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_frozen_weights_do_not_move(request, tmp_path, name, adapter):
    host = request.getfixturevalue(name)
    before = {key: item.clone() for key, item in host.model.state_dict().items()}
    fit = fresh(host, VBLL(), adapter)
    start = fit.network.trained_state()
    fit.run(tmp_path, validates=True)
    assert equal_states(before, dict(host.model.state_dict()))
    assert not equal_states(start, fit.network.trained_state())


def test_a_fresh_network_computes_what_its_backbone_does(decoder):
    """Adapters start at zero, so at first the seed changes only their directions."""
    fit = fresh(decoder)
    other = build_network(
        decoder, Plan(adapter=POLAR, posterior=VBLL(), seed=8, max_length=32), len(CLASSES)
    )
    first = fit.network.encoder.features(fit.train)
    assert torch.equal(first, other.encoder.features(fit.train))
    assert not torch.equal(fit.network.sites[0].A.weight, other.sites[0].A.weight)


def test_features_start_at_a_mean_square_norm_of_one(decoder):
    fit = fresh(decoder)
    set_feature_scale(fit.network, fit.train)
    features = fit.network.encoder.features(fit.train) / fit.network.feature_scale
    assert float(features.square().sum(1).mean()) == pytest.approx(1, rel=1e-5)
