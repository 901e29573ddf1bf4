"""A decoder and an encoder, loaded once: clones share their tensors, so fits cannot change them."""

import pytest
from tiny import tiny_bert, tiny_llama

from bayeslora.backbones.load import load_backbone


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("backbones") / "llama"))


@pytest.fixture(scope="session")
def decoder(backbone):
    return load_backbone(backbone, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """Return an encoder with dropout: its fits depend on the random number generators' state."""
    path = tiny_bert(tmp_path_factory.mktemp("backbones") / "bert")
    return load_backbone(str(path), dtype="float32", device="cpu")
