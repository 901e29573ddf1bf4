"""Ensembles: independent members, and a network equal to that of a plain fit."""

import dataclasses
import logging
from dataclasses import dataclass, replace

import pytest
import torch
from refusal import refused
from small_fits import CLASSES, equal_states, rows

from bayeslora import MLE, Ensemble, MCDropout
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.backbones.encoder import PreparedTexts
from bayeslora.data.columns import DataColumns
from bayeslora.engine.build import adapter_for, build_network
from bayeslora.engine.data import TrainingData
from bayeslora.engine.ensemble import fit_members, member_seeds, prepare
from bayeslora.engine.plan import Plan
from bayeslora.engine.predict import answer, num_passes
from bayeslora.engine.training_options import TrainingSettings
from bayeslora.links import link_probabilities
from bayeslora.posteriors.weights.draws import sampled_logits
from bayeslora.posteriors.weights.mc_dropout import MCDropoutDraws

LORA = LoRA(r=2, num_layers=2)
POLAR = PoLAR(r=2, num_layers=2)


def fitted(backbone, posterior, seed=3, adapter=LORA):
    training = TrainingSettings(2, 8, seed=seed)
    plan = Plan("tiny", "float32", adapter, posterior, seed, 32, progress=False, training=training)
    data = TrainingData(DataColumns(), tuple(CLASSES), rows(30, 0), None)
    return fit_members(plan, data, backbone, lambda: None)


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


def test_the_first_member_has_the_seed_of_the_plain_fit():
    assert member_seeds(MLE(), 7) == [7]
    assert member_seeds(Ensemble(num_members=3), 7)[0] == 7
    seeds = [seed for k in range(5) for seed in member_seeds(Ensemble(num_members=5), k)]
    assert len(set(seeds)) == len(seeds)
    assert member_seeds(Ensemble(num_members=3), 2**32 - 1001) == [2**32 - 1001, 2**32 - 1, 999]


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


def test_dropout_spreads_the_predictions(decoder, dropout):
    output = logits(decoder, MCDropout(p=0.3, num_samples=4), dropout)
    assert output.samples.shape == (4, 12, 3)
    assert float(output.variance.min()) > 0
    again = logits(decoder, MCDropout(p=0.3, num_samples=4), dropout)
    assert torch.equal(output.samples, again.samples)
    other = logits(decoder, MCDropout(p=0.3, num_samples=4), dropout, seed=1)
    assert not torch.equal(output.samples, other.samples)


def test_no_samples_is_the_network_without_dropout(decoder, dropout):
    posterior = MCDropout(p=0.3, num_samples=4)
    mean = logits(decoder, posterior, dropout, num_samples=0)
    assert mean.is_point
    plain = logits(decoder, MLE(), dropout)
    assert torch.equal(mean.mean, plain.mean)
    by_option = logits(decoder, dataclasses.replace(posterior, num_samples=0), dropout)
    assert torch.equal(mean.mean, by_option.mean)


def test_a_number_of_samples_overrides_the_posteriors(decoder, dropout):
    posterior = MCDropout(p=0.3, num_samples=4)
    assert logits(decoder, posterior, dropout, num_samples=6).samples.shape[0] == 6
    assert logits(decoder, posterior, dropout).samples.shape[0] == 4


@pytest.mark.parametrize(
    ("posterior", "num_samples", "expected"),
    [
        (MLE(), None, 1),
        (MLE(), 50, 1),
        (Ensemble(num_members=3), None, 3),
        (Ensemble(num_members=3), 50, 3),
        (MCDropout(num_samples=4), None, 4),
        (MCDropout(num_samples=4), 7, 7),
        (MCDropout(num_samples=4), 0, 1),
    ],
)
def test_passes(posterior, num_samples, expected):
    assert num_passes(posterior, num_samples, getattr(posterior, "num_members", 1)) == expected


def test_progress_counts_every_pass(encoder, ensemble):
    seen = []
    logits(encoder, Ensemble(num_members=3), ensemble, advance=seen.append)
    assert sum(seen) == 3 * 12


def test_mc_dropout_puts_its_dropout_on_the_adapter(decoder):
    assert adapter_for(LORA, MCDropout(p=0.3)).dropout == 0.3
    assert adapter_for(replace(LORA, dropout=0.3), MCDropout(p=0.3)).dropout == 0.3
    with refused("clash", "mc_dropout"):
        adapter_for(replace(LORA, dropout=0.5), MCDropout())
    assert adapter_for(LORA, MLE()) == LORA
    assert adapter_for(PoLAR(), MCDropout()) == PoLAR()
    network = build_network(decoder, Plan(adapter=LORA, posterior=MCDropout(), max_length=32), 3)
    assert network.weights.live == tuple(
        f"layers.{layer}.self_attn.{name}.dropout"
        for layer in (1, 2)
        for name in ("q_proj", "v_proj")
    )


def test_mc_dropout_on_an_adapter_without_needs_the_backbones(decoder):
    with refused("no-dropout"):
        build_network(decoder, Plan(adapter=POLAR, posterior=MCDropout(), max_length=32), 3)
    with refused("no-dropout"):
        build_network(decoder, Plan(adapter=POLAR, posterior=MCDropout(p=0.3), max_length=32), 3)


def test_a_variant_of_mc_dropout_has_a_default_of_its_own():
    @dataclass(frozen=True)
    class HighDropout(MCDropout):
        p: float = 0.3

    assert adapter_for(PoLAR(), HighDropout()) == PoLAR()
    assert adapter_for(LORA, HighDropout()).dropout == 0.3
    with refused("no-dropout"):
        adapter_for(PoLAR(), HighDropout(p=0.1))


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


def test_a_network_of_another_posterior_is_asked_for_its_dropout(encoder):
    """Experiments train one network for several posteriors."""
    fit = fitted(encoder, MLE())
    sampled = logits(encoder, MCDropout(num_samples=4), fit)
    assert sampled.samples.shape[0] == 4
    assert float(sampled.variance.min()) > 0


def test_without_a_frozen_prefix_embeddings_are_dropped_too(encoder):
    network = build_network(
        encoder, Plan(adapter=PoLAR(r=2), posterior=MCDropout(), max_length=32), 3
    )
    assert network.weights.live[0] == "embeddings.dropout"
    alone = MCDropoutDraws(network.encoder.model, network.encoder.run_probe, ["embeddings.dropout"])
    assert float(sampled_by(network, alone).variance.max()) > 0


@pytest.mark.parametrize("targets", [("query", "pooler.dense"), ("pooler.dense",)])
def test_adapters_outside_the_layers_leave_no_prefix(encoder, targets):
    """The pooler comes after the last layer, and no feature depends on it."""
    adapter = LoRA(r=2, target_modules=targets)
    network = build_network(encoder, Plan(adapter=adapter, posterior=MLE(), max_length=32), 3)
    prepared = prepare(network.encoder, rows(6, 0), progress=False)
    assert isinstance(prepared, PreparedTexts)
    assert prepared.prefix is None
    assert network.encoder.features(prepared).shape == (6, 16)


def test_cut_texts_are_said(encoder, caplog):
    network = build_network(encoder, Plan(adapter=LORA, posterior=MLE(), max_length=6), 3)
    with caplog.at_level(logging.WARNING):
        texts = prepare(network.encoder, rows(12, 0), progress=False)
    count = texts.tokens.num_truncated
    assert 0 < count < 12
    assert f"{count} of 12 texts" in caplog.text
    assert "are longer than 6 tokens and were truncated" in caplog.text


@pytest.mark.usefixtures("terminal")
def test_bars_are_on_stderr_and_only_when_asked_for(encoder, capsys):
    network = build_network(encoder, Plan(adapter=LORA, posterior=MLE(), max_length=32), 3)
    prepare(network.encoder, rows(5, 77), progress=False)
    assert capsys.readouterr() == ("", "")
    prepare(network.encoder, rows(5, 78), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "frozen layers" in shown.err
