"""Ensembles: independent members, and a network equal to that of a plain fit."""

import dataclasses

import pytest
import torch
from small_fits import CLASSES, equal_states, rows

from bayeslora import MLE, Ensemble, MCDropout
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.data.columns import DataColumns
from bayeslora.engine.cross_validation import Fitter, prepare
from bayeslora.engine.data import TrainingData
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import answer
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.links import link_probabilities
from bayeslora.posteriors.weights.draws import sampled_logits
from bayeslora.posteriors.weights.mc_dropout import MCDropoutDraws

LORA = LoRA(r=2, num_layers=2)
POLAR = PoLAR(r=2, num_layers=2)


def fitted(backbone, posterior, seed=3, adapter=LORA):
    training = TrainingSettings(2, 8, seed=seed)
    plan = Plan(
        adapter=adapter,
        posterior=posterior,
        seed=seed,
        max_length=32,
        progress=False,
        training=training,
    )
    data = TrainingData(DataColumns(), tuple(CLASSES), rows(30, 0), None)
    return Fitter(plan, data, backbone).fit(plan)


def logits(backbone, posterior, fit, **options):
    network, members, _ = fit
    texts = prepare(network.encoder, rows(12, 5), progress=False)
    return next(answer(network, members, posterior, texts, **options)).logits


def sampled_by(network, draws):
    texts = prepare(network.encoder, rows(12, 5), progress=False)
    head = network.head
    head.set_mean(torch.randn(head.mean_weight.shape, generator=torch.Generator().manual_seed(0)))
    return sampled_logits(network.eval(), draws, texts, 3, seed=0)


@pytest.fixture(scope="module")
def ensemble(encoder):
    return fitted(encoder, Ensemble(num_members=3))


def test_members_differ_and_the_first_is_in_place(ensemble):
    network, members, results = ensemble
    assert len(members) == len(results) == 3
    assert equal_states(network.trained_state(), members[0])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for name in members[0]:
            if name.endswith((".A", ".B")) or name == "head.weight":
                assert not torch.equal(members[first][name], members[second][name])


def test_one_member_is_the_plain_fit(encoder):
    _, (member,), _ = alone = fitted(encoder, Ensemble(num_members=1))
    _, (point,), _ = plain = fitted(encoder, MLE())
    assert equal_states(member, point)
    first = link_probabilities(logits(encoder, Ensemble(num_members=1), alone)).probs
    second = link_probabilities(logits(encoder, MLE(), plain)).probs
    torch.testing.assert_close(first, second, atol=1e-7, rtol=1e-6)


def test_an_ensemble_averages_what_its_members_say(encoder, ensemble):
    network, members, _ = ensemble
    together = logits(encoder, Ensemble(num_members=3), ensemble)
    assert together.samples.shape == (3, 12, 3)
    for place, member in enumerate(members):
        network.load_trained_state(member)
        alone = logits(encoder, MLE(), (network, [member], None))
        torch.testing.assert_close(together.samples[place], alone.mean, atol=1e-6, rtol=1e-5)
    network.load_trained_state(members[0])
    assert equal_states(network.trained_state(), members[0])
    assert float(link_probabilities(together).epistemic.min()) > 0


@pytest.fixture(scope="module")
def dropout(decoder):
    """Return a fit with dropout in the adapter alone; the decoder has none."""
    return fitted(decoder, MCDropout(p=0.3, num_samples=4))


def test_no_samples_is_the_network_without_dropout(decoder, dropout):
    posterior = MCDropout(p=0.3, num_samples=4)
    mean = logits(decoder, posterior, dropout, num_samples=0)
    assert mean.is_point
    plain = logits(decoder, MLE(), dropout)
    assert torch.equal(mean.mean, plain.mean)
    by_option = logits(decoder, dataclasses.replace(posterior, num_samples=0), dropout)
    assert torch.equal(mean.mean, by_option.mean)


def test_the_backbones_own_dropout_is_sampled_and_named(encoder):
    """Embeddings and the first layer are in the frozen prefix; their dropout has no effect."""
    fit = network, _, results = fitted(encoder, MCDropout(num_samples=4), adapter=POLAR)
    assert network.weights.live == tuple(
        f"encoder.layer.{layer}.{name}"
        for layer in (1, 2)
        for name in ("attention.self", "attention.output.dropout", "output.dropout")
    )
    assert results[0].posterior["live_dropouts"] == ", ".join(network.weights.live)
    sampled = logits(encoder, MCDropout(num_samples=4), fit)
    assert float(sampled.variance.min()) > 0
    for name in network.weights.live:
        alone = MCDropoutDraws(network.encoder.model, network.encoder.run_probe, [name])
        assert float(sampled_by(network, alone).variance.max()) > 0, name
