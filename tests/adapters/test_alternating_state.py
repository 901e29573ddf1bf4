"""The alternating optimiser under schedules, checkpoints and Accelerate."""

import pytest
import torch
from alternation import CONFIGS, Problem, changed


@pytest.fixture(params=CONFIGS)
def problem(request):
    return Problem(CONFIGS[request.param])


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
