"""One optimiser for adapter and head: turns, learning rates, schedules and checkpoints."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from bayeslora.adapters.inject import adapter_state, inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.low_rank import drift
from bayeslora.adapters.optimizers import build_optimizer
from bayeslora.adapters.polar import PoLAR, RiemannianAdam

CONFIGS = {
    "lora": LoRA(r=2, weight_decay=0.1),
    "polar": PoLAR(r=3, weight_decay=0.1),
    "landing": PoLAR(r=3, constraint="landing", absorb_every=2),
}


class Problem:
    """A small regression with an adapted layer below a trained head."""

    def __init__(self, config, head_lr=0.02):
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.head = nn.Linear(5, 2)
        targets = type(config)(**{**vars(config), "target_modules": ("0",)})
        self.sites = inject(self.body, targets, seed=0)
        self.optimizer = build_optimizer(self.sites, self.head.parameters(), targets, head_lr)

    def loss(self, step=0):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=generator)
        return (self.head(self.body(x)) - x[:, :2].sin()).square().mean()

    def turn(self, step):
        """Run a step of the head and then of the adapter, each on fresh gradients."""
        for move in (self.optimizer.head_step, self.optimizer.step):
            self.optimizer.zero_grad()
            self.loss(step).backward()
            move()

    def tensors(self):
        return adapter_state(self.sites) | {
            name: value.detach().clone() for name, value in self.head.named_parameters()
        }


def changed(before, after):
    """Return the names of the tensors that differ in any bit."""
    return {name for name in before if not torch.equal(before[name], after[name])}


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
@pytest.mark.parametrize("constraint", ["retraction", "landing"])
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


def test_schedules_reach_the_inner_optimizers(problem):
    schedule = torch.optim.lr_scheduler.LambdaLR(problem.optimizer, lambda step: 0.0 if step else 1)
    problem.turn(0)
    schedule.step()
    assert [group["lr"] for group in problem.optimizer.param_groups] == [0.0] * len(
        schedule.get_last_lr()
    )
    before = problem.tensors()
    for group in problem.optimizer.param_groups:
        group["absorb_every"] = 0
    problem.turn(1)
    after = problem.tensors()
    # A step with rate zero still retracts, which rounds.
    assert all((after[name] - before[name]).abs().max() < 1e-6 for name in before)


def test_resume_is_bit_equal(problem, request, tmp_path):
    config = CONFIGS[request.node.callspec.params["problem"]]

    def schedule_of(problem):
        return torch.optim.lr_scheduler.LambdaLR(problem.optimizer, lambda step: 1 / (1 + step))

    def run(problem, schedule, steps):
        for step in steps:
            problem.turn(step)
            schedule.step()

    run(problem, schedule_of(problem), range(8))
    first = Problem(config)
    schedule = schedule_of(first)
    run(first, schedule, range(5))
    torch.save(first.optimizer.state_dict(), tmp_path / "optimizer.pt")

    second = Problem(config)
    second.body.load_state_dict(first.body.state_dict())
    second.head.load_state_dict(first.head.state_dict())
    resumed = schedule_of(second)
    resumed.load_state_dict(schedule.state_dict())
    state = torch.load(tmp_path / "optimizer.pt", weights_only=True)
    second.optimizer.load_state_dict(state)
    run(second, resumed, range(5, 8))
    assert not changed(problem.tensors(), second.tensors())
