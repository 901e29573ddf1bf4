"""Posteriors registered in a session, without a package."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
from packages import install_guide
from refusal import refused
from tiny import toy_rows

import bayeslora as bl
from bayeslora.options import as_mapping
from bayeslora.posteriors.base import Posterior
from bayeslora.posteriors.point import PointHead
from bayeslora.posteriors.registry import CATALOGUE, POSTERIORS, build_head, resolve_posterior
from bayeslora.testing.last_layer import LastLayerLaws


class WideHead(PointHead):
    """A point estimate under a prior with the width of its options."""

    def __init__(self, config, num_features, num_classes, *, mean_sq_norm, seed):
        super().__init__(
            num_features, num_classes, prior_scale=config.width, mean_sq_norm=mean_sq_norm
        )


@dataclass(frozen=True)
class Wide(Posterior):
    width: float = 2.0
    name: ClassVar[str] = "wide"
    summary: ClassVar[str] = "a point estimate"
    source: ClassVar[str] = ""
    passes: ClassVar[str] = "1"
    parameters: ClassVar[str] = "none"
    head: ClassVar[type] = WideHead


class TestWide(LastLayerLaws):
    config = Wide()


class TestTwoClasses(LastLayerLaws):
    config = Wide(width=3.0)
    num_classes = 2
    num_features = 7
    training_prior_scale = 3.0


def test_a_factor_is_of_the_means_alone_where_a_head_can_scale_them():
    class Scaling(WideHead):
        def scale_mean(self, factor):
            self.weight.data *= factor

    for head_class in (WideHead, Scaling):
        theirs = dataclasses.make_dataclass("Theirs", [], bases=(Wide,), frozen=True)
        theirs.head = head_class
        assert build_head(theirs(), 4, 3).scales_mean == (head_class is Scaling)


def test_a_head_that_names_no_form_for_options_has_none():
    with refused("not-on-options", "'wide'"):
        build_head(Wide(), 4, 1, shared=True)


def test_it_is_known_by_its_name_from_then_on():
    with refused("unknown", "'wide'"):
        resolve_posterior("wide")
    assert bl.register_posterior(Wide) is Wide
    assert resolve_posterior("wide:width=3") == Wide(3.0)
    assert resolve_posterior(Wide(3.0)) == Wide(3.0)
    assert resolve_posterior(as_mapping(Wide(3.0))) == Wide(3.0)
    assert isinstance(build_head(Wide(), 4, 3), WideHead)
    assert CATALOGUE.listed()[-1] == (Wide, __name__)


def test_a_function_makes_the_head():
    def make(config, num_features, num_classes, **options):
        return WideHead(config, num_features, num_classes, **options)

    @bl.register_posterior
    @dataclass(frozen=True)
    class Made(Wide):
        name: ClassVar[str] = "made"
        head: ClassVar[object] = make

    assert isinstance(build_head(resolve_posterior("made:width=3"), 4, 3), WideHead)


def test_an_object_of_a_class_that_is_not_registered_says_what_to_do():
    with refused("option", "Wide", "register_posterior"):
        bl.BayesianClassifier(posterior=Wide())
    bl.register_posterior(Wide)
    assert bl.BayesianClassifier(posterior=Wide()).posterior == Wide()


def test_a_fit_is_saved_and_loaded_in_a_session_that_registers_it(llama, tmp_path, monkeypatch):
    bl.register_posterior(Wide)
    options = {"device": "cpu", "progress": False}
    classifier = bl.BayesianClassifier(llama, posterior="wide:width=3", max_length=32, **options)
    classifier.fit(toy_rows(24), epochs=1, out=tmp_path / "model")
    loaded = bl.BayesianClassifier.from_pretrained(tmp_path / "model", **options)
    assert loaded.posterior == Wide(3.0)
    monkeypatch.setattr("bayeslora.posteriors.registry.CATALOGUE.registered", {})
    with refused("unknown", "'wide'"):
        bl.BayesianClassifier.from_pretrained(tmp_path / "model", **options)


@pytest.mark.parametrize("name", sorted(POSTERIORS))
def test_names_of_built_in_posteriors_are_taken(name):
    theirs = dataclasses.make_dataclass("Theirs", [], bases=(Wide,), frozen=True)
    theirs.name = name
    with refused("package", f"'{name}'"):
        bl.register_posterior(theirs)


def test_what_is_no_class_of_options_is_refused():
    with refused("package", "Posterior"):
        bl.register_posterior(Wide())


def test_a_registration_goes_before_a_package(site):
    install_guide(site)
    theirs = dataclasses.make_dataclass("Theirs", [], bases=(Wide,), frozen=True)
    theirs.name = "isotropic"
    bl.register_posterior(theirs)
    assert type(resolve_posterior("isotropic")) is theirs
    named = [config for config, _ in CATALOGUE.listed() if config.name == "isotropic"]
    assert named == [theirs]
