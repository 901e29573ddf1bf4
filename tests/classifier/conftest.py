"""Small models on disk, and one fitted classifier."""

import pytest
from tiny import tiny_bert, tiny_classifier, tiny_llama
from usage import fitted


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def llama(folder):
    return str(tiny_llama(folder / "llama"))


@pytest.fixture(scope="session")
def bert(folder):
    return str(tiny_bert(folder / "bert"))


@pytest.fixture(scope="session")
def backbones(llama, bert):
    return {"llama": llama, "bert": bert}


@pytest.fixture(scope="session")
def foreign(folder):
    return str(tiny_classifier(folder / "foreign"))


@pytest.fixture(scope="session")
def shared(llama):
    """Return a fitted classifier that is shared by tests that do not change it."""
    return fitted(llama)


@pytest.fixture
def model(shared, tmp_path):
    shared.save_pretrained(tmp_path / "model")
    return tmp_path / "model"
