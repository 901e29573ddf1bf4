"""A site directory for installed packages, and one with the guide's example."""

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
    """Yield a directory on the path; modules imported from it are dropped afterwards."""
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
    """Install the guide's example."""
    install_guide(site)
    return site


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return str(tiny.tiny_llama(tmp_path_factory.mktemp("backbones") / "llama"))
