"""Broken packages: each is named in the error, and built-in methods are unaffected."""

import pytest
from packages import install
from refusal import refused

from bayeslora import VBLL, options
from bayeslora.cli import main
from bayeslora.posteriors.registry import CATALOGUE, POSTERIORS, resolve_posterior

GOOD = """
from dataclasses import dataclass
from typing import ClassVar
from bayeslora.posteriors.base import Posterior
@dataclass(frozen=True)
class Config(Posterior):
    size: float = 1.0
    name: ClassVar[str] = "theirs"
    summary: ClassVar[str] = "s"
    source: ClassVar[str] = ""
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"
    head: ClassVar[str] = "bayeslora.posteriors.point:PointHead"
"""


def offer(site, content, package="acme-broken", name="theirs", value=None):
    module = f"{package.replace('-', '_')}_module"
    install(
        site, package, "0.3", {name: value or f"{module}:Config"}, {f"{module}.py": content or GOOD}
    )


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


MISTAKES = {
    "no such module": (
        {"value": "acme_nowhere:Config"},
        ("'acme_nowhere:Config'", "ModuleNotFoundError"),
    ),
    "no such class": ({"value": "acme_broken_module:Other"}, ("AttributeError", "'Other'")),
    "error on import": ({"content": "1 / 0"}, ("ZeroDivisionError",)),
    "no class": ({"content": "Config = 3"}, ("3",)),
    "another base": ({"content": "class Config: pass"}, ("acme_broken_module.Config", "Posterior")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_package(site, mistake, caplog, capsys):
    about, named = MISTAKES[mistake]
    about = {"content": None} | about
    offer(site, about.pop("content"), **about)
    name = about.get("name", "theirs")
    where = f"posterior '{name}' of package acme-broken 0.3"
    with refused("package", where, *named):
        resolve_posterior(name)
    with refused("package", where):
        resolve_posterior({"name": name})
    assert [config for config, _ in CATALOGUE.listed()] == list(POSTERIORS.values())
    assert where in caplog.text
    assert resolve_posterior("vbll") == VBLL()
    assert main(["methods"]) == 0
    output = capsys.readouterr()
    assert where in output.err
    assert "Traceback" not in output.err
    assert "vbll" in output.out
    assert main(["methods", name]) == 2
    assert where in capsys.readouterr().err


def test_the_package_without_a_mistake_is_found(site):
    offer(site, GOOD)
    assert resolve_posterior("theirs:size=2").size == 2
    assert CATALOGUE.listed()[-1][1] == "acme-broken 0.3"


def test_packages_are_not_looked_through_for_what_is_built_in(monkeypatch):
    monkeypatch.setattr(
        options.Catalogue, "_offers", lambda *_, **__: pytest.fail("packages were looked through")
    )
    posteriors = [
        resolve_posterior(spec) for spec in ("vbll:prior_scale=2", {"name": "laplace"}, VBLL())
    ]
    assert [posterior.name for posterior in (*posteriors, resolve_posterior({"name": "nuts"}))] == [
        "vbll",
        "laplace",
        "vbll",
        "nuts",
    ]
