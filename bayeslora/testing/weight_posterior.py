"""Laws of posteriors over the weights of a network, as a test suite to inherit.

They test the protocol `bayeslora.posteriors.types.WeightPosterior` without training:
`bayeslora.posteriors.weights.draws.sample_logits` can predict with any object that obeys them.

    class TestTheirs(WeightPosteriorLaws):
        num_inputs = 4

        def make(self, trained):
            network = nn.Linear(4, 3)
            return network, Theirs(network, spread=0.1 if trained else 1.0)
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bayeslora.posteriors.types import WeightPosterior

Case = tuple[nn.Module, WeightPosterior]


class WeightPosteriorLaws:
    """Laws of a weight posterior; subclasses define `make`.

    Attributes:
        num_inputs: Number of inputs of the network of `make`.
    """

    num_inputs: int = 4

    def make(self, trained: bool) -> Case:
        """Return a network in evaluation mode and the posterior over its weights.

        Args:
            trained: Whether both are as after training, with positive variance in the posterior, or
                fresh. Repeated calls return equal objects.
        """
        raise NotImplementedError

    @pytest.fixture
    def case(self) -> Case:
        """A trained network and its posterior."""
        return self.make(trained=True)

    @torch.no_grad()
    def outputs(self, network: nn.Module) -> Tensor:
        """Return the outputs of the network on a few fixed rows."""
        generator = torch.Generator().manual_seed(1)
        outputs: Tensor = network(torch.randn(6, self.num_inputs, generator=generator))
        return outputs.clone()

    def drawn(self, case: Case, count: int = 3, seed: int = 0) -> Tensor:
        """Return the outputs under each of `count` draws, stacked."""
        network, posterior = case
        generator = torch.Generator().manual_seed(seed)
        outputs = []
        for _ in range(count):
            with posterior.draw(generator):
                outputs.append(self.outputs(network))
        return torch.stack(outputs)

    def test_draws_spread(self, case: Case) -> None:
        """Successive draws differ from each other and from the mean."""
        mean = self.outputs(case[0])
        first, second, _ = self.drawn(case)
        assert torch.isfinite(first).all()
        assert not torch.equal(first, second)
        assert not torch.equal(first, mean)

    def test_the_generator_alone_decides_the_draws(self, case: Case) -> None:
        """The global generator has no effect, and more draws begin with the same draws."""
        first = self.drawn(case)
        torch.rand(10)
        assert torch.equal(self.drawn(case, count=5)[:3], first)
        assert not torch.equal(self.drawn(case, seed=1), first)

    def test_drawing_leaves_everything_as_it_was(self, case: Case) -> None:
        """The bits of the weights, the modes and the global generator, also after an exception."""
        network, posterior = case
        before = _snapshot(network)
        outputs = self.outputs(network)
        self.drawn(case)
        with pytest.raises(KeyboardInterrupt), posterior.draw(torch.Generator()):
            raise KeyboardInterrupt
        _assert_same(before, _snapshot(network))
        assert torch.equal(self.outputs(network), outputs)

    def test_tensors_are_the_whole_posterior(self, case: Case) -> None:
        """After loading into fresh objects, network and posterior give bit-equal draws."""
        fresh = self.make(trained=False)
        for old, new in zip(case, fresh, strict=True):
            if isinstance(old, nn.Module) and isinstance(new, nn.Module):
                new.load_state_dict({name: item.clone() for name, item in old.state_dict().items()})
        assert torch.equal(self.drawn(fresh), self.drawn(case))

    def test_what_it_says_of_itself_is_json(self, case: Case) -> None:
        """`report`, if defined, is written to `bayeslora.json`."""
        report: dict[str, Any] = getattr(case[1], "report", dict)()
        assert json.loads(json.dumps(report, allow_nan=False)) == report


def _snapshot(network: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {name: item.clone() for name, item in network.state_dict().items()}
    modes = {f"mode of {name}": module.training for name, module in network.named_modules()}
    return {**state, **modes, "global generator": torch.get_rng_state()}


def _assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, old in before.items():
        same = torch.equal(old, after[name]) if isinstance(old, Tensor) else old == after[name]
        assert same, f"{name} is another"
