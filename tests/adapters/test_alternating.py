"""One optimiser for adapter and head: turns, learning rates and invalid arguments."""

import pytest
import torch
from alternation import CONFIGS, Problem, changed
from torch import nn
from torch.optim import SGD, AdamW

from bayeslora.adapters.inject import adapter_state
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.optimizers import build_optimizer, euclidean_parameters
from bayeslora.adapters.polar import PoLAR, RiemannianAdamW
from bayeslora.adapters.spectrum import drift


@pytest.fixture(params=CONFIGS)
def problem(request):
    return Problem(CONFIGS[request.param])


def test_is_an_optimizer(problem):
    assert isinstance(problem.optimizer, torch.optim.Optimizer)
    assert problem.optimizer.defaults == {}


def test_each_parameter_is_in_one_group(problem):
    own = [p for site in problem.sites for p in site.trainable().values()]
    own += list(problem.head.parameters())
    grouped = [p for group in problem.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, own))


def test_groups_by_name_and_rate():
    names = {
        key: [(group["name"], group["lr"]) for group in Problem(config).optimizer.param_groups]
        for key, config in CONFIGS.items()
    }
    polar = [("adapter", 1e-2), ("factors", 1e-2), ("head", 0.02)]
    assert names == {
        "lora": [("adapter", 3e-3), ("head", 0.02)],
        "polar": polar,
        "landing": polar,
        "penalty": polar,
    }


def test_weight_decay_is_the_adapters_and_spares_factors_and_head():
    def decays(key):
        groups = Problem(CONFIGS[key]).optimizer.param_groups
        return {group["name"]: group.get("weight_decay", 0.0) for group in groups}

    assert decays("lora") == {"adapter": 0.1, "head": 0.0}
    assert decays("polar") == {"adapter": 0.1, "factors": 0.0, "head": 0.0}
    assert decays("landing") == {"adapter": 0.0, "factors": 0.0, "head": 0.0}


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


def test_zero_grad_covers_everything(problem):
    problem.loss().backward()
    problem.optimizer.zero_grad()
    assert all(p.grad is None for g in problem.optimizer.param_groups for p in g["params"])


def test_the_loss_falls(problem):
    first = problem.loss(99).item()
    for step in range(150):
        problem.turn(step)
    assert problem.loss(99).item() < 0.5 * first


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


def test_the_rotation_is_logged():
    problem = Problem(CONFIGS["polar"])
    problem.turn(0)
    problem.turn(1)
    state = problem.optimizer.state[problem.sites[0].B.weight]
    assert 0 < float(state["rotation"]) < 0.3


def test_steps_equal_those_of_separate_optimizers():
    """The combination adds nothing: two plain optimisers give the same bits."""
    together, apart = Problem(CONFIGS["polar"]), Problem(CONFIGS["polar"])
    site = apart.sites[0]
    core = AdamW([site.core.weight], lr=1e-2, weight_decay=0.1)
    factors = RiemannianAdamW([site.A.weight, site.B.weight], lr=1e-2, max_rotation=0.3)
    head = AdamW(apart.head.parameters(), lr=0.02, weight_decay=0.0)
    for step in range(5):
        together.turn(step)
        for movers in ([head], [core, factors]):
            apart.optimizer.zero_grad()
            apart.loss(step).backward()
            for mover in movers:
                mover.step()
    assert not changed(together.tensors(), apart.tensors())


def test_a_closure_is_evaluated_once():
    problem = Problem(CONFIGS["polar"])
    calls = []

    def closure():
        problem.optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        calls.append(loss.item())
        return loss.item()

    assert problem.optimizer.step(closure) == calls[0]
    assert len(calls) == 1


def test_a_head_alone_and_an_adapter_alone():
    head = nn.Linear(2, 2)
    alone = build_optimizer([], head.parameters(), LoRA(), 0.1)
    assert [group["name"] for group in alone.param_groups] == ["head"]
    alone.step()
    sites = Problem(CONFIGS["polar"]).sites
    adapter = build_optimizer(sites, [], CONFIGS["polar"], 0.1)
    assert [group["name"] for group in adapter.param_groups] == ["adapter", "factors"]
    adapter.head_step()


@pytest.mark.parametrize("key", ["lora", "polar"])
def test_a_posteriors_parameters_move_with_the_adapter_without_decay(key):
    """They follow the adapter's parameters, whose learning rate stays first."""
    problem, spread = Problem(CONFIGS[key]), nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(
        problem.sites, problem.head.parameters(), CONFIGS[key], 0.02, more=[spread]
    )
    names = [group["name"] for group in optimizer.param_groups]
    assert names == ["adapter", "posterior", *(["factors"] if key == "polar" else []), "head"]
    group = optimizer.param_groups[1]
    assert (group["lr"], group["weight_decay"]) == (CONFIGS[key].default_lr, 0.0)
    spread.grad = torch.ones(3)
    optimizer.head_step()
    assert torch.equal(spread, torch.ones(3))
    optimizer.step()
    assert spread.max() < 1


@pytest.mark.parametrize("key", ["lora", "polar"])
def test_another_optimiser_takes_what_is_on_no_manifold(key):
    problem, received = Problem(CONFIGS[key]), []

    def make(parameters):
        received.extend(parameters)
        return SGD(parameters, lr=0.5)

    optimizer = build_optimizer(problem.sites, [], CONFIGS[key], 0.02, euclidean=make)
    expected = euclidean_parameters(problem.sites)
    assert list(map(id, received)) == list(map(id, expected))
    assert optimizer.param_groups[0]["name"] == "adapter"
    assert optimizer.param_groups[0]["lr"] == 0.5
    before = received[0].detach().clone()
    received[0].grad = torch.ones_like(before)
    optimizer.step()
    torch.testing.assert_close(received[0].detach(), before - 0.5)
