"""A site directory that packages are installed into, and the guide's example in one."""

import sys

import pytest
import tiny
from packages import install_guide

from bayeslora.posteriors import registry


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch):
    monkeypatch.setattr(registry.CATALOGUE, "registered", {})


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory on the path; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def acme(site):
    """The guide's example, installed."""
    install_guide(site)
    return site


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return str(tiny.tiny_llama(tmp_path_factory.mktemp("backbones") / "llama"))
