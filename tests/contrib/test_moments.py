"""Second moments against one product of all real inputs, in float64."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_moments import moments_on
from tiny_hosts import tiny_llama
from torch import nn

from bayeslora.contrib.moments import second_moments

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def linear(inputs=3, outputs=2):
    return nn.Linear(inputs, outputs).double()


def padded(rows, fill=7.0, left=False):
    """Return a batch of texts of unequal length, with `fill` at padding."""
    width = max(map(len, rows))
    x = torch.full((len(rows), width, rows[0].shape[1]), fill, dtype=F64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for place, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(len(row))
        x[place, at], mask[place, at] = row, 1
    return {"x": x, "attention_mask": mask}


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=9),
    st.integers(1, 4),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_batches_order_and_padding_do_not_matter(lengths, size, left, chance):
    rows = [normal(length, 3, seed=place) for place, length in enumerate(lengths)]
    together = torch.cat(rows)
    chance.shuffle(rows)
    batches = [padded(rows[at : at + size], left=left) for at in range(0, len(rows), size)]
    layer = linear()
    (moment,) = second_moments(lambda b: layer(b["x"]), {"a": layer}, batches).values()
    # In float64 the order of a few dozen additions changes results by 1e-15 relative.
    expected = together.T @ together / len(together)
    torch.testing.assert_close(moment, expected, atol=1e-13, rtol=1e-13)
    assert torch.equal(moment, moment.T)


def test_layers_with_one_input_agree_and_others_have_their_own():
    model = tiny_llama()
    names = [f"layers.1.self_attn.{kind}" for kind in ("q_proj", "v_proj", "o_proj")]
    q, v, o = moments_on(model, names, torch.arange(1, 13).reshape(3, 4)).values()
    assert torch.equal(q, v)
    assert not torch.equal(q, o)
    assert not any(layer._forward_pre_hooks for layer in model.modules())
