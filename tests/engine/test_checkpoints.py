"""The checkpoint of a network: whole or absent, and never run."""

import torch
from crashes import survivors

from bayeslora.engine.training import read_checkpoint, write_checkpoint


def checkpoint(step):
    return {"x": torch.tensor([float(step)])}, {"epoch": step}


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    folder = tmp_path / "member-0"
    assert read_checkpoint(None) is None
    assert read_checkpoint(folder) is None
    for step in (1, 2):
        write_checkpoint(folder, *checkpoint(step))
        assert read_checkpoint(folder) == checkpoint(step)
    assert [path.name for path in folder.iterdir()] == ["checkpoint.safetensors"]


def test_killed_while_a_checkpoint_is_written(tmp_path):
    write_checkpoint(tmp_path, *checkpoint(1))
    seen = []
    for _ in survivors(lambda: write_checkpoint(tmp_path, *checkpoint(2))):
        seen.append(read_checkpoint(tmp_path)[1]["epoch"])
    assert seen == sorted(seen)
    assert {*seen} <= {1, 2}
    assert read_checkpoint(tmp_path) == checkpoint(2)
