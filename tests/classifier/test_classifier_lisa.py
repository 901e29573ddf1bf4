"""Layer sampling end to end: whole layers and adapters, from the fit to the file."""

import json

import numpy as np
import pytest
import torch
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny import QUICK_VBLL, WHOLE_AND_RAW, tiny_bert, tiny_llama, toy_rows, without_hashes
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import bayeslora as bl
from bayeslora.checkpoint import read_model
from bayeslora.classifier import BayesianClassifier

WHOLE = "lisa:num_active=1,interval=3,num_layers=2,lr=1e-3"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return str(tiny_llama(tmp_path_factory.mktemp("lisa") / "llama"))


def fresh(backbone, adapter=WHOLE, posterior="mle", **options):
    return BayesianClassifier(
        backbone,
        adapter,
        posterior,
        dtype="float32",
        max_length=32,
        progress=False,
        **WHOLE_AND_RAW,
        **options,
    )


def fitted(backbone, adapter=WHOLE, posterior="mle", **options):
    return fresh(backbone, adapter, posterior).fit(
        toy_rows(30), toy_rows(18, 1), epochs=2, batch_size=8, **options
    )


@pytest.mark.parametrize(
    "posterior",
    ["mle", QUICK_VBLL, "laplace", "temperature", "gvbll", "ensemble:num_members=2"],
)
def test_saved_and_loaded_it_predicts_the_same(backbone, tmp_path, posterior):
    clf = fitted(backbone, posterior=posterior, out=tmp_path / "model")
    expected = clf.predict(toy_rows(9, 5)).probs
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert (again.predict(toy_rows(9, 5)).probs == expected).all()
    assert again.adapter == bl.LISA(num_active=1, interval=3, num_layers=2, lr=1e-3)
    again.save_pretrained(tmp_path / "copy")
    third = BayesianClassifier.from_pretrained(tmp_path / "copy", progress=False)
    assert (third.predict(toy_rows(9, 5)).probs == expected).all()


def test_the_file_holds_the_layers_that_trained_and_the_record_says_which(backbone, tmp_path):
    clf = fitted(backbone, f"{WHOLE},mode=fixed", out=tmp_path / "model")
    (block, *_) = clf.record.results["layer_sampling"]["blocks"]
    (layer,) = block
    names = set(read_model(tmp_path / "model").adapter)
    heads = {".".join(name.split(".")[:3]) for name in names}
    assert heads == {f"adapter.layers.{layer + 1}", "adapter.norm.weight"}
    stored = json.loads((tmp_path / "model" / "bayeslora.json").read_text())
    assert stored["adapter"]["mode"] == "fixed"
    assert stored["results"]["layer_sampling"]["layers"] == ["layers.1", "layers.2"]
    assert stored["results"]["adapter"]["num_layers"] == 1


def test_members_of_an_ensemble_draw_and_save_layers_of_their_own(backbone, tmp_path):
    posterior = "ensemble:num_members=3"
    clf = fitted(backbone, f"{WHOLE},mode=fixed", posterior, out=tmp_path / "model")
    names = set(read_model(tmp_path / "model").adapter)
    drawn = {
        member: {name.split(".")[3] for name in names if name.startswith(f"{member}.adapter.la")}
        for member in ("member-0", "member-1", "member-2")
    }
    assert all(len(layers) == 1 for layers in drawn.values())
    assert set.union(*drawn.values()) == {"1", "2"}
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert (again.predict(toy_rows(9)).probs == clf.predict(toy_rows(9)).probs).all()
    assert [len(member) for member in again.spectrum()] == [7, 7, 7]


def test_other_classifiers_on_the_same_backbone_stay_as_they_were(backbone):
    from bayeslora.backbones.load import load_backbone

    shared = load_backbone(backbone, dtype="float32", device="cpu")
    other = fresh(shared, "lora:r=2,num_layers=2").fit(toy_rows(30), epochs=1)
    before = other.predict(toy_rows(9)).probs
    clf = fresh(shared).fit(toy_rows(30), epochs=1)
    assert (other.predict(toy_rows(9)).probs == before).all()
    alone = fresh(backbone).fit(toy_rows(30), epochs=1)
    assert (clf.predict(toy_rows(9)).probs == alone.predict(toy_rows(9)).probs).all()


def test_a_bfloat16_backbone_trains_in_float32(tmp_path, backbone):
    """An adapter on the same backbone keeps its own states of the layers below."""
    from bayeslora.backbones.load import load_backbone

    shared = load_backbone(backbone, dtype="bfloat16", device="cpu")
    rows, new = toy_rows(30), toy_rows(9, 5)
    alone = fresh(load_backbone(backbone, dtype="bfloat16", device="cpu")).fit(rows, epochs=1)
    other = fresh(shared, "lora:r=2,num_layers=2").fit(rows, epochs=1)
    before = other.predict(new).probs
    clf = fresh(shared).fit(rows, epochs=1)
    assert (clf.predict(new).probs == alone.predict(new).probs).all()
    assert (other.predict(new).probs == before).all()
    clf.save_pretrained(tmp_path / "model")
    assert {t.dtype for t in read_model(tmp_path / "model").adapter.values()} == {torch.float32}
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert (again.predict(new).probs == clf.predict(new).probs).all()


@pytest.mark.parametrize(
    "posterior", ["tfb", "blob", "scalabl", "clora", "laplace_lora", "ivon", "swag"]
)
def test_posteriors_over_weights_are_refused_before_anything_is_loaded(tmp_path, posterior):
    clf = fresh("no-such/backbone", posterior=posterior)
    with refused("not-on-layers"):
        clf.fit(toy_rows(30), out=tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("posterior", ["ivon", "scalabl"])
def test_posteriors_that_cannot_rest_are_refused_over_adapters(posterior):
    clf = fresh("no-such/backbone", "lora", posterior)
    with refused("no-resting"):
        clf.fit(toy_rows(30), layer_sampling="num_active=1")


def test_dropout_of_the_backbone_is_what_mc_dropout_samples(backbone, tmp_path):
    with refused("no-dropout"):
        fitted(backbone, posterior="mc_dropout")
    clf = fitted(str(tiny_bert(tmp_path / "bert")), posterior="mc_dropout:num_samples=3")
    assert clf.predict(toy_rows(9)).epistemic.min() > 0
    clf.save_pretrained(tmp_path / "model")
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    assert (again.predict(toy_rows(9)).probs == clf.predict(toy_rows(9)).probs).all()


def test_a_fitted_posterior_can_be_another_one_of_the_last_layer(backbone):
    clf = fitted(backbone)
    with refused("not-on-layers"):
        clf.calibrate(toy_rows(30, 2), posterior="laplace_lora")
    before = clf.spectrum()
    clf.calibrate(toy_rows(30, 2), posterior="laplace:prior_precision=1")
    assert clf.predict(toy_rows(9)).epistemic.min() > 0
    assert clf.spectrum() == before


def test_merged_is_the_mean_network_and_a_lora_it_is_not(backbone, tmp_path):
    clf = fitted(backbone)
    with refused("input", "export_merged"):
        clf.export_peft(tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    clf.export_merged(tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    texts = [row["text"] for row in toy_rows(9, 5)]
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        probs = model(**inputs).logits.double().softmax(1).numpy()
    expected = clf.predict(toy_rows(9, 5), num_samples=0).probs
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    clf.export_safetensors(tmp_path / "one.safetensors")
    layer = clf.spectrum()[0][0].name
    stored = load_file(tmp_path / "one.safetensors")[f"backbone.{layer}.weight"]
    assert torch.equal(stored, model.base_model.get_submodule(layer).weight)


def test_a_damaged_model_says_what_is_wrong(backbone, tmp_path):
    fitted(backbone, out=tmp_path / "model")
    path = without_hashes(tmp_path / "model") / "adapter.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("up_proj.weight"))
    for broken, named in (
        ({key: item for key, item in tensors.items() if key != name}, (name, "missing")),
        (
            {**tensors, "adapter.layers.0.mlp.up_proj.weight": torch.zeros(2)},
            ("layers.0.mlp.up_proj.weight",),
        ),
        ({**tensors, name: torch.zeros(2, 2)}, (name, "[2, 2]")),
    ):
        save_file(broken, path)
        with refused("damaged", *named):
            BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)


def test_an_interrupted_fit_goes_on_only_with_the_same_sampling(backbone, tmp_path, monkeypatch):
    from bayeslora.engine import ensemble

    def die(*_, **__):
        raise KeyboardInterrupt

    def begin(**options):
        return fresh(backbone, "lora:r=2,num_layers=2").fit(
            toy_rows(30), epochs=2, batch_size=8, out=tmp_path / "model", **options
        )

    sampling = bl.LayerSampling(num_active=1, interval=3)
    with monkeypatch.context() as patch:
        patch.setattr(ensemble, "fit_posterior", die)
        with pytest.raises(KeyboardInterrupt):
            begin(layer_sampling=sampling)
    with refused("another-fit", "training"):
        begin()
    clf = begin(layer_sampling="num_active=1,interval=3")
    whole = fresh(backbone, "lora:r=2,num_layers=2").fit(
        toy_rows(30), epochs=2, batch_size=8, layer_sampling={"num_active": 1, "interval": 3}
    )
    assert (clf.predict(toy_rows(9)).probs == whole.predict(toy_rows(9)).probs).all()
    assert clf.record.training["layer_sampling"]["num_active"] == 1
    assert clf.record.results["layer_sampling"] == whole.record.results["layer_sampling"]


@pytest.mark.parametrize(
    ("adapter", "sampling", "refusal"),
    [
        (WHOLE, "num_active=1", ("sampled-twice", "'lisa'")),
        ("lora", "num_active=9", ("input", "num_active", "1 to 3", "9")),
        ("lora", "active=2", ("unknown", "'active'")),
        ("lora", bl.LISA(), ("input", "adapter=LISA")),
        ("lora", 3, ("option", "layer_sampling", "3")),
        ("lora", "mode=weighted,weights=[1,2]", ("input", "weights", "3", "2")),
        ("lisa:num_active=4", None, ("input", "num_active", "1 to 3", "4")),
    ],
)
def test_sampling_that_is_not_allowed(backbone, tmp_path, adapter, sampling, refusal):
    clf = fresh(backbone, adapter)
    with refused(*refusal):
        clf.fit(toy_rows(30), layer_sampling=sampling, out=tmp_path / "model")
    assert not (tmp_path / "model").exists()
