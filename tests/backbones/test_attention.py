"""Attention of bfloat16 models over short texts: float32 inside, the same model outside."""

import pytest
import torch
from architectures import batch, build, last_hidden
from tiny import tiny_llama

from bayeslora.backbones.load import SHORT_ATTENTION, load_backbone, use_short_attention

# Rows that cannot attend to anything have arbitrary states; only real tokens are compared.
NAMES = ["llama", "qwen2", "gemma", "bert", "modernbert"]


@pytest.mark.parametrize("name", NAMES)
def test_a_float32_model_is_the_same_bit_by_bit(name):
    model, _ = build(name)
    ids, mask = batch()
    before = last_hidden(model, ids, mask)
    use_short_attention(model)
    assert model.config._attn_implementation == SHORT_ATTENTION
    assert torch.equal(last_hidden(model, ids, mask), before)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_as_near_to_float32_as_before(name):
    model, _ = build(name)
    ids, mask = batch()
    real = mask.bool()
    exact = last_hidden(model, ids, mask)[real]
    half = model.to(torch.bfloat16)
    before = (last_hidden(half, ids, mask)[real] - exact).abs().mean()
    use_short_attention(half)
    after = last_hidden(half, ids, mask)[real]
    assert after.dtype == torch.bfloat16
    # Both round everything else alike; a wrong mask or scale gives errors as large as the states.
    assert (after - exact).abs().mean() < 1.5 * before < 0.1 * exact.abs().mean()


def test_the_kernel_sees_float32_and_the_model_bfloat16(monkeypatch):
    from transformers.integrations import sdpa_attention

    seen = []
    attend = sdpa_attention.sdpa_attention_forward

    def watching(module, query, *args, **options):
        seen.append(query.dtype)
        return attend(module, query, *args, **options)

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", watching)
    model = build("llama")[0].to(torch.bfloat16)
    use_short_attention(model)
    assert last_hidden(model, *batch()).dtype == torch.bfloat16
    assert set(seen) == {torch.float32}


def test_only_bfloat16_on_a_cpu_takes_it_and_no_file_says_so(tmp_path):
    folder = tiny_llama(tmp_path / "model")
    models = {
        dtype: load_backbone(str(folder), dtype=dtype, device="cpu").model
        for dtype in ("float32", "bfloat16")
    }
    assert models["float32"].config._attn_implementation == "sdpa"
    assert models["bfloat16"].config._attn_implementation == SHORT_ATTENTION
    models["bfloat16"].save_pretrained(tmp_path / "saved")
    assert SHORT_ATTENTION not in (tmp_path / "saved" / "config.json").read_text()
