"""Fits with resting layers: the laws for whole layers and adapters, and what is refused."""

from dataclasses import replace

import pytest
import torch
from lisa_laws import SamplingLaws
from small_fits import QUICK, equal_states, fresh

from bayeslora import MLE, BLoB, CLoRA, Laplace
from bayeslora.adapters.base import LayerSampling
from bayeslora.adapters.layer_sampling import ALWAYS
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.pissa import PiSSA
from bayeslora.contrib.lisa import LISA
from bayeslora.engine.training.layer_sampling import layer_sampler

ONE_OF_TWO = LayerSampling(num_active=1, interval=3)
WHOLE = LISA(num_active=1, interval=3, num_layers=2, lr=1e-3, weight_decay=0.1)


class TestWholeLayersOfAnEncoder(SamplingLaws):
    """The encoder has dropout, so the random state of training must be restored as well."""

    adapter = WHOLE
    posterior = QUICK


class TestWholeLayersWithTheEmbedding(SamplingLaws):
    adapter = replace(WHOLE, train_embedding=True, num_layers=None)
    posterior = Laplace()


class TestLoRA(SamplingLaws):
    adapter = LoRA(r=2, num_layers=2, weight_decay=0.1)
    sampling = ONE_OF_TWO
    posterior = QUICK


class TestPiSSA(SamplingLaws):
    """Weight decay pulls towards the start and must not reach a resting layer."""

    adapter = PiSSA(r=2, num_layers=2, weight_decay=0.5)
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


@pytest.mark.parametrize("posterior", [BLoB(), CLoRA()], ids=lambda item: item.name)
def test_what_a_posterior_trains_at_a_site_rests_with_it(encoder, tmp_path, posterior):
    sampling = replace(ONE_OF_TWO, mode="fixed")
    fit = fresh(encoder, posterior, LoRA(r=2, num_layers=2), layer_sampling=sampling)
    before = {name: item.clone() for name, item in fit.network.weights.named_parameters()}
    (resting,) = {0, 1} - set(layer_sampler(fit.training()).draw(0))
    fit.run(tmp_path)
    # Two sites per layer: roots.0, roots.1 and gates.0…, gates.1… belong to the first layer.
    for name, item in fit.network.weights.named_parameters():
        layer = int(name.split(".")[1]) // 2
        assert torch.equal(item, before[name]) == (layer == resting), name


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


def test_the_best_epoch_may_have_fewer_layers_than_the_last(decoder, tmp_path, monkeypatch):
    """Loading it resets the layers drawn later to their start."""
    from bayeslora.engine.training import loop as fit_module

    values = iter([0.1, 0.9])
    monkeypatch.setattr(
        fit_module, "validation_metrics", lambda _: {"nll": next(values), "accuracy": 0.5}
    )
    adapter = replace(WHOLE, mode="cycle", interval=4)
    fit = fresh(decoder, MLE(), adapter)
    sampler = layer_sampler(fit.training())
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
        sampler = layer_sampler(fit.training())
        sizes.append(saved_bytes(fit, sampler, 0))
    assert sizes[0] > sizes[1] > sizes[2] > 0
