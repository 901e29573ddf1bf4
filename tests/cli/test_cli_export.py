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
