"""Laplace-LoRA on whole networks: fits, predictions, and restored states."""

from dataclasses import replace

import pytest
import torch
from small_fits import calls_of_layers, equal_states, fresh, rows, training_run

from bayeslora import MLE, LaplaceLoRA
from bayeslora.adapters.lora import LoRA
from bayeslora.adapters.polar import PoLAR
from bayeslora.engine.final_fit import final_fit, fit_last_layer
from bayeslora.engine.network import feature_rows, prepare
from bayeslora.engine.predict import answer, num_passes
from bayeslora.posteriors.types import WeightTraining

LORA = LoRA(r=2, num_layers=2)
POLAR = PoLAR(r=2, num_layers=2)
ADAPTERS = pytest.mark.parametrize("adapter", [LORA, POLAR], ids=["lora", "polar"])
KINDS = pytest.mark.parametrize("kind", ["encoder", "decoder"])


def texts_of(fit):
    return prepare(fit.network.encoder, rows(12, 5), progress=False)


def logits(fit, **options):
    return next(answer(fit.network, [], fit.posterior, texts_of(fit), **options)).logits


@pytest.fixture(scope="module")
def fitted(encoder, decoder, tmp_path_factory):
    """Return a cached function from backbone and adapter to their fit."""
    known, backbones = {}, {"encoder": encoder, "decoder": decoder}

    def get(kind, adapter):
        key = kind, adapter
        if key not in known:
            fit = fresh(backbones[kind], LaplaceLoRA(), adapter)
            known[key] = fit, fit.run(tmp_path_factory.mktemp("fit"), validates=True)
        return known[key]

    return get


@KINDS
@ADAPTERS
def test_the_covariance_is_that_of_the_adapters_gradients(request, fitted, kind, adapter):
    """Single unpadded rows in float32: gradients agree to about 1e-5 of their size."""
    fit, _ = fitted(kind, adapter)
    backbone = request.getfixturevalue(kind)
    fit = refitted(backbone, fit, LaplaceLoRA(structure="diag", prior_precision=2.0))
    jacobians, probs = by_hand(fit, fit.train)
    middle = torch.diag_embed(probs) - probs[:, :, None] * probs[:, None, :]
    hessian = torch.einsum("ncp,nck,nkq->pq", jacobians, middle, jacobians)
    others, _ = by_hand(fit, texts_of(fit))
    expected = (others / (hessian.diagonal() + 2)) @ others.mT
    torch.testing.assert_close(logits(fit).covariance, expected, atol=1e-5, rtol=1e-4)


def refitted(backbone, fit, posterior):
    """Return a fit of the same network under another posterior of the same kind."""
    other = fresh(backbone, posterior, fit.adapter)
    state = {
        name: item
        for name, item in fit.network.trained_state().items()
        if not name.startswith("weights.")
    }
    own = other.network.weights.state_dict()
    other.network.load_trained_state(
        state | {f"weights.{name}": item for name, item in own.items()}
    )
    rows = feature_rows(other.network, other.train)
    plan = replace(other.plan, posterior=posterior)
    last = final_fit(other.network, plan, other.train, None)
    fit_last_layer(other.network, plan, last, rows, None)
    return other


def by_hand(fit, texts):
    """Return the Jacobians [N, C, P] of single rows, and their probabilities [N, C]."""
    network = fit.network
    parameters = [item.layer.weight for item in network.weights.layers]
    head = network.head.weight
    jacobians, probs = [], []
    for row in range(len(texts)):
        features = network(texts.collate([row])).values
        values = (features @ head.T)[0]
        probs.append(values.detach().double().softmax(-1))
        jacobians.append(
            torch.stack(
                [
                    torch.cat([g.flatten() for g in grads]).double()
                    for grads in (
                        torch.autograd.grad(value, [*parameters, head], retain_graph=True)
                        for value in values
                    )
                ]
            )
        )
    return torch.stack(jacobians), torch.stack(probs)


@KINDS
@ADAPTERS
def test_the_mean_is_that_of_the_network_alone(fitted, kind, adapter):
    fit, result = fitted(kind, adapter)
    output = logits(fit)
    assert output.covariance.shape == (12, 3, 3)
    assert float(torch.linalg.eigvalsh(output.covariance).min()) > -1e-9
    assert float(output.variance.min()) > 0
    plain = next(answer(fit.network, [], MLE(), texts_of(fit))).logits
    assert torch.equal(output.mean, plain.mean)
    none = logits(fit, num_samples=0)
    assert none.is_point
    assert torch.equal(none.mean, plain.mean)
    assert result.posterior["prior_precision"] > 0


@ADAPTERS
def test_training_is_that_of_maximum_likelihood(encoder, fitted, tmp_path, adapter):
    fit, _ = fitted("encoder", adapter)
    plain = fresh(encoder, MLE(), adapter)
    plain.run(tmp_path, validates=True)
    state = fit.network.trained_state()
    for name, item in plain.network.trained_state().items():
        assert torch.equal(state[name], item), name
    assert fit.network.weights.weight_training(training_run(fit)) == WeightTraining()


@ADAPTERS
def test_predictions_share_the_frozen_prefix(fitted, adapter):
    fit, _ = fitted("encoder", adapter)
    assert [num_passes(fit.posterior, count, 1) for count in (None, 7, 0)] == [2, 2, 1]
    assert num_passes(replace(fit.posterior, num_samples=0), None, 1) == 1
    assert calls_of_layers(fit, texts_of(fit)) == ([0, 2, 2], 2 * 12)


@ADAPTERS
def test_predicting_changes_nothing_and_leaves_no_hooks(fitted, adapter):
    fit, _ = fitted("encoder", adapter)
    before, state = fit.network.trained_state(), torch.get_rng_state()
    first = logits(fit)
    assert equal_states(before, fit.network.trained_state())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(logits(fit, seed=5).covariance, first.covariance)
    for item in fit.network.weights.layers:
        assert not item.layer._forward_hooks
        assert item.layer.weight.grad is None or not item.layer.weight.grad.any()
