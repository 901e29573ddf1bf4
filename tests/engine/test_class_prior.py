"""The prior mean from the language model: its answer at full depth, via a lens below that."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax
from tiny import toy_rows

from bayeslora.classifier import BayesianClassifier
from bayeslora.engine.starts import best_factor, lens

F64 = torch.float64
ROWS = toy_rows(24)
WORDS = {"animals": "cat", "food": "bread", "weather": "rain"}


def fitted(backbone, posterior="vbll", adapter="lora:r=2", **options):
    chosen = {"template": "today {text} is", "dtype": "float32", "verbaliser": WORDS} | options
    clf = BayesianClassifier(backbone, adapter, posterior, progress=False, **chosen)
    return clf.fit(ROWS, epochs=None if adapter == "none" else 1)


def test_at_full_depth_it_is_the_language_models_restricted_softmax_less_its_mean(backbone):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    words = {"animals": "dog", "food": "fish", "weather": "wind"}
    clf = fitted(backbone, adapter="none", depth=1.0, verbaliser=words)
    network = clf.network
    factor = clf.record.results["prior_factor"]
    assert factor > 0.05  # a mean of zero would prove nothing
    model = AutoModelForCausalLM.from_pretrained(backbone).eval()
    reader = AutoTokenizer.from_pretrained(backbone)
    ids = reader([words[name] for name in clf.classes])["input_ids"]
    mean = network.head.prior_centre().double() / network.feature_scale.double()
    states, logits = [], []
    for row in ROWS:
        inputs = reader(f"today {row['text']} is", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            whole = model(inputs, output_hidden_states=True)
        logits.append(whole.logits[0, -1, [item[0] for item in ids]].double())
        states.append(whole.hidden_states[-1][0, -1].double())
    answers, states = torch.stack(logits), torch.stack(states)
    centre = states.mean(0)
    share = states @ centre / centre.square().sum()
    expected = factor * (answers - share[:, None] * answers.mean(0))
    assert expected.std() > 1e-3
    answer = states @ mean.T
    torch.testing.assert_close(answer.softmax(-1), expected.softmax(-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(answer.mean(0), torch.zeros(3, dtype=F64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("posterior", "depth"),
    [
        ("vbll", 1.0),
        ("vbll", 2),
        ("laplace", 1.0),
        ("map", 2),
        ("mle", 1.0),
        ("gvbll:shrinkage=0.5,inflation=1", 2),
    ],
)
def test_every_last_layer_starts_there_and_is_saved_with_it(backbone, posterior, depth, tmp_path):
    clf = fitted(backbone, posterior, depth=depth)
    assert 0 <= clf.record.results["prior_factor"] <= 4
    clf.save_pretrained(tmp_path / "model")
    again = BayesianClassifier.from_pretrained(tmp_path / "model", progress=False)
    np.testing.assert_array_equal(again.predict(ROWS).probs, clf.predict(ROWS).probs)


@pytest.mark.parametrize("count", [30, 20, 7])
def test_a_lens_is_a_ridge_regression(count):
    from sklearn.linear_model import Ridge

    draw = torch.Generator().manual_seed(1)
    states = torch.randn(count, 20, generator=draw, dtype=F64)
    logits = torch.randn(count, 2, generator=draw, dtype=F64)
    penalty = 0.1 * states.var(0, correction=0).sum().item()
    expected = Ridge(alpha=penalty, fit_intercept=False).fit(states.numpy(), logits.numpy()).coef_
    np.testing.assert_allclose(lens(states, logits), expected, atol=1e-10)


@given(
    logits=arrays(np.float64, (12, 3), elements=st.floats(-5, 5)),
    labels=arrays(np.int64, 12, elements=st.integers(0, 2)),
)
def test_the_factor_is_the_best_on_a_grid(logits, labels):
    def loss(factor):
        return 0.5 * factor**2 - log_softmax(factor * logits, axis=1)[range(12), labels].sum()

    best = best_factor(logits, labels)
    assert loss(best) <= min(map(loss, np.linspace(0, 4, 81))) + 1e-3
