"""The loop over draws, dropout draws and ensemble draws."""

from contextlib import contextmanager

import pytest
import torch
from refusal import refused
from torch import nn

from bayeslora.posteriors.weights.draws import sample_logits
from bayeslora.posteriors.weights.mc_dropout import MCDropoutDraws


class TinyAttention(nn.Module):
    """Passes its probability to a kernel and looks at its own `training` flag."""

    def __init__(self, p):
        super().__init__()
        self.attention_dropout = p

    def forward(self, inputs):
        return nn.functional.dropout(inputs, self.attention_dropout, self.training)


class OwnedAttention(nn.Module):
    """Owns a dropout module, but hands its probability to a kernel."""

    def __init__(self, p):
        super().__init__()
        self.dropout = nn.Dropout(p)

    def forward(self, inputs):
        return nn.functional.dropout(inputs, self.dropout.p, self.training)


def network(attention=0.0, residual=0.0, owned=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8),
        TinyAttention(attention),
        OwnedAttention(owned),
        nn.BatchNorm1d(8),
        nn.Dropout(residual),
        nn.Linear(8, 3),
    ).eval()


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 6, generator=generator) for n in (5, 2)]


def draws_of(model, among=None):
    return MCDropoutDraws(model, lambda: model(batches()[0]), among)


@pytest.mark.parametrize(
    ("kind", "live"), [("attention", ("1",)), ("owned", ("2",)), ("residual", ("4",))]
)
def test_each_kind_of_dropout_alone_gives_spread(kind, live):
    model = network(**{kind: 0.5})
    draws = draws_of(model)
    assert draws.live == live
    logits = sample_logits(draws, model, batches(), num_samples=4, seed=0)
    assert logits.samples.shape == (4, 7, 3)
    assert logits.samples.dtype == torch.float64
    assert logits.variance.max() > 0


class Functional(nn.Module):
    """Calls functional dropout, as some decoders do, so no dropout module exists."""

    def __init__(self, p):
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.p = p

    def forward(self, x):
        return nn.functional.dropout(self.inner(x), p=self.p, training=self.training)


def test_layers_that_call_the_function_are_found():
    model = nn.Sequential(Functional(0.5), nn.BatchNorm1d(3)).eval()
    draws = draws_of(model)
    assert draws.live == ("0",)
    assert sample_logits(draws, model, batches(), 3).variance.max() > 0
    with refused("no-dropout", "0 in 0)"):
        draws_of(nn.Sequential(Functional(0.0)))


def test_a_decoder_that_drops_in_its_layers_is_sampled_whole(tmp_path):
    from tiny import tiny_opt

    from bayeslora.backbones.load import load_backbone

    model = load_backbone(str(tiny_opt(tmp_path, dropout=0.3)), device="cpu").model
    tokens = torch.arange(12).view(2, 6)
    draws = MCDropoutDraws(model, lambda: model(tokens))
    assert [name for name in draws.live if name.count(".") == 2] == [
        f"decoder.layers.{number}" for number in range(3)
    ]


def test_every_draw_lasts_for_all_batches():
    entered = []

    class Counting:
        @contextmanager
        def draw(self, generator):
            entered.append(torch.rand((), generator=generator).item())
            yield

    seen = []
    sample_logits(Counting(), lambda batch: seen.append(len(entered)) or batch, batches(), 3)
    assert seen == [1, 1, 2, 2, 3, 3]
    assert len(set(entered)) == 3
