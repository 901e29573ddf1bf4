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


def test_a_checkpoint_has_the_spectrum_of_the_model_it_came_from(run, refused, world, tmp_path):
    assert run("export", world.model, "--out", tmp_path / "lora").code == 0
    (ours,), (theirs,) = (
        json.loads(run("info", path, "--spectrum", "--json").out)["members"]
        for path in (world.model, tmp_path / "lora")
    )
    assert [site["name"] for site in theirs] == [site["name"] for site in ours]
    for site, other in zip(theirs, ours, strict=True):
        count = len(other["singular_values"])
        assert site["singular_values"][:count] == pytest.approx(other["singular_values"], abs=1e-5)
        assert site["relative_norm"] == pytest.approx(other["relative_norm"], rel=1e-4)
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": None})
    )
    assert "does not name its base model" in refused("info", tmp_path / "lora", "--spectrum")
    shown = run("info", tmp_path / "lora", "--spectrum", "--set", f"backbone={world.llama}")
    assert "stable rank" in shown.out
