"""Functions that each of two processes runs."""

import json
from pathlib import Path

import pytest
import torch

from bayeslora.cli import main
from bayeslora.errors import InputError
from bayeslora.processes import current, is_repeated, together


def commands(path):
    """Run the commands of a JSON file in order."""
    with together():
        for words in json.loads(Path(path).read_text()):
            assert main(words) == 0, words


def exchanges():
    """Check every exchange against the values of a single process."""
    with together() as world:
        assert current() is world
        assert world.size == 2
        rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        weight = torch.ones(3, requires_grad=True)
        joined = world.joined(rows[world.share(5)] * weight, 5)
        assert torch.equal(joined, rows)
        joined.square().sum().backward()
        grads = weight.grad
        world.sum_([grads])
        assert torch.allclose(grads, 2 * rows.square().sum(0))
        # One row for two processes: the process without a row passes one that is not counted.
        weight = torch.ones(3, requires_grad=True)
        joined = world.joined(rows[:1] * weight, 1)
        joined.sum().backward()
        assert torch.equal(joined, rows[:1])
        assert weight.grad is not None
        world.sum_([weight.grad])
        assert torch.equal(weight.grad, rows[0])
        for dtype in (torch.bfloat16, torch.float64):
            whole = torch.tensor([[-0.0, float("nan")], [float("inf"), 1e-40]], dtype=dtype)
            part = torch.zeros_like(whole)
            part[world.rank] = whole[world.rank]
            world.merge_(part)
            assert torch.equal(part.view(torch.uint8), whole.view(torch.uint8))
        assert world.told(world.rank) == 0
        assert not world.agree(on=world.is_first)
        tensor = torch.full((2,), float(world.rank))
        world.broadcast_([tensor])
        assert torch.equal(tensor, torch.zeros(2))
        before = torch.random.get_rng_state()
        with world.own_noise(1):
            mine = torch.rand(1)
        assert torch.equal(torch.random.get_rng_state(), before)
        both = torch.zeros(2)
        both[world.rank] = mine
        world.merge_(both)
        assert both[0] != both[1]


def sharded(folder):
    """Fit and predict on a backbone whose lower layer is shared out by FSDP."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from bayeslora import BayesianClassifier
    from bayeslora.backbones.load import load_backbone

    folder = Path(folder)
    with together() as world:
        backbone = load_backbone(str(folder / "llama"), dtype="float32", device="cpu")
        lower = backbone.model.layers[0]
        whole = sum(weight.numel() for weight in lower.parameters())
        fully_shard(lower, mesh=init_device_mesh("cpu", (world.size,)), reshard_after_forward=True)
        classifier = BayesianClassifier(
            backbone, "lora:r=4,num_layers=2", "mle", depth=1.0, progress=False
        )
        classifier.fit(
            folder / "train.jsonl",
            epochs=2,
            batch_size=8,
            cv=0,
            out=folder / "sharded",
            overwrite=True,
        )
        here = sum(weight.to_local().numel() for weight in lower.parameters())
        assert here * world.size == whole
        classifier.predict_to_file(folder / "test.jsonl", folder / "sharded.parquet")


def failing_writer():
    """Fail in work of the first process alone: all processes raise, and none waits forever."""

    def write():
        assert current().size == 1
        raise InputError("no room")

    with together() as world:
        with pytest.raises(InputError, match="no room") as caught:
            world.first(write)
        assert is_repeated(caught.value) == (not world.is_first)
        assert world.first(lambda: world.rank) == 0


def failing_other():
    """End the second process in the middle of the work: the first is notified."""
    with together() as world:
        if not world.is_first:
            raise SystemExit(3)
        try:
            world.told(1)
        except RuntimeError:
            raise SystemExit(4) from None
