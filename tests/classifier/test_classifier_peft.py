"""Posteriors over the adapters of third-party LoRA checkpoints."""

import numpy as np
import pytest
import torch
from foreign_models import logits, saved_peft
from tiny import toy_rows
from usage import TEST, from_transformers, load, same

FRESH, HELD = toy_rows(24, seed=5), toy_rows(12, seed=6)
QUICK = {
    "laplace_lora": "laplace_lora",
    "tfb": "tfb:num_samples=3,num_search_samples=2,num_steps=3",
}

# peft reads an attribute that transformers renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.usefixtures("few_resamples"),
]


@pytest.fixture(scope="module", params=["llama", "distilbert", "roberta"])
def checkpoint(request, tmp_path_factory):
    """Return the directory of a checkpoint, and the logits by PEFT."""
    path, adapted = saved_peft(request.param, tmp_path_factory.mktemp(request.param))
    return str(path), logits(adapted, [row["text"] for row in TEST])


@pytest.mark.parametrize("posterior", QUICK)
def test_the_mean_is_the_checkpoint_and_the_spread_is_its_adapters(checkpoint, tmp_path, posterior):
    path, expected = checkpoint
    clf = from_transformers(path, QUICK[posterior]).calibrate(FRESH, HELD)
    mean = clf.predict(TEST, num_samples=0)
    np.testing.assert_allclose(mean.probs, expected.double().softmax(1).numpy(), atol=1e-5)
    predictions = clf.predict(TEST)
    assert predictions.name == f"lora-{posterior}"
    assert (predictions.epistemic > 0).any()
    assert clf.validation_scores is not None
    clf.save_pretrained(tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert same(again.predict(TEST), predictions)
    # Under a posterior of the last layer the adapters stay unmerged too, which changes nothing.
    again.calibrate(FRESH, posterior="laplace")
    merged = from_transformers(path).calibrate(FRESH).predict(TEST)
    np.testing.assert_allclose(again.predict(TEST).probs, merged.probs, atol=1e-5)
    np.testing.assert_allclose(again.predict(TEST).epistemic, merged.epistemic, atol=1e-5)
    again.save_pretrained(tmp_path / "laplace")
    assert same(load(tmp_path / "laplace").predict(TEST), again.predict(TEST))


def test_the_sites_are_those_of_the_checkpoint(tmp_path):
    from peft import PeftModelForSequenceClassification
    from transformers import LlamaForSequenceClassification

    path, _ = saved_peft("llama", tmp_path, r=3, lora_alpha=7)
    clf = from_transformers(str(path), "laplace_lora")
    (sites,) = clf.spectrum()
    plain = LlamaForSequenceClassification.from_pretrained(tmp_path / "base")
    whole = PeftModelForSequenceClassification.from_pretrained(plain, path)
    for site in sites:
        layer = whole.base_model.model.get_submodule(site.name)
        change = layer.get_delta_weight("default").double()
        expected = torch.linalg.svdvals(change)[:3].tolist()
        assert site.singular_values == pytest.approx(expected, rel=1e-5)
        frozen = clf.network.encoder.model.get_submodule(site.name).weight
        torch.testing.assert_close(frozen, layer.base_layer.weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("posterior", ["laplace_lora", "tfb:num_samples=2"])
def test_texts_that_padding_would_change_are_run_alone(tmp_path, posterior):
    path, _ = saved_peft("convbert", tmp_path)
    clf = from_transformers(str(path), posterior).calibrate(FRESH)
    short = {"text": FRESH[0]["text"]}
    long = {"text": "the cat and the dog in the snow and the rain and the storm today"}
    alone, beside = clf.predict([short]), clf.predict([short, long])
    np.testing.assert_allclose(beside.probs[:1], alone.probs, atol=1e-6)
    for name, values in alone.scores.items():
        np.testing.assert_allclose(beside.scores[name][:1], values, rtol=1e-4, atol=1e-6)
