"""States of frozen layers on disk: read back bit by bit, or not at all."""

import logging

import pytest
import torch
from tiny import tiny_llama, toy_rows

from bayeslora.backbones import encoder as encoder_module
from bayeslora.backbones.encoder import Encoder
from bayeslora.backbones.load import load_backbone
from bayeslora.io import FROZEN_STATES, cache_directory

TEXTS = [row["text"] for row in toy_rows(9, seed=5)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BAYESLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BAYESLORA_CACHE_GIB", raising=False)
    # Tiny models are faster to rerun than to read; real ones are not.
    monkeypatch.setattr(encoder_module, "_WORTH_SECONDS", 0.0)


@pytest.fixture
def folder(tmp_path):
    return tiny_llama(tmp_path / "model")


@pytest.fixture
def passes(monkeypatch):
    """Count the passes of the frozen layers over all texts."""
    calls = []
    compute = encoder_module.compute_prefix

    def counting(*args, **kwargs):
        calls.append(1)
        return compute(*args, **kwargs)

    monkeypatch.setattr(encoder_module, "compute_prefix", counting)
    return calls


def encoder(folder, start=1, dtype="float32"):
    """Return an encoder as a new process would create it."""
    backbone = load_backbone(str(folder), dtype=dtype, device="cpu")
    return Encoder(backbone, layers_path="layers", start=start, max_length=32)


def files():
    return sorted((cache_directory() / FROZEN_STATES).glob("*"))


def test_the_next_run_finds_them_bit_by_bit(folder, passes):
    first = encoder(folder).prepare(TEXTS, keep=True)
    done = []
    again = encoder(folder).prepare(TEXTS, keep=True, advance=done.append)
    assert len(passes) == 1
    assert sum(done) == len(TEXTS)
    assert torch.equal(first.prefix.values, again.prefix.values)
    assert torch.equal(first.prefix.spans, again.prefix.spans)
    assert len(files()) == 1


def test_what_decides_them_is_in_their_name(folder, passes):
    encoder(folder).prepare(TEXTS, keep=True)
    encoder(folder).prepare(TEXTS[:-1], keep=True)
    encoder(folder).prepare([*TEXTS[:-1], f"{TEXTS[-1]} more"], keep=True)
    encoder(folder, start=2).prepare(TEXTS, keep=True)
    encoder(folder, dtype="bfloat16").prepare(TEXTS, keep=True)
    assert len(passes) == len(files()) == 5


def test_another_version_or_padding_token_asks_for_other_states(folder, passes, monkeypatch):
    encoder(folder).prepare(TEXTS, keep=True)
    other = encoder(folder)
    other.model.config.pad_token_id = 3
    other.prepare(TEXTS, keep=True)
    monkeypatch.setattr(encoder_module, "version", lambda _: "another")
    encoder(folder).prepare(TEXTS, keep=True)
    assert len(passes) == len(files()) == 3


def test_texts_to_predict_are_not_kept(folder):
    encoder(folder).prepare(TEXTS)
    assert files() == []


@pytest.mark.parametrize("damage", ["end", "all"])
def test_a_damaged_file_is_made_again(folder, passes, caplog, damage):
    first = encoder(folder).prepare(TEXTS, keep=True)
    (path,) = files()
    content = bytearray(path.read_bytes())
    if damage == "end":
        del content[-3:]
    if damage == "all":
        content[:] = b"no tensors"
    path.write_bytes(content)
    before = len(passes)
    with caplog.at_level(logging.WARNING):
        again = encoder(folder).prepare(TEXTS, keep=True)
    assert str(path) in caplog.text
    assert len(passes) == before + 1
    assert torch.equal(first.prefix.values, again.prefix.values)
    encoder(folder).prepare(TEXTS, keep=True)
    assert len(passes) == before + 1


def test_their_directory_is_for_its_owner_alone(folder):
    encoder(folder).prepare(TEXTS, keep=True)
    assert files()[0].parent.stat().st_mode & 0o077 == 0
