"""Which checkpoints a fit resumes from, and which are kept."""

import json
import os

import pytest
import torch
from crashes import survivors
from safetensors.torch import save_file

from bayeslora.engine.training.checkpoints import (
    best_state,
    forget_old,
    last_checkpoint,
    seal,
    write_best,
)


def checkpoint(directory, step, best=None):
    folder = directory / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    save_file({"x": torch.tensor([float(step)])}, folder / "model.safetensors")
    (folder / "optimizer.pt").write_bytes(b"optimizer" * 9)
    (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": best}))
    seal(folder)
    return folder


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped": flip,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 3),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "another": lambda path: path.write_bytes(b"{}"),
}


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.pt", "trainer_state.json", "files.json"]
)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, file, damage):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-99").mkdir()
    DAMAGES[damage](tmp_path / "checkpoint-10" / file)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-9"]
    assert len(caplog.records) == 1
    assert "checkpoint-10, checkpoint-99" in caplog.text


def test_without_damage_nothing_is_said(tmp_path, caplog):
    assert last_checkpoint(tmp_path / "nowhere") is None
    assert last_checkpoint(tmp_path) is None
    checkpoint(tmp_path, 8, best=8)
    (tmp_path / "checkpoint-8" / ".tmpabc").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")
    assert not caplog.records


def test_a_checkpoint_needs_the_best_epoch_that_it_names(tmp_path, caplog):
    for step, best in ((2, 2), (4, 2), (6, 6), (8, 6)):
        checkpoint(tmp_path, step, best)
    flip(tmp_path / "checkpoint-6" / "model.safetensors")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    flip(tmp_path / "checkpoint-2" / "model.safetensors")
    assert last_checkpoint(tmp_path) is None
    assert names(tmp_path) == []
    assert "starts over" in caplog.text


def test_the_best_epoch_may_be_its_tensors_alone(tmp_path):
    write_best(tmp_path, 2, {"x": torch.tensor([2.0])})
    assert last_checkpoint(tmp_path) is None, "nobody can go on from it"
    write_best(tmp_path, 2, {"x": torch.tensor([2.0])})
    path = last_checkpoint(checkpoint(tmp_path, 4, best=2).parent)
    assert path == str(tmp_path / "checkpoint-4")
    assert best_state(path)["x"].item() == 2
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize(
    ("bests", "steps"),
    [
        ([None, None, None, None], [3, 4]),
        ([1, 1, 1, 1], [1, 3, 4]),
        ([1, 1, 1, 4], [1, 3, 4]),
        ([1, 2, 3, 4], [3, 4]),
        ([1, 2, 2, 2], [2, 3, 4]),
        ([1], [1]),
    ],
)
def test_two_checkpoints_and_their_best_are_kept(tmp_path, bests, steps):
    for step, best in enumerate(bests, 1):
        checkpoint(tmp_path, step, best)
        forget_old(tmp_path)
    assert names(tmp_path) == [f"checkpoint-{step}" for step in steps]
    if len(steps) > 1:
        flip(tmp_path / names(tmp_path)[-1] / "optimizer.pt")
        assert last_checkpoint(tmp_path) == str(tmp_path / f"checkpoint-{steps[-2]}")


def test_killed_while_a_checkpoint_is_written(tmp_path):
    checkpoint(tmp_path, 4)

    def write():
        checkpoint(tmp_path, 8)
        forget_old(tmp_path)

    paths = set()
    for _ in survivors(write):
        paths.add(last_checkpoint(tmp_path))
        for path in tmp_path.glob("checkpoint-8/*"):
            path.unlink()
        if (tmp_path / "checkpoint-8").exists():
            (tmp_path / "checkpoint-8").rmdir()
    assert paths == {str(tmp_path / f"checkpoint-{step}") for step in (4, 8)}
