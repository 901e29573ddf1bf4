"""AMT through the classifier: fit, merges, ensemble, new classes, files, invalid options."""

import json

import numpy as np
import pytest
import torch
from refusal import refused
from tiny import tiny_bert, tiny_vit, toy_images, toy_rows
from usage import TEST, load, new, same

import bayeslora as bl
from bayeslora.cli.app import main
from bayeslora.engine.fitted.refit import known, prepare_rows
from bayeslora.errors import InputError

OPTIONS = {
    "r": 2,
    "ways": 3,
    "shots": 2,
    "queries": 3,
    "num_episodes": 3,
    "eps": (0.0, 0.1),
    "weight_eps": (0.0, 0.01),
    "lr": 1e-2,
}
TRAIN = toy_rows(24)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


def fitted(backbone, posterior="prototypes", train=TRAIN, **options):
    return new(backbone, bl.AMT(**OPTIONS | options), posterior, dtype="float32").fit(train)


@pytest.fixture(scope="module")
def uniform(bert):
    return fitted(bert)


def test_prototypes_are_means_and_their_scale_is_the_tuned_one(uniform):
    network = uniform.network
    rows = known(uniform.network, bl_examples(TRAIN))[2]
    features, labels = rows.values, rows.labels
    expected = torch.stack([features[labels == n].double().mean(0) for n in range(3)])
    torch.testing.assert_close(network.head.centres, expected)
    scales = network.sites[0].cosine_scales
    assert float(network.head.scale) == pytest.approx(float(scales.mean()), rel=1e-6)


def bl_examples(rows):
    from bayeslora.data.read import read

    return read(rows)


@pytest.mark.parametrize("merge", ["uniform", "best", "published"])
def test_a_saved_pool_predicts_the_same(bert, tmp_path, merge):
    clf = fitted(bert, merge=merge)
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), clf.predict(TEST))


@pytest.mark.parametrize("posterior", ["gvbll:shrinkage=0.5,inflation=1", "vbll:prior_scale=2"])
def test_last_layers_go_with_a_pool(bert, posterior):
    probs = fitted(bert, posterior).predict(TEST).probs
    np.testing.assert_allclose(probs.sum(1), 1)


def test_the_pool_as_an_ensemble_is_named_so(bert, tmp_path):
    clf = fitted(bert, merge="ensemble")
    predictions = clf.predict(TEST)
    assert clf.record.num_members == 2
    assert predictions.name == "amt-ensemble-prototypes"
    assert (predictions.epistemic > 0).any()
    parts = []
    for member in clf.network.members:
        network = clf.network
        network.load_trained_state(member)
        features = network.scaled(
            network.encoder.features(prepare_rows(clf.network, bl_examples(TEST)))
        )
        parts.append(network.head.predict(features).mean.softmax(1))
    network.load_trained_state(clf.network.members[0])
    np.testing.assert_allclose(predictions.probs, torch.stack(parts).mean(0).numpy(), atol=1e-6)
    clf.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(TEST), predictions)


def test_an_export_for_peft_computes_the_same(bert, uniform, tmp_path):
    pytest.importorskip("peft")
    from peft import PeftModel
    from transformers import AutoModel

    uniform.export_peft(tmp_path / "peft")
    encoder = uniform.network.encoder
    batch = encoder.probe().collate([0, 1])
    with torch.no_grad():
        expected = encoder(batch)
        base = AutoModel.from_pretrained(bert)
        model = PeftModel.from_pretrained(base, tmp_path / "peft").eval()
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    torch.testing.assert_close((states * mask).sum(1) / mask.sum(1), expected, atol=1e-5, rtol=1e-5)


# New classes.


def named(rows, names):
    return [{**row, "label": names[row["label"]]} for row in rows]


OTHERS = {"animals": "zoo", "food": "kitchen", "weather": "sky"}


@pytest.mark.parametrize("merge", ["uniform", "published", "best", "ensemble"])
def test_a_pool_adapts_to_new_classes_and_stays_as_it_is(uniform, tmp_path, merge):
    before = uniform.predict(TEST)
    support = named(toy_rows(12, seed=5), OTHERS)
    other = uniform.adapt(support, adapter=bl.AMT(**OPTIONS, merge=merge))
    assert other.classes == ("kitchen", "sky", "zoo")
    predictions = other.predict(named(TEST, OTHERS))
    assert predictions.probs.shape == (15, 3)
    assert same(uniform.predict(TEST), before)
    other.save_pretrained(tmp_path / "model")
    assert same(load(tmp_path / "model").predict(named(TEST, OTHERS)), predictions)
    again = uniform.adapt(support, adapter=bl.AMT(**OPTIONS, merge=merge))
    assert same(again.predict(named(TEST, OTHERS)), predictions)


def test_classes_can_be_permuted(uniform):
    support = toy_rows(12, seed=5)
    names = {"animals": "b", "food": "c", "weather": "a"}
    first = uniform.adapt(support).predict(TEST).probs
    second = uniform.adapt(named(support, names)).predict([row["text"] for row in TEST]).probs
    np.testing.assert_allclose(first, second[:, [1, 2, 0]], atol=1e-6)


def test_the_bayesian_twin_of_prototypes_on_a_support(uniform):
    other = uniform.adapt(toy_rows(12, seed=5), posterior="gvbll")
    assert (other.predict(TEST).epistemic > 0).any()


def test_other_classifiers_adapt_too(bert):
    clf = new(bert, "lora:r=2", "mle").fit(TRAIN, epochs=1, batch_size=8)
    support = named(toy_rows(12, seed=5), OTHERS)
    assert clf.adapt(support, posterior="prototypes").classes == ("kitchen", "sky", "zoo")
    with pytest.raises(InputError):
        clf.adapt(support, adapter=bl.AMT())


def test_one_example_per_class_takes_no_leave_one_out(uniform):
    support = toy_rows(3, seed=5)
    assert uniform.adapt(support).predict(TEST).probs.shape == (15, 3)
    with pytest.raises(InputError):
        uniform.adapt(support, adapter=bl.AMT(**OPTIONS, merge="published"))


def test_the_command_takes_new_classes(uniform, tmp_path, capsys):
    uniform.save_pretrained(tmp_path / "model")
    support = named(toy_rows(12, seed=5), OTHERS)
    data = tmp_path / "few.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in support))
    call = ["calibrate", str(tmp_path / "model"), str(data), "--new-classes", "--quiet"]
    assert not main([*call, "--out", str(tmp_path / "new"), "--json"])
    assert json.loads(capsys.readouterr().out)["classes"] == ["kitchen", "sky", "zoo"]
    predictions = load(tmp_path / "new").predict(named(TEST, OTHERS))
    assert same(predictions, uniform.adapt(support).predict(named(TEST, OTHERS)))
    out = ["--out", str(tmp_path / "other")]
    assert main([*call, *out, "--posterior", "best"]) == 2
    assert main([*call, *out, "--validation", str(data)]) == 2


# Images, and invalid options.


def test_images_are_meta_tuned(tmp_path):
    rows = toy_images(tmp_path / "images", 18)
    rows = [{**row, "image": str(tmp_path / "images" / row["image"])} for row in rows]
    clf = fitted(tiny_vit(tmp_path / "vit"), train=rows)
    assert clf.predict(rows).probs.shape == (18, 3)


def test_an_episode_with_too_few_rows_is_refused_before_the_backbone_is_loaded(tmp_path):
    with pytest.raises(InputError) as caught:
        new(tmp_path / "nothing", bl.AMT(**OPTIONS | {"shots": 8})).fit(TRAIN)
    assert "'animals'" in str(caught.value)


def test_options_that_need_validation_data_are_refused_before_the_backbone_is_loaded(tmp_path):
    for posterior in ("gvbll", "gvbll:shrinkage=0.5", "gvbll:inflation=1"):
        with refused("needs-validation", "'gvbll'"):
            new(tmp_path / "nothing", bl.AMT(**OPTIONS), posterior).fit(TRAIN)


@pytest.mark.parametrize(
    "posterior", ["laplace_lora", "tfb", "blob", "ensemble", "swag", "mc_dropout", "ivon"]
)
def test_posteriors_over_adapter_weights_are_refused(bert, posterior):
    with pytest.raises(InputError):
        fitted(bert, posterior)


@pytest.mark.parametrize(
    "options", [{"epochs": 2}, {"batch_size": 4}, {"layer_sampling": "num_active=1"}, {"cv": 2}]
)
def test_options_of_training_by_rows_are_refused(bert, options):
    with pytest.raises(InputError):
        new(bert, bl.AMT(**OPTIONS)).fit(TRAIN, **options)


def test_an_interrupted_fit_goes_on(bert, tmp_path, monkeypatch):
    from bayeslora.engine.training.episodes import MetaTuning

    monkeypatch.setattr("bayeslora.engine.training.episodes._EVERY", 2)
    expected = fitted(bert)
    step, calls = MetaTuning.step, []

    def stop(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    clf = new(bert, bl.AMT(**OPTIONS), "prototypes", dtype="float32")
    with monkeypatch.context() as patch:
        patch.setattr(MetaTuning, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(TRAIN, out=tmp_path / "model")
    clf.fit(TRAIN, out=tmp_path / "model")
    assert same(clf.predict(TEST), expected.predict(TEST))
    assert same(load(tmp_path / "model").predict(TEST), expected.predict(TEST))
