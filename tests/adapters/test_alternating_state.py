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


def test_loading_keeps_the_group_dictionaries(problem):
    problem.turn(0)
    optimizer = problem.optimizer
    identities = [id(group) for group in optimizer.param_groups]
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.125
    optimizer.load_state_dict(state)
    assert [id(group) for group in optimizer.param_groups] == identities
    assert optimizer.param_groups[0]["lr"] == 0.125
    before = problem.tensors()
    problem.turn(1)
    assert changed(before, problem.tensors()) == set(before)


def test_state_covers_every_parameter(problem):
    problem.turn(0)
    count = sum(len(group["params"]) for group in problem.optimizer.param_groups)
    assert len(problem.optimizer.state) == count
    assert sorted(problem.optimizer.state_dict()["state"]) == list(range(count))


def test_works_inside_accelerate():
    from accelerate import Accelerator

    plain, wrapped = Problem(CONFIGS["landing"]), Problem(CONFIGS["landing"])
    accelerator = Accelerator(cpu=True)
    outer = accelerator.prepare_optimizer(wrapped.optimizer)
    for step in range(5):
        plain.turn(step)
        for move in (outer.optimizer.head_step, outer.step):
            outer.zero_grad()
            wrapped.loss(step).backward()
            move()
    assert not changed(plain.tensors(), wrapped.tensors())


def test_a_state_of_other_parameters_is_refused():
    with pytest.raises(ValueError, match="parameter groups"):
        Problem(CONFIGS["polar"]).optimizer.load_state_dict(
            Problem(CONFIGS["lora"]).optimizer.state_dict()
        )
