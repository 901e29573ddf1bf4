"""Fits of whole layers: what moves, what rests, and what is saved, from the fit to the file."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from refusal import refused
from small_fits import QUICK, equal_states, fresh, watch
from tiny import WHOLE_AND_RAW, toy_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from usage import fitted, new

from bayeslora import MLE, Laplace
from bayeslora.adapters.base import StepHook
from bayeslora.contrib.lisa import ALWAYS, LISA, draw

WHOLE = LISA(num_active=1, interval=3, num_layers=2, lr=1e-3, weight_decay=0.1)


class StoppedError(Exception):
    """Stands in for the end of the process."""


class Stop(StepHook):
    """Dies after the fourth step, which is the last of the first epoch."""

    def before_step(self, step, num_steps, optimizer):
        if step == 4:
            raise StoppedError


def sampler_of(fit):
    (sampler,) = fit.adapter.hooks(fit.training())
    return sampler


def params(sampler, name):
    return sampler.full.groups.get(name, {}).values()


class SamplingLaws:
    """Inherit and define `adapter` and `posterior`.

    A fit has 8 steps in 2 epochs, in blocks of 3 steps. An epoch therefore ends inside a block, and
    the fit is stopped there.
    """

    adapter = None
    posterior = None

    @pytest.fixture
    def backbone(self, encoder):
        return encoder

    def begin(self, backbone, **changes):
        """Return a fit that has not begun; `changes` override the options."""
        return fresh(backbone, self.posterior, replace(self.adapter, **changes))

    def drawn(self, num_layers, steps=8):
        blocks = range(-(-steps // self.adapter.interval))
        return {n for block in blocks for n in draw(self.adapter, num_layers, 3, block)}

    def test_what_was_drawn_changes_and_all_else_is_bit_identical(self, backbone, tmp_path):
        fit = self.begin(backbone)
        sampler = sampler_of(fit)
        model = fit.network.encoder.model
        before = {name: item.clone() for name, item in model.state_dict().items()}
        base = {name: item.clone() for name, item in backbone.model.state_dict().items()}
        fit.run(tmp_path)
        drawn = self.drawn(len(sampler.layers))
        names = {sampler.layers[n] for n in drawn} | {ALWAYS}
        moving = {id(p) for name in names for p in params(sampler, name)}
        named = dict(model.named_parameters())
        changed = {n for n, item in model.state_dict().items() if not torch.equal(item, before[n])}
        allowed = {name for name, item in named.items() if id(item) in moving}
        assert changed <= allowed
        for number, layer in enumerate(sampler.layers):
            names = {
                name
                for name, p in named.items()
                if id(p) in {id(q) for q in params(sampler, layer)}
            }
            assert bool(names & changed) == (number in drawn)
        assert all(torch.equal(item, base[n]) for n, item in backbone.model.state_dict().items())

    def test_a_resting_layer_neither_moves_nor_has_moments(self, backbone, tmp_path, monkeypatch):
        """Neither momentum, weight decay, a KL, a field nor an absorption moves it."""
        fit = self.begin(backbone, mode="cycle", interval=2)
        sampler = sampler_of(fit)
        seen = []

        def values():
            return [
                [p.detach().clone() for p in params(sampler, layer)] for layer in sampler.layers
            ]

        class Look(StepHook):
            before = values()

            def after_step(self, step, optimizer):
                now = values()
                moved = [
                    any(not torch.equal(a, b) for a, b in zip(old, new, strict=True))
                    for old, new in zip(self.before, now, strict=True)
                ]
                has_state = [
                    any(p in optimizer.state for p in params(sampler, item))
                    for item in sampler.layers
                ]
                seen.append((moved, has_state, sampler.draw(step // sampler.interval)))
                self.before = now

        watch(monkeypatch, Look())
        fit.run(tmp_path)
        assert len(seen) == 8
        for moved, has_state, active in seen:
            expected = [number in active for number in range(len(has_state))]
            assert has_state == expected
            assert moved == expected

    def test_stopped_inside_a_block_it_ends_the_same(self, backbone, tmp_path, monkeypatch):
        whole = self.begin(backbone)
        expected = whole.run(tmp_path / "whole")
        path = tmp_path / "stopped"
        with monkeypatch.context() as patch:
            watch(patch, Stop())
            with pytest.raises(StoppedError):
                self.begin(backbone).run(path)
        assert (path / "checkpoint.safetensors").is_file()
        resumed = self.begin(backbone)
        torch.manual_seed(4321)
        result = resumed.run(path)
        assert equal_states(whole.network.trained_state(), resumed.network.trained_state())
        assert result.hooks == expected.hooks

    def test_a_fit_leaves_every_flag_as_it_was_and_says_what_it_drew(self, backbone, tmp_path):
        fit = self.begin(backbone)
        flags = {name: p.requires_grad for name, p in fit.network.named_parameters()}
        record = fit.run(tmp_path).hooks
        assert {name: p.requires_grad for name, p in fit.network.named_parameters()} == flags
        assert record == sampler_of(fit).record(8)
        assert record["layer_sampling"]["interval"] == 3
        assert len(record["layer_sampling"]["blocks"]) == 3


class TestWholeLayersOfAnEncoder(SamplingLaws):
    """The encoder has dropout, so the random state of training must be restored as well."""

    adapter = WHOLE
    posterior = QUICK


class TestWholeLayersWithTheEmbedding(SamplingLaws):
    adapter = replace(WHOLE, train_embedding=True, num_layers=None)
    posterior = Laplace()


def test_layers_below_run_once_and_those_above_from_their_states(decoder):
    fit = fresh(decoder, MLE(), WHOLE)
    assert fit.network.encoder.first_running_layer == 1
    assert fit.train.prefix is not None
    trained = fresh(decoder, MLE(), replace(WHOLE, train_embedding=True))
    assert trained.network.encoder.first_running_layer == 0
    assert trained.train.prefix is None


def test_what_trains_always_is_what_runs_after_the_layers(decoder, encoder):
    names = set(fresh(decoder, MLE(), WHOLE).network.companion.groups[ALWAYS])
    assert names == {"norm.weight"}
    # The pooler runs after the layers, and no feature depends on it.
    assert ALWAYS not in fresh(encoder, MLE(), WHOLE).network.companion.groups
    trained = replace(WHOLE, train_embedding=True)
    names = set(fresh(encoder, MLE(), trained).network.companion.groups[ALWAYS])
    assert "embeddings.word_embeddings.weight" in names
    assert not any("pooler" in name for name in names)


def test_the_best_epoch_may_have_fewer_layers_than_the_last(decoder, tmp_path, monkeypatch):
    """Loading it resets the layers drawn later to their start."""
    from bayeslora.engine import loop as fit_module

    values = iter([0.1, 0.9])
    monkeypatch.setattr(
        fit_module, "validation_metrics", lambda _: {"nll": next(values), "accuracy": 0.5}
    )
    adapter = replace(WHOLE, mode="cycle", interval=4)
    fit = fresh(decoder, MLE(), adapter)
    sampler = sampler_of(fit)
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
    for name, item in fit.network.companion.groups[f"layers.{later + 1}"].items():
        assert torch.equal(item, decoder.model.get_parameter(name))


def saved_bytes(fit, sampler):
    """Return the bytes that a forward pass saves for its backward pass, without parameters."""
    items = [item for name in sampler.full.groups for item in params(sampler, name)]
    sampler.before_step(0, 8, torch.optim.SGD(items))
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


def test_fewer_activations_are_kept_the_higher_the_lowest_active_layer(decoder):
    sizes = []
    for layer in range(3):
        fit = fresh(decoder, MLE(), LISA(num_active=1, num_layers=None))
        sampler = sampler_of(fit)
        sampler.draw = lambda _, layer=layer: (layer,)
        sizes.append(saved_bytes(fit, sampler))
    assert sizes[0] > sizes[1] > sizes[2] > 0


SPEC = "lisa:num_active=1,interval=3,num_layers=2,lr=1e-3"


def test_other_classifiers_on_the_same_backbone_stay_as_they_were(llama):
    from bayeslora.backbones.load import load_backbone

    shared = load_backbone(llama, dtype="float32", device="cpu")
    other = new(shared, "lora:r=2,num_layers=2", "mle").fit(toy_rows(30), epochs=1)
    before = other.predict(toy_rows(9)).probs
    clf = new(shared, SPEC, "mle").fit(toy_rows(30), epochs=1)
    assert (other.predict(toy_rows(9)).probs == before).all()
    alone = new(llama, SPEC, "mle", dtype="float32").fit(toy_rows(30), epochs=1)
    assert (clf.predict(toy_rows(9)).probs == alone.predict(toy_rows(9)).probs).all()


def test_merged_is_the_mean_network_and_a_lora_it_is_not(llama, tmp_path):
    clf = fitted(llama, SPEC, "mle", dtype="float32", **WHOLE_AND_RAW)
    with refused("input", "export_merged"):
        clf.export_peft(tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    clf.export_merged(tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    texts = [row["text"] for row in toy_rows(9, 5)]
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        probs = model(**inputs).logits.double().softmax(1).numpy()
    expected = clf.predict(toy_rows(9, 5), num_samples=0).probs
    np.testing.assert_allclose(probs, expected, atol=1e-5)
