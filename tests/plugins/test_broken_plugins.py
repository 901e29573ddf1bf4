"""Broken packages: each is named in the error, and built-in methods are unaffected."""

import dataclasses

import pytest
from packages import install
from refusal import refused

from bayeslora import VBLL, plugins
from bayeslora.cli import main
from bayeslora.errors import FailedError
from bayeslora.posteriors.base import completed
from bayeslora.posteriors.registry import (
    CATALOGUE,
    POSTERIORS,
    build_head,
    build_weights,
    resolve_posterior,
    stored_posterior,
)

GOOD = """
from dataclasses import dataclass
from typing import ClassVar
@dataclass(frozen=True)
class Config:
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


OVER_WEIGHTS = (
    changed("class Config:", "class Config(Posterior):").rsplit("    head", 1)[0]
    + """
    is_sampled: ClassVar[bool] = True
    def over_weights(self, network, *, seed, fitted=False):
        return object()
"""
)
OVER_WEIGHTS = "from bayeslora.posteriors.base import Posterior" + OVER_WEIGHTS

MISTAKES = {
    "over weights, and fitted who knows when": (
        {"content": OVER_WEIGHTS},
        ("over_trained = True", "from_start"),
    ),
    "no such module": (
        {"value": "acme_nowhere:Config"},
        ("'acme_nowhere:Config'", "ModuleNotFoundError"),
    ),
    "no such class": ({"value": "acme_broken_module:Other"}, ("AttributeError", "'Other'")),
    "error on import": ({"content": "1 / 0"}, ("ZeroDivisionError",)),
    "no class": ({"content": "Config = 3"}, ("3",)),
    "no dataclass": ({"content": "class Config: pass"}, ("acme_broken_module.Config",)),
    "not frozen": ({"content": changed("(frozen=True)", "")}, ("dataclass Config",)),
    "no summary": (
        {"content": changed('    summary: ClassVar[str] = "s"\n', "")},
        ("Config", "'summary'"),
    ),
    "an option for a class variable": (
        {"content": changed("passes: ClassVar[str]", "passes: str")},
        ("Config", "'passes'"),
    ),
    "no head": ({"content": GOOD.rsplit("    head", 1)[0]}, ("Config", "'head'")),
    "head without a module": (
        {"content": changed("bayeslora.posteriors.point:PointHead", "mle")},
        ("Config", "'head'"),
    ),
    "another name": (
        {"content": changed('"theirs"', '"other"')},
        ("'acme_broken_module:Config'", "'other'"),
    ),
    "a name that cannot be typed": (
        {"content": changed('"theirs"', '"The:irs"'), "name": "The.irs"},
        ("name", "'The:irs'"),
    ),
    "an option without a default": (
        {"content": changed("size: float = 1.0", "size: float")},
        ("Config()", "TypeError"),
    ),
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
        stored_posterior({"name": name})
    assert [item.config for item in CATALOGUE.listed()] == list(POSTERIORS.values())
    assert where in caplog.text
    assert resolve_posterior("vbll") == VBLL()
    assert main(["methods"]) == 0
    output = capsys.readouterr()
    assert where in output.err
    assert "Traceback" not in output.err
    assert "vbll" in output.out
    assert main(["methods", name]) == 2
    assert f"error: {where}" in capsys.readouterr().err


def test_the_package_without_a_mistake_is_found(site):
    offer(site, GOOD)
    assert resolve_posterior("theirs:size=2").size == 2
    assert CATALOGUE.listed()[-1].package == "acme-broken 0.3"


def test_the_name_of_a_built_in_posterior_stays_its_own(site, caplog):
    offer(site, changed('"theirs"', '"vbll"'), name="vbll")
    assert resolve_posterior("vbll") == VBLL()
    assert [item.config for item in CATALOGUE.listed()] == list(POSTERIORS.values())
    assert "posterior 'vbll' of package acme-broken 0.3 is not used" in caplog.text
    from acme_broken_module import Config

    with refused("package", "'vbll'", "acme_broken_module.Config"):
        resolve_posterior(Config())


def test_two_packages_with_one_name_are_both_named(site, caplog):
    offer(site, GOOD)
    offer(site, GOOD, package="bond-broken")
    both = "acme-broken 0.3, bond-broken 0.3"
    with refused("package", "'theirs'", both):
        resolve_posterior("theirs")
    assert [item.config for item in CATALOGUE.listed()] == list(POSTERIORS.values())
    assert both in caplog.text


def test_a_damaged_list_of_entry_points_is_said(monkeypatch, caplog):
    def damaged(**_):
        raise ValueError("no '=' in line 3")

    monkeypatch.setattr(plugins, "entry_points", damaged)
    assert [item.config for item in CATALOGUE.listed()] == list(POSTERIORS.values())
    assert "entry points of the installed packages cannot be read: no '=' in line 3" in caplog.text
    with refused("unknown", "'theirs'"):
        resolve_posterior("theirs")


def test_packages_are_not_looked_through_for_what_is_built_in(monkeypatch):
    monkeypatch.setattr(
        plugins.Catalogue, "offers", lambda _: pytest.fail("packages were looked through")
    )
    posteriors = [
        resolve_posterior(spec) for spec in ("vbll:prior_scale=2", {"name": "laplace"}, VBLL())
    ]
    assert [posterior.name for posterior in (*posteriors, stored_posterior({"name": "nuts"}))] == [
        "vbll",
        "laplace",
        "vbll",
        "nuts",
    ]


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("acme_nowhere:Head", ("'theirs', 'acme_nowhere:Head'",)),
        ("bayeslora.posteriors.point:no", ("'no'",)),
        ("not a module:Head", ("'not a module:Head'",)),
        (lambda *_, **__: {}, ("dict",)),
        ("acme_heads:linear", ("Linear", "'data_loss', 'extra_config', 'fit', 'loss'")),
    ],
)
def test_a_head_that_is_none_is_refused(site, head, named):
    (site / "acme_heads.py").write_text(
        "from torch.nn import Linear\n"
        "def linear(config, num_features, num_classes, *, mean_sq_norm, seed):\n"
        "    return Linear(num_features, num_classes)\n"
    )
    config = dataclasses.make_dataclass("Config", [], frozen=True)
    config.name, config.head = "theirs", head
    with refused("package", *named):
        build_head(completed(config)(), 4, 3)


def test_a_head_of_a_package_is_refused_with_its_package(site):
    offer(site, changed("bayeslora.posteriors.point:PointHead", "acme_nowhere:Head"))
    with refused("package", "'theirs'", "acme-broken 0.3"):
        build_head(resolve_posterior("theirs"), 4, 3)


def test_weights_that_cannot_draw_are_named(site):
    trained = OVER_WEIGHTS.replace(
        "    is_sampled", "    over_trained: ClassVar[bool] = True\n    is_sampled"
    )
    offer(site, trained)
    with refused("package", "'theirs'", "acme-broken 0.3", "draw", "object"):
        build_weights(resolve_posterior("theirs"), None)


def test_draws_that_no_prediction_would_take_are_refused(site):
    unsaid = OVER_WEIGHTS.replace("is_sampled: ClassVar[bool] = True", "over_trained = True")
    content = (
        unsaid.replace("return object()", "return Weights()")
        + """
from torch import nn
class Weights(nn.Module):
    def draw(self, generator):
        raise AssertionError
"""
    )
    offer(site, content)
    with refused("package", "is_sampled"):
        build_weights(resolve_posterior("theirs"), None)


def test_a_failure_over_weights_names_the_package(site):
    content = OVER_WEIGHTS.replace(
        "        return object()",
        '        return {}["layers.0"]\n    from_start: ClassVar[str] = "is trained with it"',
    )
    offer(site, content)
    with pytest.raises(FailedError, match="KeyError") as caught:
        build_weights(resolve_posterior("theirs"), None)
    assert "'theirs' of package acme-broken 0.3" in str(caught.value)
