"""Defaults that `fit` chooses."""

from dataclasses import replace

import pytest
import torch
from tiny import toy_questions
from usage import new, toy_rows

import bayeslora as bl
from bayeslora import classifier
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.backbones.load import load_backbone
from bayeslora.data.examples import Examples
from bayeslora.engine import fit as procedure
from bayeslora.engine import settle

pytestmark = pytest.mark.usefixtures("few_resamples", "default_epochs")


class PlannedError(Exception):
    """Carries the plan of a fit."""


@pytest.fixture
def planned(monkeypatch):
    """Return a function from a classifier and its rows to the plan of a fit."""

    def stop(fitter, *_):
        raise PlannedError(fitter.plan)

    def plan(clf, *rows, **options):
        monkeypatch.setattr(procedure, "fit_networks", stop)
        with pytest.raises(PlannedError) as caught:
            clf.fit(*rows, **options)
        return caught.value.args[0]

    return plan


@pytest.mark.parametrize(
    ("options", "rows", "validates", "epochs", "rate"),
    [
        ({}, 128, False, 12, PoLAR.default_lr),
        ({}, 129, False, 12, PoLAR.default_lr),
        ({}, 32, False, 48, PoLAR.default_lr),
        ({}, 100, False, 15, PoLAR.default_lr),
        ({"posterior": "vbll:head_lr=0.1"}, 16, True, 15, PoLAR.default_lr),
        ({}, 16, True, 15, PoLAR.default_lr),
        ({"posterior": "mle"}, 64, False, 10, PoLAR.default_lr),
        ({"adapter": "lora", "posterior": "mle"}, 16, False, 40, LoRA.default_lr),
        ({"adapter": "lora"}, 16, True, 15, LoRA.default_lr),
        ({"adapter": "polar:lr=0.02"}, 16, True, 15, 0.02),
        # Validation rows do not choose the epoch.
        ({"posterior": "swag"}, 16, True, 40, PoLAR.default_lr),
    ],
)
def test_epochs_follow_the_rows_and_whether_others_choose_among_them(
    llama, planned, options, rows, validates, epochs, rate
):
    validation = toy_rows(16, seed=1) if validates else None
    chosen = planned(new(llama, **options), toy_rows(rows), validation, batch_size=4)
    settings = chosen.training
    assert settings.epochs == epochs
    assert settings.choose_epochs == (settings.cv == "auto")
    assert chosen.adapter.lr == rate


@pytest.mark.parametrize(
    ("options", "means"), [("", "validation"), ("polish_mean=trained", "trained")]
)
def test_the_record_leaves_means_open_that_nobody_asked_for(llama, options, means):
    """A fit to later rows may choose again."""
    clf = new(llama, posterior=f"vbll:{options}".rstrip(":"))
    clf.fit(toy_rows(16), epochs=1, batch_size=4, cv=0)
    assert clf.record.posterior["polish_mean"] == means
    assert clf.record.results["posterior"]["polish_mean"] == "trained"


@pytest.mark.parametrize(
    ("posterior", "means"),
    [("vbll", "refit"), ("vbll:polish_mean=trained", "trained"), (None, "refit")],
)
def test_calibrating_refits_means_unless_told_to_hold_what_training_left(llama, posterior, means):
    rows = toy_rows(16)
    clf = new(llama, posterior="vbll:head_lr=0.05").fit(rows, epochs=10, batch_size=2, cv=0)
    assert clf.record.results["posterior"]["polish_mean"] == "trained"
    trained = clf.network.head.mean.detach().clone()
    clf.calibrate(toy_rows(24, seed=5), posterior=posterior)
    assert clf.record.results["posterior"]["polish_mean"] == means
    head = clf.network.head
    assert torch.equal(head.mean, trained)
    assert torch.equal(head.mean_weight, trained.double()) == (means == "trained")


@pytest.mark.parametrize(("rows", "cv"), [(256, 0), (257, "auto")])
def test_without_an_adapter_few_rows_choose_the_prior_and_more_the_scale(llama, planned, rows, cv):
    chosen = planned(new(llama, adapter="none", posterior="vbll"), toy_rows(rows))
    assert chosen.training.cv == cv
    assert (chosen.posterior.prior_scale == "cross-validation") == (cv == 0)
    assert not chosen.training.choose_epochs


@pytest.mark.parametrize(
    ("rows", "options", "name"),
    [
        (toy_rows(12), {}, "minilm"),
        (toy_rows(12), {"verbaliser": "none"}, "minilm"),
        (toy_rows(12), {"verbaliser": "names"}, "smollm2-135m"),
        (toy_questions(12), {}, "smollm2-135m"),
        (
            Examples(("1", "2"), ("a.png", "b.png"), None, ("0", "1"), (1, 2), "x", images=True),
            {},
            "dinov2-s",
        ),
    ],
)
def test_without_a_preference_the_rows_decide_which_backbone_is_loaded(
    monkeypatch, rows, options, name
):
    class LoadedError(Exception):
        """Carries the name of a backbone."""

    def load(backbone, **_):
        raise LoadedError(backbone)

    monkeypatch.setattr(classifier, "load_backbone", load)
    with pytest.raises(LoadedError, match=name):
        bl.BayesianClassifier(**options, progress=False).fit(rows)
    with pytest.raises(LoadedError, match="smollm2-135m"):
        bl.BayesianClassifier(progress=False).zero_shot(["good", "bad"])


@pytest.mark.parametrize("losses", [(0.2, 0.4), (0.4, 0.2)])
def test_auto_takes_the_backbone_whose_frozen_features_lose_least(
    llama, planned, monkeypatch, losses
):
    tiny = load_backbone(llama, device="cpu")
    expected = dict(zip(("minilm", "smollm2-135m"), losses, strict=True))
    monkeypatch.setattr(settle.embedded, "installed_file", lambda name: name in expected or None)
    monkeypatch.setattr(classifier, "load_backbone", lambda name, **_: replace(tiny, name=name))
    monkeypatch.setattr(settle, "_loss", lambda _plan, _data, backbone: expected[backbone.name])
    plan = planned(new("auto"), toy_rows(24))
    assert plan.backbone == min(expected, key=expected.get)


def test_classes_of_one_row_are_named(planned, llama, caplog):
    with caplog.at_level("WARNING"):
        planned(new(llama), [*toy_rows(24), {"id": "x", "text": "odd", "label": "rare"}], cv=0)
    assert "rare" in caplog.text
