"""A training step reads nothing back from the device: each read would wait for a GPU."""

import traceback
from pathlib import Path

import pytest
from small_fits import GRADIENT, POLAR, QUICK, fresh, watch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import bayeslora
from bayeslora import IVON, MAP, MLE, SWAG, BLoB, LoRA
from bayeslora.adapters.base import StepHook

LORA = LoRA(r=2, num_layers=2)
# Operations for which the CPU must wait for the result or its shape.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique")
READING = {"cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__", "__index__"}
# Conversions of Python numbers: on a GPU, a synchronous copy.
COPYING = {"tensor", "as_tensor", "from_numpy"}
ASKING = (
    *(f"{Path(bayeslora.__file__).parent}/", "/transformers/", "/accelerate/", "/pyro/", "/ivon"),
    *("/torch/optim/", "/torch/distributions/", "/torch/nn/utils/"),
)
ALLOWED = {
    "transformers/masking_utils.py": "whether there is any padding",
    "torch/optim/": "the number of steps, which AdamW keeps on the CPU",
    "pyro/": "the loss as a number, and its warnings of NaN",
    "bayeslora/adapters/polar.py": "whether a matrix has lost rank, beside eigh's own look",
    "bayeslora/engine/network.py": "whether features are finite, on the CPU alone",
}


class _Calls(TorchDispatchMode):
    def __init__(self, note):
        super().__init__()
        self._note = note

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.startswith(WAITING):
            self._note(func.__name__)
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, note):
        super().__init__()
        self._note = note

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in READING | COPYING:
            self._note(name)
        return func(*args, **(kwargs or {}))


class _Watch(StepHook):
    """Watches each step from its beginning until the optimiser has moved."""

    def __init__(self):
        self.reads = set()
        self.steps = 0

    def before_step(self, *_):
        self._modes = [_Calls(self._note), _Methods(self._note)]
        for mode in self._modes:
            mode.__enter__()

    def after_step(self, *_):
        for mode in reversed(self._modes):
            mode.__exit__(None, None, None)
        self.steps += 1

    @property
    def unexpected(self):
        return {
            (what, place)
            for what, place in self.reads
            if not any(allowed in place for allowed in ALLOWED)
        }

    def _note(self, what):
        frames = [frame.filename for frame in traceback.extract_stack()]
        # The innermost caller of interest: torch's own functions are between it and this frame.
        callers = [name for name in frames if any(part in name for part in ASKING)]
        self.reads.add((what, callers[-1]))


@pytest.mark.parametrize(
    ("posterior", "adapter"),
    [
        (GRADIENT, POLAR),
        (QUICK, LORA),
        (MLE(), POLAR),
        (MAP(), LORA),
        (SWAG(), LORA),
        (BLoB(), LORA),
        (IVON(), LORA),
    ],
    ids=lambda item: item.name,
)
def test_a_step_waits_for_nothing(decoder, tmp_path, monkeypatch, posterior, adapter):
    if posterior.name == "ivon":
        pytest.importorskip("ivon")
    seen = _Watch()
    watch(monkeypatch, seen)
    fresh(decoder, posterior, adapter).run(tmp_path, fit_last=False)
    assert seen.steps == 8
    assert not seen.unexpected
