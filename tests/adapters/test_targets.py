"""Choice of adapted layers: defaults by architecture, names, patterns, errors."""

import pytest
import torch
from refusal import refused
from tiny_hosts import tiny_bert, tiny_llama

from bayeslora.adapters.inject import inject
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.targets import find_targets, first_adapted_layer, split_at_layer
from bayeslora.testing.adapter import stack

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 20,
}
ARCHITECTURES = {
    "roberta": (SMALL, ["query", "value"]),
    "deberta-v2": (SMALL, ["query_proj", "value_proj"]),
    "modernbert": (
        {**SMALL, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1}
        | {"sep_token_id": 2},
        ["Wqkv"],
    ),
    "gpt_neox": (SMALL, ["query_key_value"]),
    "phi3": ({**SMALL, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}, ["qkv_proj"]),
    "qwen2": ({**SMALL, "num_key_value_heads": 1}, ["q_proj", "v_proj"]),
    "mpnet": (SMALL, ["q", "v"]),
    "distilbert": (
        {"dim": 16, "hidden_dim": 16, "n_layers": 2, "n_heads": 2, "vocab_size": 20},
        ["q_lin", "v_lin"],
    ),
}


def build(kind, options):
    from transformers import AutoConfig, AutoModel

    return AutoModel.from_config(AutoConfig.for_model(kind, **options))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_default_targets(kind):
    options, expected = ARCHITECTURES[kind]
    names = find_targets(build(kind, options))
    assert sorted({name.rsplit(".", 1)[-1] for name in names}) == expected
    assert len(names) == 2 * len(expected)
    assert [split_at_layer(name)[1] for name in names] == sorted([0, 1] * len(expected))


def test_gpt2_is_refused_with_the_reason():
    model = build("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20})
    with refused("input", "'c_attn'", "Conv1D", "nn.Linear"):
        find_targets(model)


def test_default_for_llama_in_the_last_layers():
    assert find_targets(tiny_llama(), num_layers=2) == [
        "layers.1.self_attn.q_proj",
        "layers.1.self_attn.v_proj",
        "layers.2.self_attn.q_proj",
        "layers.2.self_attn.v_proj",
    ]


def test_names_are_matched_by_whole_parts():
    assert find_targets(tiny_bert(), ("attention.output.dense",), 1) == [
        "encoder.layer.2.attention.output.dense"
    ]
    with refused("input", "'uery'"):
        find_targets(tiny_bert(), ("uery",))


def test_regular_expressions_match_whole_names():
    names = find_targets(tiny_llama(), (r"layers\.[01]\.mlp\.(up|down)_proj",))
    assert names == [f"layers.{i}.mlp.{kind}_proj" for i in (0, 1) for kind in ("up", "down")]


def test_nothing_matched_lists_what_exists():
    with refused("input", "'q_proj'", "'head', 'layers.0', 'layers.1', 'layers.2'"):
        find_targets(stack(), ("q_proj",))


def test_a_broken_pattern_is_named():
    with refused("input", "'*.q_proj'"):
        find_targets(tiny_llama(), ("*.q_proj",))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("layers.3.self_attn.q_proj", ("layers", 3)),
        ("encoder.layer.11.attention.self.query", ("encoder.layer", 11)),
        ("layers.3.experts.7.w1", ("layers", 3)),
        ("pooler.dense", None),
    ],
)
def test_the_first_number_is_the_layer(name, place):
    assert split_at_layer(name) == place


@pytest.mark.parametrize(
    ("names", "first"),
    [(["layers.4.q", "layers.2.v", "layers.3.q"], 2), (["layers.4.q", "pooler.dense"], 0), ([], 0)],
)
def test_first_adapted_layer(names, first):
    assert first_adapted_layer(names) == first


def test_layers_below_the_first_adapted_one_are_constant():
    model = tiny_llama()
    inputs = torch.arange(1, 9).reshape(2, 4)
    sites = inject(model, LoRA(r=2, num_layers=1), seed=0)
    first = first_adapted_layer([site.name for site in sites])
    with torch.no_grad():
        before = model(inputs, output_hidden_states=True).hidden_states
        for site in sites:
            site.B.weight.fill_(1.0)
        after = model(inputs, output_hidden_states=True).hidden_states
    assert first == 2
    assert all(torch.equal(before[i], after[i]) for i in range(first + 1))
    assert not torch.equal(before[first + 1], after[first + 1])
