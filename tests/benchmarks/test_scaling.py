"""The formulas for memory and time give the sizes of published models."""

from dataclasses import replace

import pytest

from benchmarks.scaling.formulas import LLAMAS, PAPER, memory, multiplications


@pytest.mark.parametrize(
    ("decoder", "billions"),
    # Published parameters, minus a language-model head of 128,256 rows if it has weights.
    [*zip(LLAMAS, (1.2358, 8.0303 - 0.5253, 70.5537 - 1.0507), strict=True)],
    ids=lambda item: getattr(item, "name", ""),
)
def test_weights_are_those_of_the_published_models(decoder, billions):
    # Norms are left out.
    assert decoder.weights / 1e9 == pytest.approx(billions, rel=1e-3)
    assert memory(decoder, PAPER)["weights"] == 2 * decoder.weights


def test_cached_layers_are_paid_once():
    parts = multiplications(LLAMAS[1], PAPER)
    assert parts["frozen layers, once"] == 4957 * 100 * 20 * LLAMAS[1].layer


def test_all_tokens_pass_all_parts_of_adapted_layers():
    # Forward and backward, in each of 8 epochs, through 6 layers.
    assert multiplications(LLAMAS[1], PAPER)["training"] == 8 * 2 * 4957 * 100 * 6 * LLAMAS[1].layer


def test_no_states_are_cached_where_all_layers_are_adapted():
    fit = replace(PAPER, depth=1.0, adapted=LLAMAS[1].layers)
    assert memory(LLAMAS[1], PAPER)["cached states"] == 2 * 4957 * 100 * 4096
    assert memory(LLAMAS[1], fit)["cached states"] == 0
