"""Third-party classifiers: the input of the final layer, and unsupported models."""

import pytest
import torch
from foreign_models import FAMILIES, logits, model, saved, saved_peft
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny import CLASSES, tiny_bert, tiny_tokenizer, toy_rows

from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.errors import InputError

TEXTS = [row["text"] for row in toy_rows(7, seed=2)]

# peft reads an attribute that transformers renamed.
peft_warns = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def loaded(source, **options):
    return load_sequence_classifier(
        source if not hasattr(source, "parts") else str(source),
        device="cpu",
        max_length=32,
        **options,
    )


def linear_logits(encoder):
    """Return features times the final layer's weights: the classifier's logits, [N, C]."""
    return encoder.features(encoder.prepare(TEXTS), batch_size=3) @ encoder.weight.T


def test_weights_that_are_not_finite_are_refused(tmp_path):
    path = saved("bert", tmp_path / "model")
    tensors = load_file(path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.1.attention.self.query.weight"))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with refused("damaged", "model'", "query.weight"):
        loaded(path)


@peft_warns
@pytest.mark.parametrize("with_tokenizer", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_checkpoints_are_merged(tmp_path, family, with_tokenizer):
    path, adapted = saved_peft(family, tmp_path, with_tokenizer=with_tokenizer)
    classifier = loaded(path)
    assert classifier.classes == CLASSES
    expected = logits(adapted, TEXTS)
    # Merging rounds W + BA once, while the checkpoint adds two products.
    torch.testing.assert_close(linear_logits(classifier), expected, atol=1e-4, rtol=1e-4)


def test_a_model_in_memory_is_used_as_it_is():
    network = model("bert")
    expected = logits(network, TEXTS)
    classifier = loaded(network, tokenizer=tiny_tokenizer())
    assert classifier.backbone.model is network
    torch.testing.assert_close(linear_logits(classifier), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", ["nowhere", "bert.pooler.dense", "bert.pooler"])
def test_a_wrong_final_layer_is_refused(tmp_path, layer):
    path = saved("bert", tmp_path / "model")
    with pytest.raises(InputError) as caught:
        loaded(path, layer=layer)
    assert f"linear layer with 3 outputs, got '{layer}'" in str(caught.value)
    assert "classifier" in str(caught.value)


def test_the_backbone_alone_is_no_classifier(tmp_path):
    path = tiny_bert(tmp_path / "model")
    with pytest.raises(InputError) as caught:
        loaded(path)
    assert f"{path} has no trained weights for" in str(caught.value)
    assert "classifier.bias" in str(caught.value)


def test_a_head_without_weights_is_refused(tmp_path):
    path = saved("bert", tmp_path / "model")
    tensors = load_file(path / "model.safetensors")
    del tensors["classifier.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with refused("input", "classifier.weight"):
        loaded(path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"id2label": {0: "score"}, "label2id": {"score": 0}}, "1 outputs"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification"),
    ],
)
def test_other_problems_are_refused(tmp_path, options, named):
    with refused("input", named):
        loaded(saved("bert", tmp_path / "model", **options))
