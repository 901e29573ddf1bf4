"""Fits with resting layers: the laws for whole layers and adapters, and what is refused."""

from dataclasses import replace

import pytest
import torch
from lisa_laws import SamplingLaws
from refusal import refused
from small_fits import QUICK, equal_states, fresh

from bayeslora import MLE, SWAG, TFB, VBLL, BLoB, CLoRA, Laplace
from bayeslora.adapters.base import LayerSampling
from bayeslora.adapters.layer_sampling import ALWAYS
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.pissa import PiSSA
from bayeslora.adapters.polar import PoLAR
from bayeslora.contrib.lisa import LISA
from bayeslora.contrib.s2ft import S2FT
from bayeslora.engine.training.layer_sampling import LayerSwitches, check_sampling, layer_sampler

ONE_OF_TWO = LayerSampling(num_active=1, interval=3)
WHOLE = LISA(num_active=1, interval=3, num_layers=2, lr=1e-3, weight_decay=0.1)


class TestWholeLayersOfAnEncoder(SamplingLaws):
    """The encoder has dropout, so the random state of training must be restored as well."""

    adapter = WHOLE
    posterior = QUICK


class TestWholeLayersOfADecoder(SamplingLaws):
    adapter = replace(WHOLE, mode="cycle")
    posterior = MLE()
    kind = "decoder"


class TestWholeLayersWithTheEmbedding(SamplingLaws):
    adapter = replace(WHOLE, train_embedding=True, num_layers=None)
    posterior = Laplace()


class TestLoRA(SamplingLaws):
    adapter = LoRA(r=2, num_layers=2, weight_decay=0.1)
    sampling = ONE_OF_TWO
    posterior = QUICK


class TestPoLAR(SamplingLaws):
    adapter = PoLAR(r=2, num_layers=2)
    sampling = replace(ONE_OF_TWO, mode="weighted", weights=(1.0, 2.0))
    posterior = Laplace()
    kind = "decoder"


class TestPoLARByLanding(SamplingLaws):
    adapter = PoLAR(r=2, num_layers=2, constraint="landing")
    sampling = ONE_OF_TWO
    posterior = MLE()


class TestPiSSA(SamplingLaws):
    """Weight decay pulls towards the start and must not reach a resting layer."""

    adapter = PiSSA(r=2, num_layers=2, weight_decay=0.5)
    sampling = ONE_OF_TWO
    posterior = MLE()


class TestS2FT(SamplingLaws):
    adapter = S2FT(o_ratio=0.5, d_ratio=0.1, num_layers=2, weight_decay=0.5)
    sampling = ONE_OF_TWO
    posterior = MLE()


class TestBLoB(SamplingLaws):
    adapter = LoRA(r=2, num_layers=2)
    sampling = ONE_OF_TWO
    posterior = BLoB(num_samples=2)


class TestCLoRA(SamplingLaws):
    adapter = LoRA(r=2, num_layers=2)
    sampling = ONE_OF_TWO
    posterior = CLoRA(num_samples=2)


def test_weights_are_as_many_as_the_backbone_has_layers(decoder):
    """The default is the last six layers; the decoder has three."""
    weighted = LISA(num_active=1, mode="weighted", weights=(1.0, 2.0, 3.0))
    assert fresh(decoder, MLE(), weighted).network.full is not None
    with refused("input", "weights", "3", "6"):
        fresh(decoder, MLE(), replace(weighted, weights=(1.0,) * 6))


def test_layers_without_columns_are_not_drawn(decoder, tmp_path):
    adapter = S2FT(o_ratio=0.1, d_ratio=0.0, num_layers=None)
    fit = fresh(decoder, MLE(), adapter, layer_sampling=LayerSampling(num_active=1, interval=1))
    with_columns = {site.name.split(".")[1] for site in fit.network.sites if site.k}
    assert 0 < len(with_columns) < 3
    sampler = layer_sampler(fit.network, fit.adapter, fit.posterior, fit.settings, 30)
    assert {group.name.split()[1] for group in sampler.groups if not group.always} == with_columns
    record = fit.run(tmp_path).layer_sampling
    assert record["blocks"]


@pytest.mark.parametrize("posterior", [BLoB(), CLoRA()], ids=lambda item: item.name)
def test_what_a_posterior_trains_at_a_site_rests_with_it(encoder, tmp_path, posterior):
    sampling = replace(ONE_OF_TWO, mode="fixed")
    fit = fresh(encoder, posterior, LoRA(r=2, num_layers=2), layer_sampling=sampling)
    before = {name: item.clone() for name, item in fit.network.weights.named_parameters()}
    (resting,) = {0, 1} - set(
        layer_sampler(fit.network, fit.adapter, fit.posterior, fit.settings, 30).draw(0)
    )
    fit.run(tmp_path)
    # Two sites per layer: roots.0, roots.1 and gates.0…, gates.1… belong to the first layer.
    for name, item in fit.network.weights.named_parameters():
        layer = int(name.split(".")[1]) // 2
        assert torch.equal(item, before[name]) == (layer == resting), name


@pytest.mark.parametrize("posterior", [SWAG(num_samples=2, start=0.0), TFB(num_samples=2)])
def test_other_posteriors_over_adapters_take_resting_layers(encoder, tmp_path, posterior):
    sampling = replace(ONE_OF_TWO, mode="cycle")
    fit = fresh(encoder, posterior, LoRA(r=2, num_layers=2), layer_sampling=sampling)
    results = fit.run(tmp_path).posterior
    assert all(value > 0 for value in results.values() if isinstance(value, float))


def test_tfb_needs_every_layer_drawn(encoder, tmp_path):
    sampling = replace(ONE_OF_TWO, mode="fixed")
    fit = fresh(encoder, TFB(), LoRA(r=2, num_layers=2), layer_sampling=sampling)
    with refused("never-trains"):
        fit.run(tmp_path)
    assert not list(tmp_path.iterdir())


def test_tfb_takes_resting_layers_of_adapters_that_start_at_full_rank(encoder, tmp_path):
    sampling = replace(ONE_OF_TWO, mode="fixed")
    adapter = PiSSA(r=2, num_layers=2)
    fit = fresh(encoder, TFB(num_samples=2), adapter, layer_sampling=sampling)
    assert fit.run(tmp_path).posterior["sigma"] > 0


def test_the_step_on_the_kl_rises_with_the_rate_of_the_layers(encoder, tmp_path, monkeypatch):
    rates, shares = [], []
    posterior = BLoB(kl_lr=1e-3, kl_weights="uniform")
    sampling = replace(ONE_OF_TWO, interval=4, ramp=4)
    fit = fresh(encoder, posterior, LoRA(r=2, num_layers=2), layer_sampling=sampling)
    before = LayerSwitches.before_step

    def watched(self, step, num_steps, optimizer):
        before(self, step, num_steps, optimizer)
        group = optimizer.param_groups[0]
        rates.append(group["lr"] / group["initial_lr"])

    monkeypatch.setattr(LayerSwitches, "before_step", watched)
    monkeypatch.setattr(fit.network.weights, "kl_step", shares.append)
    fit.run(tmp_path, fit_last=False)
    assert len({round(rate, 6) for rate in rates}) > 4
    # The uniform weight of a step is 1/30 of the rate.
    torch.testing.assert_close(torch.tensor(shares), torch.tensor(rates) * 1e-3 / 30)


def test_the_head_trains_at_every_step(encoder, tmp_path):
    fit = fresh(encoder, VBLL(), WHOLE, epochs=1)
    before = [item.clone() for item in fit.network.head.parameters()]
    fit.run(tmp_path, fit_last=False)
    pairs = zip(fit.network.head.parameters(), before, strict=True)
    assert all(not torch.equal(now, then) for now, then in pairs)


def test_the_rate_of_the_layers_rises_and_no_other(encoder, tmp_path):
    fit = fresh(encoder, MLE(), replace(WHOLE, interval=4, ramp=4), epochs=1)
    sampler = layer_sampler(fit.network, fit.adapter, fit.posterior, fit.settings, 30)
    switches = LayerSwitches(sampler, fit.network.full)
    groups = [{"name": name, "lr": 0.8} for name in ("adapter", "outside", "head")]

    class Optimizer:
        param_groups = groups
        state = {}  # noqa: RUF012

    switches.before_step(1, 8, Optimizer)
    assert [group["lr"] for group in groups] == [0.4, 0.8, 0.8]


def test_a_ramp_makes_shorter_steps(encoder, tmp_path):
    norms = []
    for ramp in (0, 8):
        adapter = replace(WHOLE, interval=8, ramp=ramp, mode="fixed", weight_decay=0.0)
        fit = fresh(encoder, MLE(), adapter)
        norms.append(fit.run(tmp_path / str(ramp)).adapter["delta_norm"])
    # AdamW's steps are as long as the rate: (1 + … + 8) / 8 of 8 full steps.
    assert 0.3 * norms[0] < norms[1] < 0.9 * norms[0]


def test_layers_below_run_once_and_those_above_from_their_states(decoder):
    fit = fresh(decoder, MLE(), WHOLE)
    assert fit.network.encoder.first_running_layer == 1
    assert fit.train.prefix is not None
    trained = fresh(decoder, MLE(), replace(WHOLE, train_embedding=True))
    assert trained.network.encoder.first_running_layer == 0
    assert trained.train.prefix is None


def test_what_trains_always_is_what_runs_after_the_layers(decoder, encoder):
    names = set(fresh(decoder, MLE(), WHOLE).network.full.groups[ALWAYS])
    assert names == {"norm.weight"}
    # The pooler runs after the layers, and no feature depends on it.
    assert ALWAYS not in fresh(encoder, MLE(), WHOLE).network.full.groups
    trained = replace(WHOLE, train_embedding=True)
    names = set(fresh(encoder, MLE(), trained).network.full.groups[ALWAYS])
    assert "embeddings.word_embeddings.weight" in names
    assert not any("pooler" in name for name in names)


def test_layers_that_never_trained_are_not_saved(decoder, tmp_path):
    fit = fresh(decoder, MLE(), replace(WHOLE, mode="fixed", num_layers=None))
    (active,) = fit.run(tmp_path).layer_sampling["blocks"][0]
    names = {name for name in fit.network.trained_state() if name.startswith("adapter.")}
    heads = {name.rsplit(".", 1)[0] for name in names}
    assert all(name.startswith((f"adapter.layers.{active}.", "adapter.norm")) for name in names)
    assert "adapter.norm" in heads
    assert len(names) == 1 + 9


def test_the_best_epoch_may_have_fewer_layers_than_the_last(decoder, tmp_path, monkeypatch):
    """Loading it resets the layers drawn later to their start."""
    from bayeslora.engine.training import loop as fit_module

    values = iter([0.1, 0.9])
    monkeypatch.setattr(
        fit_module, "validation_metrics", lambda *_: {"nll": next(values), "accuracy": 0.5}
    )
    adapter = replace(WHOLE, mode="cycle", interval=4)
    fit = fresh(decoder, MLE(), adapter)
    sampler = layer_sampler(fit.network, adapter, fit.posterior, fit.settings, 30)
    states = {}
    result = fit.run(
        tmp_path,
        validates=True,
        on_epoch=lambda epoch, network: states.update({epoch: network.trained_state()}),
    )
    assert result.best_epoch == 1
    assert len(states[1]) < len(states[2])
    assert equal_states(
        {n: t for n, t in fit.network.trained_state().items() if n.startswith("adapter.")},
        {n: t for n, t in states[1].items() if n.startswith("adapter.")},
    )
    (later,) = sampler.draw(1)
    for name, item in fit.network.full.groups[f"layers.{later + 1}"].items():
        assert torch.equal(item, decoder.model.get_parameter(name))


def saved_bytes(fit, sampler, step):
    """Return the bytes that a forward pass saves for its backward pass, without parameters."""
    sampler.before_step(step, torch.optim.SGD([p for g in sampler.groups for p in g.params]))
    parameters = {p.data_ptr() for p in fit.network.parameters()}
    sizes = {}

    def pack(tensor):
        if tensor.data_ptr() not in parameters:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = fit.network(fit.train.collate(range(8))).values
    assert features.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize(
    ("adapter", "sampling"),
    [
        (LISA(num_active=1, num_layers=None), None),
        (LoRA(r=2, num_layers=None), LayerSampling(num_active=1)),
    ],
    ids=["whole layers", "sites"],
)
def test_fewer_activations_are_kept_the_higher_the_lowest_active_layer(decoder, adapter, sampling):
    sizes = []
    for layer in range(3):
        weights = tuple(float(number == layer) for number in range(3))
        options = {"mode": "weighted", "weights": weights}
        layer_adapter = replace(adapter, **options) if sampling is None else adapter
        layer_sampling = None if sampling is None else replace(sampling, **options)
        fit = fresh(decoder, MLE(), layer_adapter, layer_sampling=layer_sampling)
        sampler = layer_sampler(fit.network, layer_adapter, fit.posterior, fit.settings, 30)
        sizes.append(saved_bytes(fit, sampler, 0))
    assert sizes[0] > sizes[1] > sizes[2] > 0


def test_whole_layers_are_for_a_posterior_over_weights_that_says_so():
    """Any other posterior is over the sites of an adapter, and whole layers have none."""

    class OverSites(MLE):
        def over_weights(self, network, *, seed, fitted=False):
            raise AssertionError

    class OverAll(OverSites):
        not_on_layers = ""

    with refused("not-on-layers"):
        check_sampling(LISA(), OverSites(), None)
    check_sampling(LISA(), OverAll(), None)
    check_sampling(LISA(), MLE(), None)
    check_sampling(LoRA(), OverSites(), None)
