"""PEFT checkpoints: every tensor is present, used, and trained."""

import json

import pytest
import torch
from foreign_models import FAMILIES, logits, model, saved, saved_peft
from refusal import refused
from safetensors.torch import load_file, save_file
from tiny import tiny_tokenizer, toy_rows

from bayeslora.backbones.sequence import load_sequence_classifier
from bayeslora.errors import InputError

# peft reads an attribute that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXTS = [row["text"] for row in toy_rows(7, seed=2)]


def loaded(source, **options):
    return load_sequence_classifier(source, device="cpu", max_length=32, **options)


def linear_logits(encoder):
    return encoder.features(encoder.prepare(TEXTS)) @ encoder.weight.T


def change(path, edit):
    """Edit the tensors of a checkpoint."""
    weights = path / "adapter_model.safetensors"
    save_file(edit(load_file(weights)), weights, {"format": "pt"})


def headless(family, path):
    """Write only the backbone of a classifier, like a pre-trained model."""
    path.mkdir()
    model(family).base_model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def adapted_backbone(family, path, modules_to_save=None):
    """Write a PEFT checkpoint whose base has no head; return its directory and the model."""
    import transformers
    from peft import LoraConfig, get_peft_model

    name, _, _, targets = FAMILIES[family]
    kind = getattr(transformers, f"{name}ForSequenceClassification")
    plain = kind.from_pretrained(headless(family, path / "base"), num_labels=3)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=2,
        target_modules=targets,
        init_lora_weights=False,
        modules_to_save=modules_to_save,
    )
    adapted = get_peft_model(plain, config).eval()
    adapted.save_pretrained(path / "peft")
    return path / "peft", adapted


@pytest.mark.parametrize(
    ("family", "modules"),
    [("distilbert", ["pre_classifier", "classifier"]), ("roberta", None), ("llama", None)],
)
def test_a_head_that_only_the_checkpoint_has_is_read(tmp_path, family, modules):
    path, adapted = adapted_backbone(family, tmp_path, modules)
    # Merging rounds W + BA once, while the checkpoint adds two products.
    result = linear_logits(loaded(str(path)))
    torch.testing.assert_close(result, logits(adapted, TEXTS), atol=1e-4, rtol=1e-4)


def test_a_layer_that_nobody_saved_is_named(tmp_path):
    """BERT's pooler is trained if the base has none, but PEFT does not save it by default."""
    path, _ = adapted_backbone("bert", tmp_path)
    loaded(str(path))
    weights = tmp_path / "base" / "model.safetensors"
    tensors = {key: item for key, item in load_file(weights).items() if "pooler" not in key}
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(InputError) as caught:
        loaded(str(path))
    message = str(caught.value)
    assert "has trained weights for bert.pooler.dense.bias, bert.pooler.dense.weight" in message
    assert "modules_to_save" in message


def test_a_base_with_a_head_for_other_classes_gets_the_checkpoints(tmp_path):
    path, adapted = saved_peft("bert", tmp_path)
    names = {0: "no", 1: "yes"}
    saved("bert", tmp_path / "two", id2label=names, label2id={"no": 0, "yes": 1})
    # The same base with a head of two classes in its place.
    weights = tmp_path / "base" / "model.safetensors"
    tensors = load_file(weights)
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    tensors |= {key: tensors[key][:2].clone() for key in ("classifier.weight", "classifier.bias")}
    save_file(tensors, weights, {"format": "pt"})
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    classifier = loaded(str(path), classes=["x", "y", "z"])
    assert classifier.classes == ("x", "y", "z")
    torch.testing.assert_close(
        linear_logits(classifier), logits(adapted, TEXTS), atol=1e-4, rtol=1e-4
    )
    assert loaded(str(path)).classes == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("lost", "named"), [("lora_B", "lora_B"), ("classifier.bias", "classifier.bias")]
)
def test_missing_tensors_are_named(tmp_path, lost, named):
    path, _ = saved_peft("bert", tmp_path)
    change(path, lambda tensors: {key: item for key, item in tensors.items() if lost not in key})
    with pytest.raises(InputError) as caught:
        loaded(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert named in message
    assert str(tmp_path / "base") in message


def test_values_that_are_not_finite_are_named(tmp_path):
    path, _ = saved_peft("bert", tmp_path)
    first = next(key for key in load_file(path / "adapter_model.safetensors") if "lora_A" in key)
    change(path, lambda tensors: tensors | {first: torch.full_like(tensors[first], torch.inf)})
    with refused("damaged", "query"):
        loaded(str(path))


@pytest.mark.parametrize(("changes", "named"), [({"peft_type": "NO_SUCH"}, ("NO_SUCH",))])
def test_other_kinds_of_checkpoints_are_refused(tmp_path, changes, named):
    path, _ = saved_peft("bert", tmp_path)
    settings = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(settings | changes))
    with refused("input", *named):
        loaded(str(path))
