"""Realistic predictions, a report on them, and a browser to read it."""

import shutil

import numpy as np
import pytest

from bayeslora.predictions.record import Predictions
from bayeslora.reporting.panel import Panel
from bayeslora.reporting.report import report

SAVED = Panel.saved

CLASSES = ("autos", "baseball", "crypto", "medicine")


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def make_predictions(
    name, *, sharpness=1.0, spread=0.0, signal=2.0, rows=240, labelled=True, seed=0, **changes
):
    """Return predictions; `sharpness` 1 is nearly calibrated, larger is overconfident."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(CLASSES), rows)
    logits = generator.normal(0, 1, (rows, len(CLASSES)))
    logits[np.arange(rows), labels] += signal
    # the log-likelihood ratio of a unit Gaussian shifted by `signal`: calibrated at sharpness 1
    draws = logits * signal + spread * generator.normal(0, 1, (16, *logits.shape))
    samples = softmax(sharpness * draws)
    probs = samples.mean(0)
    entropy = -(probs * np.log(np.maximum(probs, 1e-300))).sum(-1)
    inner = -(samples * np.log(np.maximum(samples, 1e-300))).sum(-1).mean(0)
    fields = {
        "probs": probs,
        "classes": CLASSES,
        "labels": labels if labelled else None,
        "ids": tuple(f"row-{index}" for index in range(rows)),
        "total": entropy,
        "aleatoric": inner if spread else entropy,
        "epistemic": np.maximum(entropy - inner, 0) if spread else np.zeros(rows),
        "scores": {"logit_variance": draws.var(0).mean(-1)} if spread else {},
        "name": name,
        "metadata": {"seed": str(seed), "link": "mc"},
    }
    return Predictions(**{**fields, **changes})


@pytest.fixture(scope="session")
def make():
    return make_predictions


@pytest.fixture(scope="session")
def methods():
    """Return an overconfident, a calibrated and a sampled method."""
    return [
        make_predictions("mle", sharpness=3.0),
        make_predictions("temperature", sharpness=1.0),
        make_predictions("polar-vbll", sharpness=1.2, spread=0.7),
    ]


@pytest.fixture(scope="session")
def ood(methods):
    """Return two sets for each method: rows with little signal, and rows with none."""
    options = {
        "mle": {"sharpness": 3.0},
        "temperature": {"sharpness": 1.0},
        "polar-vbll": {"sharpness": 1.2, "spread": 1.4},
    }
    return {
        name: {
            "near": make_predictions(name, signal=1.2, rows=150, labelled=False, seed=1, **chosen),
            "far": make_predictions(name, signal=0.3, rows=120, labelled=False, seed=2, **chosen),
        }
        for name, chosen in options.items()
    }


@pytest.fixture(scope="session")
def made(methods, ood, tmp_path_factory):
    """Return the directory of a report on `methods` and `ood`."""
    out = tmp_path_factory.mktemp("made") / "report"
    facts = {"command": "bayeslora demo", "Data": {"test": "240 rows"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Panel, "saved", SAVED)
        report(methods, ood=ood, out=out, title="Demo", provenance=facts, num_resamples=60)
    return out


@pytest.fixture
def drawn_figures(monkeypatch):
    """Draw figures in a module that leaves them blank by default."""
    monkeypatch.setattr(Panel, "saved", SAVED)


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("no chromium on this machine (make browser installs Debian's)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open a page, and check that it logs no errors and makes no further requests."""
    contexts, complaints, requests, visited = [], [], [], []

    def opened(path, **options):
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "offline": True, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        visited.append(path.as_uri())
        return page

    yield opened
    assert complaints == []
    assert requests == visited
    for context in contexts:
        context.close()
