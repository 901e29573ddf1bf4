"""Laplace over adapter weights against brute force in float64, and its laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_network import (
    F64,
    SmallNetwork,
    SmallTexts,
    covariance,
    fitted,
    gauss_newton,
    jacobians,
    labels_of,
    parameter_names,
    posterior_of,
    small_texts,
)

from bayeslora.posteriors.weights import laplace_lora
from bayeslora.posteriors.weights.laplace_lora import LAYER_STRUCTURES, fisher_columns, watched

STRUCTURES = pytest.mark.parametrize("structure", sorted(LAYER_STRUCTURES))
ADAPTERS = pytest.mark.parametrize("adapter", ["lora", "polar"])
OTHERS = small_texts(5, seed=9)
# Sums of a few thousand products of numbers near 1, in another order.
EXACT = {"atol": 1e-10, "rtol": 1e-9}


def expected_covariance(network, weights, texts, hessian, precision=0.7):
    jacobian = jacobians(network, parameter_names(network, weights), texts)
    inverse = torch.linalg.inv(hessian + precision * torch.eye(len(hessian), dtype=F64))
    return jacobian @ inverse @ jacobian.mT


@ADAPTERS
def test_the_diagonal_curvature_is_that_of_the_gauss_newton_matrix(adapter):
    network, texts = SmallNetwork(adapter), small_texts()
    weights = fitted(network, texts, structure="diag")
    hessian = gauss_newton(network, parameter_names(network, weights), texts)
    expected = expected_covariance(network, weights, OTHERS, hessian.diagonal().diag())
    torch.testing.assert_close(covariance(network, weights, OTHERS), expected, **EXACT)


@ADAPTERS
def test_kronecker_factors_are_exact_blocks_for_one_row_of_one_token(adapter):
    network = SmallNetwork(adapter)
    texts = small_texts(1, longest=1)
    weights = fitted(network, texts, structure="kron")
    names = parameter_names(network, weights)
    hessian = gauss_newton(network, names, texts)
    sizes = [network.get_parameter(name).numel() for name in names]
    blocks = [block.split(sizes, 1)[place] for place, block in enumerate(hessian.split(sizes, 0))]
    expected = expected_covariance(network, weights, OTHERS, torch.block_diag(*blocks))
    torch.testing.assert_close(covariance(network, weights, OTHERS), expected, **EXACT)


@ADAPTERS
def test_kronecker_factors_are_means_and_sums_over_real_tokens(adapter):
    """Compare with factors computed row by row without padding, inverted as dense blocks."""
    network, texts = SmallNetwork(adapter), small_texts()
    weights = fitted(network, texts, structure="kron")
    layers = [item.layer for item in weights.layers]
    A, B, count = [0.0] * len(layers), [0.0] * len(layers), 0
    features = network.features(texts, 1)
    all_logits = (features @ network.head.weight.T).detach()
    probs = all_logits.softmax(-1)
    for row in range(len(texts)):
        with watched(layers) as seen:
            logits = network.logits(SmallTexts([texts.rows[row]]).collate([0]))[0]
        count += len(texts.rows[row])
        for column in fisher_columns(all_logits[row : row + 1])[:, 0]:
            gradients = torch.autograd.grad(
                logits @ column, [item.outputs for item in seen], retain_graph=True
            )
            B = [old + g[0].T @ g[0] for old, g in zip(B, gradients, strict=True)]
        A = [old + item.inputs[0].T @ item.inputs[0] for old, item in zip(A, seen, strict=True)]
    blocks = [torch.kron(b, a / count) for a, b in zip(A, B, strict=True)]
    middle = probs.sum(0).diag() - probs.T @ probs
    blocks.append(torch.kron(middle, features.T @ features / len(texts)))
    expected = expected_covariance(network, weights, OTHERS, torch.block_diag(*blocks))
    torch.testing.assert_close(covariance(network, weights, OTHERS), expected, **EXACT)


@STRUCTURES
def test_marginal_likelihood_is_maximised(structure):
    """The golden section finds log10 δ to 1e-4, where the maximum is flat."""
    network, texts = SmallNetwork(), small_texts(30)
    weights = fitted(network, texts, structure=structure, prior_precision="marglik")
    best = float(weights.prior_precision)

    def evidence(precision):
        again = fitted(network, texts, structure=structure, prior_precision=precision)
        return again.report()["log_evidence"]

    value = weights.report()["log_evidence"]
    assert evidence(best) == value
    assert value > max(evidence(best * 1.1), evidence(best / 1.1))


def test_validation_rows_choose_the_best_of_the_grid():
    from bayeslora.links import link_probabilities, nll
    from bayeslora.logits import GaussianLogits
    from bayeslora.posteriors.last_layer.algebra import LOG10_GRID

    network, texts, held_out = SmallNetwork(), small_texts(), small_texts(12, seed=4)
    rows = (held_out, labels_of(held_out))
    options = {"link": "probit", "structure": "kron"}
    weights = fitted(network, texts, rows, prior_precision="validation", **options)
    mean = (network.features(held_out, 1) @ network.head.weight.T).detach()
    unit = weights.num_weights / weights.sq_distance(network.head.weight)
    scores = {}
    for power in LOG10_GRID:
        again = fitted(network, texts, prior_precision=unit * 10**power, **options)
        logits = GaussianLogits(mean, covariance(network, again, held_out))
        scores[unit * 10**power] = nll(link_probabilities(logits, "probit").probs, rows[1])
    assert float(weights.prior_precision) == min(scores, key=scores.get)


@STRUCTURES
@settings(max_examples=8, deadline=None)
@given(batch=st.integers(1, 9), extra=st.integers(0, 3), fill=st.sampled_from([0.0, 1e3, math.nan]))
def test_neither_padding_nor_the_batch_size_matters(structure, batch, extra, fill):
    network = SmallNetwork()
    expected = fitted(network, small_texts(), structure=structure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laplace_lora, "_BATCH", batch)
        texts = small_texts(fill=fill, extra=extra)
        actual = fitted(network, texts, structure=structure)
        others = SmallTexts(OTHERS.rows, fill, extra)
        torch.testing.assert_close(
            covariance(network, actual, others), covariance(network, expected, OTHERS), **EXACT
        )
    torch.testing.assert_close(actual.log_evidence, expected.log_evidence, **EXACT)


@pytest.mark.parametrize(("adapter", "keys"), [("polar", ["core"]), ("lora", ["A", "B"])])
def test_of_polar_only_the_core_is_random(adapter, keys):
    weights = posterior_of(SmallNetwork(adapter))
    sites = ("layer.0.query", "layer.1.value")
    assert [item.name for item in weights.layers] == [f"{s}.{key}" for s in sites for key in keys]
    parts = [item.layer.weight.numel() for item in weights.layers]
    assert weights.num_weights == sum(parts) + 18
