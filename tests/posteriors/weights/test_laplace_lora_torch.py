"""Laplace over adapter weights against laplace-torch on all of them, float64."""

import warnings

import pytest
import torch
from small_network import SmallNetwork, SmallTexts, covariance, fitted, labels_of, parameter_names
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Plain(nn.Module):
    """The same network from unpadded states [B, T, 4] to logits."""

    def __init__(self, network, last):
        super().__init__()
        self.first, self.second = network.first, network.second
        self.last = nn.Linear(6, 3, bias=False).double()
        self.last.weight.data.copy_(last)

    def forward(self, states):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(states)))).mean(1))


@pytest.fixture(scope="module")
def laplace_class():
    with warnings.catch_warnings():
        # Importing it compiles torch.jit scripts, which PyTorch has deprecated.
        warnings.simplefilter("ignore")
        laplace = pytest.importorskip("laplace")
    return laplace.Laplace


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("structure", ["diag", "kron"])
@pytest.mark.parametrize("adapter", ["lora", "polar"])
def test_covariance_and_evidence_agree(laplace_class, adapter, structure):
    """Rows have equal length in a single batch, since their factors count padding and depend on
    batches.

    Their full curvature passes through float32, so brute force is the oracle for ours.
    """
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(12, 3, 4, generator=generator, dtype=torch.float64)
    others = torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)
    network, texts = SmallNetwork(adapter), SmallTexts(list(states))
    weights = fitted(network, texts, structure=structure)

    model = Plain(network, network.head.weight)
    random = set(parameter_names(network, weights))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in random or name == "last.weight")
    reference = laplace_class(
        model,
        "classification",
        subset_of_weights="all",
        hessian_structure=structure,
        prior_precision=0.7,
    )
    reference.fit(DataLoader(TensorDataset(states, labels_of(texts)), batch_size=12))
    _, expected = reference._glm_predictive_distribution(others)
    actual = covariance(network, weights, SmallTexts(list(others)))
    torch.testing.assert_close(actual, expected.detach(), atol=1e-6, rtol=0)
    evidence = reference.log_marginal_likelihood().item() / 12
    assert weights.report()["log_evidence"] == pytest.approx(evidence, abs=1e-6)
