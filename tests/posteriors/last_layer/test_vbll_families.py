"""The fit in the eigenbasis against the optimum of a generic optimiser, in float64.

The reference shares no code with the package: the covariance of all weights is one dense matrix
[C d, C d], torch.distributions computes the KL, the bound is explicit, and its inner parameters
are optimised as well, since any value of them gives a bound.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.distributions import MultivariateNormal, kl_divergence

from bayeslora.posteriors.last_layer.vbll.final import polish
from bayeslora.posteriors.types import Features
from bayeslora.testing.last_layer import toy

F64 = torch.float64
CLASSES, SIZE, PRIOR_VARIANCE = 3, 4, 4.0


def design_of(features):
    """Return I ⊗ φᵀ of each row, [N, C, C d]."""
    return torch.stack([torch.kron(torch.eye(CLASSES, dtype=F64), row) for row in features])


def elbo(parts, design, labels):
    covariance = torch.diag((2 * parts["log_std"]).exp().flatten())
    mean = design @ parts["mean"].flatten()
    variance = torch.einsum("nci,ij,ncj->nc", design, covariance, design)
    a = parts["inner"].sigmoid()
    upper = 0.5 * (a**2 * variance).sum(1) + (mean + 0.5 * (1 - 2 * a) * variance).logsumexp(1)
    likelihood = (mean[torch.arange(len(labels)), labels] - upper).sum()
    zero, eye = torch.zeros(CLASSES * SIZE, dtype=F64), torch.eye(CLASSES * SIZE, dtype=F64)
    posterior = MultivariateNormal(parts["mean"].flatten(), covariance)
    return likelihood - kl_divergence(posterior, MultivariateNormal(zero, PRIOR_VARIANCE * eye))


def optimum(data):
    """Return the ELBO and the parameters of a quasi-Newton fit from a random start."""
    features, labels = data
    design = design_of(features)
    known = {"mean": (CLASSES, SIZE), "log_std": (CLASSES, SIZE)}
    known["inner"] = (len(labels), CLASSES)
    sizes = [int(np.prod(shape)) for shape in known.values()]

    def parts_of(flat):
        items = torch.split(flat, sizes)
        return {key: item.view(known[key]) for key, item in zip(known, items, strict=True)}

    def objective(flat):
        parameters = torch.tensor(flat, dtype=F64, requires_grad=True)
        value = -elbo(parts_of(parameters), design, labels)
        value.backward()
        return value.item(), parameters.grad.numpy()

    start = 0.3 * np.random.default_rng(0).standard_normal(sum(sizes))
    options = {"maxiter": 3000, "maxfun": 6000, "ftol": 1e-14, "gtol": 1e-7}
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return -solution.fun, parts_of(torch.tensor(solution.x, dtype=F64))


def test_the_fit_is_the_optimum_over_explicit_parameters():
    """Values agree to 1e-6 nats; moments, where the optimum is flat, to 1e-4 of values near 1."""
    features, labels = toy(rows=15, size=SIZE, classes=CLASSES)
    options = {"covariance": "eigenbasis", "tolerance": 1e-10}
    fitted = polish(Features(features, labels), CLASSES, prior_variance=PRIOR_VARIANCE, **options)
    basis = torch.linalg.eigh(features.T @ features)[1]
    value, parts = optimum((features @ basis, labels))
    assert fitted.elbo[-1] == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(fitted.mean @ basis, parts["mean"], atol=1e-4, rtol=0)
    deviations = fitted.covariance()["scale"]
    torch.testing.assert_close(deviations, parts["log_std"].exp(), atol=1e-4, rtol=0)
