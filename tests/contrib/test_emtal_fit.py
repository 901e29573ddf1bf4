"""EMTAL in training: what fades, LoRA without a router, and the export for PEFT."""

import pytest
import torch
from refusal import refused
from small_fits import equal_states, fresh
from usage import fitted

from bayeslora import MLE
from bayeslora.adapters.lora import LoRA
from bayeslora.contrib.emtal import EMTAL, GatedUnits
from bayeslora.engine.loop import Loop

OPTIONS = {"r": 2, "num_experts": 4, "num_layers": 2, "lr": 0.02}


def factors(network):
    return {
        f"{site.name}.{key}": value.detach().clone()
        for site in network.sites
        for key, value in site.trainable().items()
        if key != "router"
    }


def test_without_its_router_it_trains_as_lora_bit_by_bit(encoder, tmp_path):
    emtal = fresh(encoder, MLE(), EMTAL(**OPTIONS, fade_from=0, fade_to=0))
    names = tuple(site.name for site in emtal.network.sites)
    lora = LoRA(r=2, alpha=2, target_modules=names, num_layers=2, lr=0.02)
    other = fresh(encoder, MLE(), lora)
    emtal.run(tmp_path / "emtal")
    other.run(tmp_path / "lora")
    assert equal_states(factors(emtal.network), factors(other.network))
    gated = fresh(encoder, MLE(), EMTAL(**OPTIONS))
    gated.run(tmp_path / "gated")
    assert not equal_states(factors(gated.network), factors(other.network))


def test_the_router_fades_with_the_steps_and_is_off_in_evaluation(encoder, tmp_path, monkeypatch):
    fit = fresh(encoder, MLE(), EMTAL(**OPTIONS), epochs=4)  # 16 steps
    site = next(site for site in fit.network.sites if isinstance(site, GatedUnits))
    seen = []
    backward = Loop.backward

    def watched(self, batch):
        loss = backward(self, batch)
        grad = site.router.weight.grad
        seen.append((site.fade, grad is not None and bool(grad.any())))
        return loss

    monkeypatch.setattr(Loop, "backward", watched)
    fit.run(tmp_path / "fit", validates=True)
    expected = [min(1.0, max(0.0, (0.75 - n / 16) / 0.5)) for n in range(16)]
    assert [fade for fade, _ in seen] == pytest.approx(expected, abs=1e-12)
    # Even if B is zero, the output of the units depends on their weights.
    assert [moves for _, moves in seen] == [fade > 0 for fade in expected]
    assert site.fade == 0


def test_peft_loads_the_same_features_without_a_router(bert, tmp_path):
    from peft import AutoPeftModelForFeatureExtraction

    adapter = "emtal:r=2,num_experts=4,num_layers=2,lr=2e-2"
    clf = fitted(bert, adapter, "mle", dtype="float32")
    clf.export_peft(tmp_path / "peft")
    model = AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "peft").eval()
    assert not any("router" in name or "experts" in name for name in model.state_dict())
    network = clf.network.eval()
    batch = network.encoder.probe().collate([0, 1])
    with torch.no_grad():
        hidden, expected = model(**batch).last_hidden_state, network.encoder(batch)
    mask = batch["attention_mask"]
    pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_experts_that_do_not_divide_the_units_are_refused(llama):
    with refused("input", "num_experts", "24", "16"):
        fitted(llama, "emtal:num_experts=16", "mle")
