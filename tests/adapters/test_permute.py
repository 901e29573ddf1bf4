"""Another order of heads and channels: the same function, with groups of queries too."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_hosts import output, randomise, tiny_bert, tiny_llama, tokens

from bayeslora.adapters.config_columns import S2FT
from bayeslora.adapters.fuse import fuse, merge
from bayeslora.adapters.inject import adapter_state, export, inject
from bayeslora.adapters.permute import chosen_first
from bayeslora.backbones.load import load_backbone
from bayeslora.errors import InputError

ATTENTION, FEED_FORWARD = "layers.1.self_attn", "layers.1.mlp"


def heads_of(numbers, size=4):
    """The columns of four heads of four, in two groups."""
    return torch.tensor([size * number + place for number in numbers for place in range(size)])


def adapter_of(columns):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer, idx in columns.items():
        tensors[f"{layer}.idx"] = idx
        tensors[f"{layer}.sel"] = torch.randn(16, len(idx), generator=generator)
    return tensors


def wide():
    """Weights of order 1, so that a wrong order of heads is no matter of rounding; in float64."""
    model = tiny_llama().double()
    for value in model.parameters():
        value.data *= 5
    return model


@settings(max_examples=30, deadline=None)
@given(
    st.sets(st.integers(0, 3), min_size=1),
    st.sets(st.integers(0, 23), min_size=1),
)
def test_the_function_stays_and_the_adapter_with_it(heads, channels):
    adapter = adapter_of(
        {
            f"{ATTENTION}.o_proj": heads_of(sorted(heads)),
            f"{FEED_FORWARD}.down_proj": torch.tensor(sorted(channels)),
        }
    )
    model, plain = wide(), wide()
    expected, changed = output(plain, tokens()), wide()
    merge(changed, adapter)
    moved = chosen_first(model, adapter)
    torch.testing.assert_close(output(model, tokens()), expected, atol=1e-12, rtol=1e-12)
    merge(model, moved)
    torch.testing.assert_close(
        output(model, tokens()), output(changed, tokens()), atol=1e-12, rtol=1e-12
    )
    assert moved[f"{FEED_FORWARD}.down_proj.idx"].tolist() == list(range(len(channels)))


@pytest.mark.parametrize(
    ("heads", "first"),
    [
        ([1], [0]),
        ([3], [0]),
        ([2, 3], [0, 1]),
        # One of each group: the second group begins with its own.
        ([1, 3], [0, 2]),
        # The group with two comes first.
        ([1, 2, 3], [0, 1, 2]),
    ],
)
def test_chosen_heads_are_first_in_their_groups(heads, first):
    adapter = adapter_of({f"{ATTENTION}.o_proj": heads_of(heads)})
    moved = chosen_first(wide(), adapter)
    assert moved[f"{ATTENTION}.o_proj.idx"].tolist() == heads_of(first).tolist()


def test_a_head_in_another_group_would_change_the_function():
    """The very order that a method for models without groups would take."""
    model, plain = wide(), wide()
    order = heads_of([2, 0, 1, 3])
    attention = model.get_submodule(ATTENTION)
    attention.q_proj.weight.data = attention.q_proj.weight.data[order]
    attention.o_proj.weight.data = attention.o_proj.weight.data[:, order]
    assert (output(model, tokens()) - output(plain, tokens())).abs().max() > 1e-2


def test_a_trained_adapter_of_a_real_model_serves_as_a_slice():
    """In float32 the order of sums counts, so a thousandth of hidden states of order 10."""
    backbone = load_backbone("smollm2-135m", dtype="float32")
    ids = torch.arange(40, 60)[None]
    model = copy.deepcopy(backbone.model)
    sites = inject(model, S2FT(o_ratio=0.1, num_layers=3), seed=0)
    randomise(sites)
    adapter = adapter_state(sites)
    plain = copy.deepcopy(backbone.model)
    moved = chosen_first(plain, adapter)
    fuse(plain, [moved])
    with torch.no_grad():
        expected, found = (one(ids).last_hidden_state for one in (model, plain))
        untouched = backbone.model(ids).last_hidden_state
    assert (expected - untouched).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    for site in sites:
        idx = moved[f"{site.name}.idx"]
        assert len(idx) == site.k
        if "down_proj" in site.name:
            assert idx.tolist() == list(range(site.k))
    assert export(plain).get_submodule(sites[0].name).weight.shape == sites[0].weight.shape


def test_what_cannot_be_reordered_is_refused_and_left_as_it_was():
    model = wide()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fits = adapter_of({f"{FEED_FORWARD}.down_proj": torch.tensor([3])})
    for columns, message in (
        ({"layers.0.self_attn.q_proj": torch.tensor([3])}, r"q_proj cannot be reordered: only"),
        ({"layers.0.mlp.down_proj": torch.tensor([24])}, "has columns 0 to 23, got 24"),
        ({"layers.9.mlp.down_proj": torch.tensor([1])}, "has no layer layers.9.mlp.down_proj"),
    ):
        with pytest.raises(InputError, match=message):
            chosen_first(model, {**fits, **adapter_of(columns)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"output\.dense cannot be reordered: only layers"):
        chosen_first(tiny_bert(), adapter_of({"encoder.layer.0.output.dense": torch.tensor([1])}))


def gpt_oss_like(model):
    model.layers[1].self_attn.sinks = torch.nn.Parameter(torch.zeros(4))


def norm_of_all_heads(model):
    model.layers[1].self_attn.q_norm = torch.nn.LayerNorm(16)


def gated_queries(model):
    model.layers[1].self_attn.q_proj = torch.nn.Linear(16, 32)


def shared_keys(model):
    model.config.num_kv_shared_layers = 1


def one_group(model):
    model.config.num_key_value_heads = 1


def three_heads(model):
    model.config.num_attention_heads = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gpt_oss_like, r"sinks \[4\] would have to follow"),
        (norm_of_all_heads, r"q_norm\.weight \[16\] would have to follow"),
        (gated_queries, "q_proj has 32 rows, not one for each of 16"),
        (shared_keys, "layers share keys and values"),
        (one_group, "k_proj has 8 rows, not one for each of 4"),
        (three_heads, "16 columns are not 3 heads in 2 groups"),
    ],
)
def test_attention_with_parts_of_its_own_is_refused_and_left_as_it_was(change, message):
    model = wide()
    change(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = adapter_of(
        {f"{FEED_FORWARD}.down_proj": torch.tensor([3]), f"{ATTENTION}.o_proj": heads_of([1])}
    )
    with pytest.raises(InputError, match=message):
        chosen_first(model, adapter)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_biases_follow_and_norms_of_a_head_stay(family):
    """Qwen2 has biases on queries, keys and values, Qwen3 a norm of each head."""
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
    )
    torch.manual_seed(0)
    plain = getattr(transformers, f"{family}Model")(config).double().eval()
    generator = torch.Generator().manual_seed(1)
    for value in plain.parameters():
        value.data += torch.randn(value.shape, generator=generator, dtype=value.dtype)
    model = copy.deepcopy(plain)
    moved = chosen_first(model, adapter_of({f"{ATTENTION}.o_proj": heads_of([1, 3])}))
    assert moved[f"{ATTENTION}.o_proj.idx"].tolist() == heads_of([0, 2]).tolist()
    torch.testing.assert_close(
        output(model, tokens()), output(plain, tokens()), atol=1e-10, rtol=1e-10
    )


def test_what_is_no_adapter_of_columns_is_refused():
    for adapter in ({}, {"layers.1.mlp.down_proj.A": torch.zeros(2, 24)}):
        with pytest.raises(InputError, match=r"one of (an adapter of )?columns"):
            chosen_first(wide(), adapter)
    short = adapter_of({f"{FEED_FORWARD}.down_proj": torch.tensor([3])})
    short[f"{FEED_FORWARD}.down_proj.sel"] = torch.zeros(8, 1)
    with pytest.raises(InputError, match=r"have shape \[8, 1\], the model needs \[16, 1\]"):
        chosen_first(wide(), short)
