"""Last-layer Laplace against laplace-torch on the same weights, float64."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bayeslora import Laplace
from bayeslora.posteriors.registry import build_head
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import toy

F64 = torch.float64


class Classifier(nn.Module):
    """A linear head behind a fixed non-linearity, so that laplace-torch finds a last layer."""

    def __init__(self, head):
        super().__init__()
        self.body = nn.Identity()
        self.head = head

    def forward(self, inputs):
        return self.head(self.body(inputs))


@pytest.fixture(scope="module")
def laplace_class():
    with warnings.catch_warnings():
        # Importing it compiles torch.jit scripts, which PyTorch has deprecated.
        warnings.simplefilter("ignore")
        laplace = pytest.importorskip("laplace")
    return laplace.Laplace


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("structure", "batch_size"),
    # Their Kronecker factors depend on the batch size; a single batch is the textbook case.
    [("full", 40), ("full", 2), ("kron", 40)],
)
# With fewer rows than features, ours works in the row space of the features, theirs does not.
@pytest.mark.parametrize(("rows", "size"), [(40, 5), (4, 10)])
def test_covariance_and_evidence_agree(laplace_class, structure, batch_size, rows, size):
    features, labels = toy(rows=rows, size=size, classes=3)
    other = toy(rows=10, size=size, seed=6)[0]
    linear = nn.Linear(size, 3, bias=False).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, size, generator=generator, dtype=F64))
    model = Classifier(linear)
    reference = laplace_class(
        model,
        "classification",
        subset_of_weights="last_layer",
        hessian_structure=structure,
        prior_precision=0.7,
        last_layer_name="head",
    )
    loader = DataLoader(TensorDataset(features, labels), batch_size=batch_size)
    reference.fit(loader)
    _, covariance = reference._glm_predictive_distribution(other)

    head = build_head(Laplace(structure=structure, prior_precision=0.7), size, 3).double()
    head.set_mean(linear.weight)
    head.fit(Features(features, labels))
    ours = head.predict(Features(other)).covariance
    torch.testing.assert_close(ours, covariance.detach(), atol=1e-6, rtol=0)
    evidence = reference.log_marginal_likelihood().item() / rows
    assert head.report()["log_evidence"] == pytest.approx(evidence, abs=1e-6)
