"""Laws of adapters with sites, and of companions, as test suites to inherit.

    from bayeslora.testing.adapter import SiteLaws

    class TestMine(SiteLaws):
        config = Mine()

`SiteLaws` and `CompanionLaws` say what to override.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayeslora.adapters.inject import adapter_state, export, find_sites, inject, load_adapter_state
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.adapters.site import Companion


class Stack(nn.Module):
    """Three layers of 6 inputs and 6 outputs in a list, then a head of 4 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs, [B, 4], for inputs, [B, 6]."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        result: Tensor = self.head(x)
        return result


def stack() -> Stack:
    """Return a `Stack`, with the same weights at every call."""
    torch.manual_seed(0)
    return Stack()


def output(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the hidden states of a transformer, or the output of any other model."""
    with torch.no_grad():
        return _states(model, inputs)


def _states(model: nn.Module, inputs: Tensor) -> Tensor:
    result = model(inputs)
    states: Tensor = getattr(result, "last_hidden_state", result)
    return states


def randomise(sites: Sequence[Any], seed: int = 2, size: float = 0.3) -> None:
    """Set free parameters to random values, as after training; orthonormal factors are kept."""
    generator = torch.Generator().manual_seed(seed)
    for site in sites:
        for key, value in site.trainable().items():
            if key not in site.manifold():
                value.data = (size * torch.randn(value.shape, generator=generator)).to(value)


Adapted = tuple[nn.Module, list[Any]]


class SiteLaws:
    """Laws of adapters; subclasses define `config`, and `host` and `inputs` for other hosts.

    Attributes:
        config: Options under test.
        is_random: Whether the initialisation depends on the seed.
    """

    config: Any = None
    is_random: bool = True

    def host(self) -> nn.Module:
        """Return a new model in evaluation mode, with the same weights at every call."""
        return stack().eval()

    def inputs(self) -> Tensor:
        """Return a batch of inputs for the host."""
        return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))

    def put(self, model: nn.Module, seed: int = 0) -> list[Any]:
        """Inject adapters into a model and return them."""
        return list(inject(model, self.config, seed=seed))

    def along(self, model: nn.Module) -> Tensor:
        """Return a loss: the inner product of the states with a fixed direction.

        The sum of squares would be constant for normalised states.
        """
        states = _states(model, self.inputs())
        direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(4))
        return (states * direction).sum()

    @pytest.fixture
    def plain(self) -> nn.Module:
        """A host without adapters."""
        return self.host()

    @pytest.fixture
    def adapted(self) -> Adapted:
        """A host with adapters, and the adapters."""
        model = self.host()
        return model, self.put(model)

    @pytest.fixture
    def trained(self, adapted: Adapted) -> Adapted:
        """A host with adapters with random values, as after training."""
        model, sites = adapted
        randomise(sites)
        return model, sites

    def test_injection_does_not_change_the_function(
        self, plain: nn.Module, adapted: Adapted
    ) -> None:
        """The output is bit-equal."""
        assert torch.equal(output(plain, self.inputs()), output(adapted[0], self.inputs()))

    def test_the_change_is_zero_at_the_origin_after_training(self, trained: Adapted) -> None:
        """Setting the parameters to the origin makes the change zero again."""
        for site in trained[1]:
            assert torch.count_nonzero(site.delta()) > 0
            assert site.origin().keys() == site.trainable().keys()
            for key, value in site.origin().items():
                site.trainable()[key].data.copy_(value)
            assert torch.count_nonzero(site.delta()) == 0

    def test_delta_is_the_difference_to_the_host(self, plain: nn.Module, trained: Adapted) -> None:
        """The merged weight is the sum of the host's weight and the change."""
        for site in trained[1]:
            host = plain.get_submodule(site.name).weight
            # A single float32 addition of numbers of order 1.
            torch.testing.assert_close(host + site.delta(), site.merged().weight, atol=1e-6, rtol=0)

    def test_export_is_plain_and_computes_the_same(self, trained: Adapted) -> None:
        """An exported model has linear layers, and the original is unchanged."""
        model, sites = trained
        plain = export(model)
        assert not find_sites(plain)
        assert all(type(plain.get_submodule(site.name)) is nn.Linear for site in sites)
        assert find_sites(model) == sites
        expected = output(model, self.inputs())
        torch.testing.assert_close(output(plain, self.inputs()), expected, atol=1e-5, rtol=1e-5)

    def test_only_adapters_are_trained(self, trained: Adapted) -> None:
        """All other parameters have no gradient and are unchanged."""
        model, sites = trained
        model.train()
        adapter_ids = {id(value) for site in sites for value in site.trainable().values()}
        frozen = {n: p.clone() for n, p in model.named_parameters() if id(p) not in adapter_ids}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
        torch.autograd.backward(_states(model, self.inputs()).square().mean())
        optimizer.step()
        assert frozen
        for name, parameter in model.named_parameters():
            if name in frozen:
                assert parameter.grad is None
                assert torch.equal(parameter, frozen[name])
            else:
                assert parameter.grad is not None

    def test_saved_adapters_load_on_a_fresh_host(self, trained: Adapted) -> None:
        """The output is bit-equal."""
        model, sites = trained
        fresh = self.host()
        others = self.put(fresh, seed=9)
        load_adapter_state(others, adapter_state(sites))
        difference = output(fresh, self.inputs()) - output(model, self.inputs())
        assert torch.count_nonzero(difference) == 0

    def test_constraints_hold_after_steps_of_the_optimiser(self, adapted: Adapted) -> None:
        """Orthonormal factors are orthonormal at the start, and stay so."""
        model, sites = adapted
        self.check_orthonormal(sites)
        tags = [site.manifold() for site in sites]
        optimizer = build_optimizer(sites, [], self.config, 0.01)
        for _ in range(5):
            optimizer.zero_grad()
            torch.autograd.backward(self.along(model))
            optimizer.step()
        assert any(torch.count_nonzero(site.delta()) for site in sites)
        assert [site.manifold() for site in sites] == tags
        self.check_orthonormal(sites)

    def test_hooks_see_one_call_a_forward_pass(self, trained: Adapted) -> None:
        """Each of a site's linear layers runs once."""
        model, sites = trained
        calls = []
        for site in sites:
            for key, layer in site.linears().items():
                layer.register_forward_hook(lambda *_, call=(site.name, key): calls.append(call))
        output(model, self.inputs())
        expected = [(site.name, key) for site in sites for key in site.linears()]
        assert sorted(calls) == sorted(expected)

    def test_the_change_is_the_product_of_its_factors(self, trained: Adapted) -> None:
        """The change is s B A."""
        for site in trained[1]:
            A, B = site.change()
            assert A.shape == (B.shape[1], site.in_features)
            assert B.shape[0] == site.out_features
            torch.testing.assert_close(site.scale * B @ A, site.delta())

    def test_a_blank_site_takes_the_saved_tensors(self, trained: Adapted) -> None:
        """Loading needs no decomposition: zeros of the right shapes receive the saved tensors."""
        model, sites = trained
        fresh = self.host()
        others = inject(fresh, self.config, seed=9, blank=True)
        load_adapter_state(others, adapter_state(sites))
        assert torch.equal(output(fresh, self.inputs()), output(model, self.inputs()))
        for site, other in zip(sites, others, strict=True):
            if site.centred:
                assert all(torch.equal(site.origin()[key], other.origin()[key]) for key in "AB")

    def test_a_gradient_step_from_the_start_lowers_the_loss(self, adapted: Adapted) -> None:
        """The initial point is not stationary."""
        model, sites = adapted

        before = self.along(model)
        torch.autograd.backward(before)
        assert any(
            value.grad.abs().max() > 0 for site in sites for value in site.trainable().values()
        )
        with torch.no_grad():
            for site in sites:
                for value in site.trainable().values():
                    if value.grad is not None:  # parameters used only in training have none here
                        value.sub_(1e-3 * value.grad)
        assert self.along(model) < before

    def test_moves_take_everything_along(self, trained: Adapted) -> None:
        """Moving the model to another precision moves every tensor."""
        model, sites = trained
        model.to(torch.float64)
        for site in sites:
            assert site.delta().dtype == torch.float64
            assert all(value.dtype == torch.float64 for value in site.origin().values())

    def test_the_host_keeps_its_precision(self, plain: nn.Module, trained: Adapted) -> None:
        """Adapters stay in float32 on a bfloat16 host, whose output stays bfloat16."""
        expected = output(trained[0], self.inputs())
        half = self.host().to(torch.bfloat16)
        sites = self.put(half)
        load_adapter_state(sites, adapter_state(trained[1]))
        inputs = self.inputs()
        inputs = inputs.to(torch.bfloat16) if inputs.is_floating_point() else inputs
        actual = output(half, inputs)
        assert actual.dtype == torch.bfloat16
        assert all(v.dtype == torch.float32 for site in sites for v in site.trainable().values())
        assert all(site.merged().weight.dtype == torch.bfloat16 for site in sites)
        # bfloat16 has eight bits: a relative error of 4e-3 per operation, for a few dozen of them.
        assert (actual.float() - expected).abs().max() < 0.15 * expected.abs().max()

    def test_the_same_seed_gives_the_same_start(self, adapted: Adapted) -> None:
        """Another seed gives another initialisation if it is random."""
        first = adapter_state(adapted[1])
        again = adapter_state(self.put(self.host()))
        other = adapter_state(self.put(self.host(), seed=1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        differs = any(not torch.equal(first[name], other[name]) for name in first)
        assert differs == self.is_random

    def check_orthonormal(self, sites: Sequence[Any]) -> None:
        """Assert that factors declared as orthonormal are orthonormal."""
        for site in sites:
            for key, kind in site.manifold().items():
                assert kind == "stiefel"
                Z = site.trainable()[key].detach().double()
                Z = Z.T if key == "A" else Z
                # Rounding to float32 moves each of n entries by 6e-8 relative.
                assert torch.linalg.norm(Z.T @ Z - torch.eye(site.r)) < 1e-6


class CompanionLaws:
    """Laws of what an adapter trains besides its sites; subclasses define `make` and `change`."""

    def make(self) -> Companion:
        """Return a new companion, the same at every call."""
        raise NotImplementedError

    def change(self, companion: Companion) -> None:
        """Change what is trained, as training does."""
        raise NotImplementedError

    def test_saved_tensors_load_into_a_new_one(self) -> None:
        """Shapes are adopted, and every tensor is bit-equal."""
        first, second = self.make(), self.make()
        self.change(first)
        stored = {name: value.detach().clone() for name, value in first.tensors().items()}
        second.resize(stored)
        second.load(stored)
        assert stored
        assert second.tensors().keys() == stored.keys()
        assert all(torch.equal(second.tensors()[name], value) for name, value in stored.items())

    def test_optimisers_hold_named_groups_of_what_is_trained(self) -> None:
        """A group's name decides which schedules apply to it."""
        groups = [group for inner in self.make().optimizers() for group in inner.param_groups]
        assert groups
        assert all(group["name"] for group in groups)
        assert all(item.requires_grad for group in groups for item in group["params"])

    def test_statistics_are_numbers(self) -> None:
        """The summary is for a record, which is JSON."""
        companion = self.make()
        self.change(companion)
        assert all(isinstance(value, float) for value in companion.summary().values())
