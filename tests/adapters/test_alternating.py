"""One optimiser for adapter and head: turns, learning rates and invalid arguments."""

import pytest
import torch
from alternation import CONFIGS, Problem, changed
from torch.optim import AdamW

from bayeslora.adapters.inject import adapter_state
from bayeslora.adapters.low_rank import drift
from bayeslora.adapters.polar import PoLAR, RiemannianAdam


@pytest.fixture(params=CONFIGS)
def problem(request):
    return Problem(CONFIGS[request.param])


def test_step_moves_the_adapter_alone(problem):
    problem.turn(0)
    before = problem.tensors()
    problem.loss().backward()
    problem.optimizer.step()
    assert changed(before, problem.tensors()) == set(adapter_state(problem.sites))


def test_head_step_moves_the_head_alone(problem):
    before = problem.tensors()
    problem.loss().backward()
    problem.optimizer.head_step()
    assert changed(before, problem.tensors()) == {"weight", "bias"}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("constraint", ["retraction", "landing", "euclidean-penalty"])
def test_factors_are_orthonormal_after_every_step(constraint, half):
    """A forward pass in bfloat16 makes rough gradients, not rough factors."""
    problem = Problem(PoLAR(r=5, lr=0.02, constraint=constraint))
    worst = 0.0
    for step in range(30):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            problem.turn(step)
        worst = max(worst, drift(problem.sites[0]))
    assert worst < 1e-5


def test_steps_equal_those_of_separate_optimizers():
    """The combination adds nothing: two plain optimisers give the same bits."""
    together, apart = Problem(CONFIGS["polar"]), Problem(CONFIGS["polar"])
    site = apart.sites[0]
    core = AdamW([site.core.weight], lr=1e-2, weight_decay=0.1)
    factors = RiemannianAdam([site.A.weight, site.B.weight], lr=1e-2, max_rotation=0.3)
    head = AdamW(apart.head.parameters(), lr=0.02, weight_decay=0.0)
    for step in range(5):
        together.turn(step)
        for movers in ([head], [core, factors]):
            apart.optimizer.zero_grad()
            apart.loss(step).backward()
            for mover in movers:
                mover.step()
    assert not changed(together.tensors(), apart.tensors())
