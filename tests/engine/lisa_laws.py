"""Laws of fits with resting layers; a test class inherits them and defines a recipe."""

from dataclasses import replace

import pytest
import torch
from small_fits import equal_states, fresh, watch

from bayeslora.adapters.base import StepHook
from bayeslora.adapters.layer_sampling import draw


class StoppedError(Exception):
    """Stands in for the end of the process."""


class Stop(StepHook):
    """Dies after the fourth step, which is the last of the first epoch."""

    def before_step(self, step, num_steps, optimizer):
        if step == 4:
            raise StoppedError


class SamplingLaws:
    """Inherit and define `adapter`, and also `sampling` if the adapter does not sample layers.

    `kind` names the backbone's fixture; `posterior` trains with it. A fit has 8 steps in 2 epochs,
    in blocks of 3 steps. An epoch therefore ends inside a block, and the fit is stopped there.
    """

    adapter = None
    sampling = None
    posterior = None
    kind = "encoder"

    @pytest.fixture
    def backbone(self, request):
        return request.getfixturevalue(self.kind)

    @property
    def options(self):
        return self.sampling or self.adapter

    def begin(self, backbone, **changes):
        """Return a fit that has not begun; `changes` override the sampling's options."""
        adapter, sampling = self.adapter, self.sampling
        if sampling is None:
            adapter = replace(adapter, **changes)
        else:
            sampling = replace(sampling, **changes)
        return fresh(backbone, self.posterior, adapter, layer_sampling=sampling)

    def drawn(self, num_layers, steps=8):
        blocks = range(-(-steps // self.options.interval))
        return {n for block in blocks for n in draw(self.options, num_layers, 3, block)}

    def groups(self, fit):
        from bayeslora.engine.training.layer_sampling import layer_sampler

        return layer_sampler(fit.training())

    def test_what_was_drawn_changes_and_all_else_is_bit_identical(self, backbone, tmp_path):
        fit = self.begin(backbone)
        sampler = self.groups(fit)
        model = fit.network.encoder.model
        before = {name: item.clone() for name, item in model.state_dict().items()}
        base = {name: item.clone() for name, item in backbone.model.state_dict().items()}
        fit.run(tmp_path)
        drawn = self.drawn(len(sampler.layers))
        moving = {id(p) for n in drawn for p in sampler.layers[n].params}
        moving |= {id(p) for group in sampler.groups if group.always for p in group.params}
        named = dict(model.named_parameters())
        changed = {n for n, item in model.state_dict().items() if not torch.equal(item, before[n])}
        allowed = {name for name, item in named.items() if id(item) in moving}
        assert changed <= allowed
        for number, layer in enumerate(sampler.layers):
            names = {name for name, p in named.items() if id(p) in {id(q) for q in layer.params}}
            assert bool(names & changed) == (number in drawn)
        assert all(torch.equal(item, base[n]) for n, item in backbone.model.state_dict().items())

    def test_every_layer_is_drawn_and_changes_in_turn(self, backbone, tmp_path):
        """An optimiser built after layers were frozen would not move all of them."""
        fit = self.begin(backbone, num_active=1, mode="cycle", weights=None, interval=2)
        sampler = self.groups(fit)
        before = [[p.detach().clone() for p in layer.params] for layer in sampler.layers]
        fit.run(tmp_path)
        for layer, start in zip(sampler.layers, before, strict=True):
            pairs = zip(layer.params, start, strict=True)
            assert any(not torch.equal(now, then) for now, then in pairs), layer.name

    def test_all_layers_active_and_kept_is_a_fit_without_sampling(self, backbone, tmp_path):
        fit = self.begin(backbone)
        count = len(self.groups(fit).layers)
        sampled = self.begin(backbone, num_active=count, state="keep")
        sampled.run(tmp_path / "one")
        if self.sampling is None:
            # Whole layers have no fit without sampling; a single block never switches either.
            other = self.begin(backbone, num_active=count, interval=1000)
        else:
            other = fresh(backbone, self.posterior, self.adapter)
        other.run(tmp_path / "other")
        assert equal_states(sampled.network.trained_state(), other.network.trained_state())

    def test_a_resting_layer_neither_moves_nor_has_moments(self, backbone, tmp_path, monkeypatch):
        """Neither momentum, weight decay, a KL, a field nor an absorption moves it."""
        fit = self.begin(backbone, mode="cycle", weights=None, interval=2)
        sampler = self.groups(fit)
        seen = []

        def values():
            return [[p.detach().clone() for p in layer.params] for layer in sampler.layers]

        class Look(StepHook):
            before = values()

            def after_step(self, step, optimizer):
                now = values()
                moved = [
                    any(not torch.equal(a, b) for a, b in zip(old, new, strict=True))
                    for old, new in zip(self.before, now, strict=True)
                ]
                has_state = [
                    any(p in optimizer.state for p in item.params) for item in sampler.layers
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
        whole = self.begin(backbone, ramp=2)
        expected = whole.run(tmp_path / "whole")
        path = tmp_path / "stopped"
        with monkeypatch.context() as patch:
            watch(patch, Stop())
            with pytest.raises(StoppedError):
                self.begin(backbone, ramp=2).run(path)
        assert (path / "checkpoint.safetensors").is_file()
        resumed = self.begin(backbone, ramp=2)
        torch.manual_seed(4321)
        result = resumed.run(path)
        assert equal_states(whole.network.trained_state(), resumed.network.trained_state())
        assert result.layer_sampling == expected.layer_sampling

    def test_an_exception_leaves_every_flag_as_it_was(self, backbone, tmp_path, monkeypatch):
        fit = self.begin(backbone)
        flags = {name: p.requires_grad for name, p in fit.network.named_parameters()}
        assert any(flags.values())
        watch(monkeypatch, Stop())
        with pytest.raises(StoppedError):
            fit.run(tmp_path)
        assert {name: p.requires_grad for name, p in fit.network.named_parameters()} == flags

    def test_a_fit_leaves_every_flag_as_it_was_and_says_what_it_drew(self, backbone, tmp_path):
        fit = self.begin(backbone)
        flags = {name: p.requires_grad for name, p in fit.network.named_parameters()}
        record = fit.run(tmp_path).layer_sampling
        assert {name: p.requires_grad for name, p in fit.network.named_parameters()} == flags
        assert record == self.groups(fit).record(8)
        assert record["interval"] == 3
        assert len(record["blocks"]) == 3

    def test_trained_tensors_load_into_a_fresh_network(self, backbone, tmp_path):
        fit = self.begin(backbone)
        fit.run(tmp_path, fit_last=False)
        state = fit.network.trained_state()
        other = self.begin(backbone)
        other.network.load_trained_state(state)
        # An unfitted head may hold NaN, which is unequal to itself.
        loaded = other.network.trained_state()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[n], state[n]) for n in state if n.startswith("adapter."))
        batch = fit.train.collate([0, 1, 2])
        fit.network.eval()
        other.network.eval()
        with torch.no_grad():
            assert torch.equal(fit.network(batch).values, other.network(batch).values)
