"""`bayeslora export`: what PEFT loads computes what our adapter computes."""

import json

import pytest
import torch

from bayeslora.classifier import BayesianClassifier

peft = pytest.importorskip("peft", reason="peft is not installed")

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def test_peft_loads_the_exported_adapter(run, world, tmp_path):
    from transformers import AutoModel

    # In float32, so that both sides round alike.
    options = ("--backbone", world.llama, "--epochs", 1, "--dtype", "float32", "--quiet")
    assert run("fit", world.train, *options, "--out", tmp_path / "model").code == 0
    result = run("export", tmp_path / "model", "--out", tmp_path / "lora")
    assert result.code == 0, result.err
    assert result.out.strip() == str(tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    base = AutoModel.from_pretrained(config["base_model_name_or_path"], dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    clf = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    encoder = clf._known().network.encoder
    texts = encoder.prepare(["the cat barks today", "cold rain"])
    batch = texts.collate([0, 1])
    with torch.no_grad():
        hidden = theirs(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    expected = hidden[torch.arange(2), last]
    assert torch.allclose(encoder.features(texts), expected, atol=1e-5)


def test_an_existing_target_is_refused(refused, world, tmp_path):
    (tmp_path / "lora").mkdir()
    assert "exists" in refused("export", world.model, "--out", tmp_path / "lora")
    message = refused("export", world.model, "--out", tmp_path / "lora", "--overwrite")
    assert "is not a PEFT checkpoint" in message


def test_a_checkpoint_is_replaced_where_that_is_said(run, world, tmp_path):
    target = tmp_path / "lora"
    assert run("export", world.model, "--out", target).code == 0
    assert run("export", world.model, "--out", target, "--overwrite").code == 0


def test_a_model_without_an_adapter_is_refused(run, refused, world, tmp_path):
    with pytest.raises(Exception, match="no single adapter"):
        BayesianClassifier.from_transformers(str(world.classifier)).export_peft(tmp_path / "lora")
