"""`bayeslora export`: PEFT loads a model with the outputs of our adapter."""

import json

import pytest
import tiny
import torch

from bayeslora.classifier import BayesianClassifier

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def test_peft_loads_the_exported_adapter(run, world, tmp_path):
    from transformers import AutoModel

    peft = pytest.importorskip("peft", reason="peft is not installed")
    # In float32, so that both sides round alike.
    options = ("--backbone", world.llama, "--epochs", 1, "--set", "dtype=float32", "--quiet")
    options += tiny.WHOLE_AND_RAW_ARGS
    assert run("fit", world.train, *options, "--out", tmp_path / "model").code == 0
    result = run("export", tmp_path / "model", "--out", tmp_path / "lora")
    assert result.code == 0, result.err
    assert result.out.strip() == str(tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    base = AutoModel.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    clf = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    encoder = clf.network.encoder
    texts = encoder.prepare(["the cat barks today", "cold rain"])
    batch = texts.collate([0, 1])
    with torch.no_grad():
        hidden = theirs(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    expected = hidden[torch.arange(2), last]
    assert torch.allclose(encoder.features(texts), expected, atol=1e-5)


@pytest.mark.parametrize("adapter", ["polar:r=4", "pissa:r=2"])
def test_with_its_head_peft_loads_a_classifier(run, world, tmp_path, adapter):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    peft = pytest.importorskip("peft", reason="peft is not installed")
    options = ("--backbone", world.llama, "--epochs", 1, "--set", "dtype=float32", "--quiet")
    options += tiny.WHOLE_AND_RAW_ARGS
    fit = ("fit", world.train, *options, "--adapter", adapter, "--out", tmp_path / "model")
    assert run(*fit).code == 0
    exported = run("export", tmp_path / "model", "--head", "--out", tmp_path / "lora")
    assert exported.code == 0, exported.err
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    source = config["base_model_name_or_path"]
    base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=3)
    tokenizer = AutoTokenizer.from_pretrained(source)
    base.config.pad_token_id = tokenizer.pad_token_id
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    texts = ["the cat barks today", "cold rain"]
    with torch.no_grad():
        logits = theirs(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    clf = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    expected = clf.predict([{"text": text} for text in texts], num_samples=0).probs
    # float32 on both sides, summed in other orders.
    torch.testing.assert_close(
        logits.double().softmax(1), torch.from_numpy(expected.copy()), atol=1e-5, rtol=0
    )
    names = ",".join(clf.classes)
    assert f"num_labels=3; its classes are {names}" in exported.err
    calibrated = ("calibrate", tmp_path / "lora", world.valid, "--out", tmp_path / "calibrated")
    result = run(*calibrated, "--classes", names, "--quiet")
    assert result.code == 0, result.err


def test_merged_models_say_what_loads_them(run, world, tmp_path):
    from transformers import AutoModelForSequenceClassification

    out = tmp_path / "merged"
    result = run("export", world.model, "--format", "merged", "--out", out)
    assert result.code == 0, result.err
    assert result.out.strip() == str(out)
    assert "load it with transformers.AutoModelForSequenceClassification" in result.err
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert tuple(model.config.id2label.values()) == ("animals", "food", "weather")
    assert run("export", world.model, "--format", "merged", "--out", out, "--overwrite").code == 0
    calibrated = ("calibrate", out, world.valid, "--out", tmp_path / "calibrated", "--quiet")
    assert run(*calibrated).code == 0


def test_tensors_for_serving_are_one_file(run, world, tmp_path):
    from safetensors.torch import load_file

    out = tmp_path / "model.safetensors"
    assert run("export", world.model, "--format", "safetensors", "--out", out).code == 0
    assert load_file(out)["head.weight"].shape == (3, 16)
    again = ("export", world.model, "--format", "safetensors", "--out", out, "--overwrite")
    assert run(*again).code == 0
