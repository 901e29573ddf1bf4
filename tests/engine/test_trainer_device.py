"""Training runs on the network's device, whichever device the Trainer would choose."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from bayeslora.engine.training.trainer import training_arguments
from bayeslora.engine.training_options import TrainingSettings


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Return a function from a device to a Trainer's arguments that needs no GPU."""
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)

    def make(name):
        made = training_arguments(
            TrainingSettings(1, 8),
            tmp_path,
            3,
            validates=False,
            device=torch.device(name),
            schedule="cosine",
        )
        return made, current

    yield make
    # The state is global to the process.
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("name", ["cuda:1", "cuda:0"])
def test_the_gpu_is_the_networks(arguments, name):
    made, current = arguments(name)
    assert made.device == torch.device(name)
    assert made.n_gpu <= 1
    assert Accelerator().device == torch.device(name)
    assert current[-1] == torch.device(name)


def test_the_cpu_stays_the_cpu(arguments):
    made, current = arguments("cpu")
    assert made.device == Accelerator().device == torch.device("cpu")
    assert made.use_cpu
    assert not current
