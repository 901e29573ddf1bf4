"""Which adapter goes with which posterior, and what a short fit of each pair answers.

`compatibility.json` holds the outcome of every pair: the reason where it is refused, else
probabilities; `calibration.json` the same of posteriors fitted to the finished network of each
adapter. `python tests/classifier/test_compatibility.py` writes it anew; a change in it is a
change of behaviour, to be explained in the commit that makes it.
"""

import json
import logging
import sys
from copy import deepcopy
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from bayeslora.adapters import registry as adapters
from bayeslora.backbones.load import load_backbone
from bayeslora.posteriors import registry as posteriors

HERE = Path(__file__).parent
GOLDEN, CALIBRATED = HERE / "compatibility.json", HERE / "calibration.json"
# Options with which a fit takes a moment; `small` says those of the others.
SMALL = {
    "emtal": "r=2,num_experts=4",
    "ilora": "r=4,num_experts=2",
    "amt": "r=2,ways=2,shots=2,queries=2,num_episodes=2,eps=[0,0.1],weight_eps=[0,0.01]",
    "vbll": "num_samples=20",
    "laplace": "num_samples=20",
    "laplace_lora": "num_samples=20",
    "nuts": "kernel=hmc,num_chains=2,num_warmup=8,num_samples=4",
    "ensemble": "num_members=2",
}


def small(method):
    """Return the name of a method with options with which its fit takes a moment."""
    usual = (
        "r=2" if hasattr(method, "r") else "num_samples=2" * getattr(method, "is_sampled", False)
    )
    return f"{method.name}:{SMALL.get(method.name, usual)}".rstrip(":")


ADAPTERS = [small(method) for method in adapters.ADAPTERS.values()]
POSTERIORS = [small(method) for method in posteriors.POSTERIORS.values()]
SAMPLING = (None, "num_active=1,interval=1")
# A low-rank change, trained layers, and no change at all.
FINISHED = tuple(one for one in ADAPTERS if one.startswith(("lora", "lisa", "none")))
ROWS = 3


def outcome(backbone, adapter, posterior, sampling):
    """Return what a fit of two epochs answers, or why it is refused."""
    from tiny import toy_rows

    import bayeslora as bl

    options = {} if adapter.startswith(("none", "amt")) else {"epochs": 2, "batch_size": 6}
    try:
        clf = bl.BayesianClassifier(backbone, adapter, posterior, max_length=16, progress=False)
        clf.fit(toy_rows(12), toy_rows(9, seed=1), layer_sampling=sampling, **options)
    except (bl.InputError, ValueError, TypeError) as error:
        return str(error)
    return answers(clf)


def calibrations(backbone, adapter):
    """Yield each posterior with what its fit to a finished network answers, or why not."""
    from tiny import toy_rows

    import bayeslora as bl

    options = {} if adapter == "none" else {"epochs": 1, "batch_size": 6}
    clf = bl.BayesianClassifier(backbone, adapter, "mle", max_length=16, progress=False)
    clf.fit(toy_rows(12), toy_rows(9, seed=1), **options)
    for posterior in POSTERIORS:
        try:
            fitted = deepcopy(clf).calibrate(
                toy_rows(12, seed=3), toy_rows(9, seed=4), posterior=posterior
            )
        except (bl.InputError, ValueError, TypeError) as error:
            yield key(adapter, posterior), str(error)
        else:
            yield key(adapter, posterior), answers(fitted)


def answers(clf):
    """Return the probabilities of three rows."""
    from tiny import toy_rows

    return clf.predict(toy_rows(ROWS, seed=2)).probs.round(6).tolist()


def cells():
    """Yield every pair, with layers that rest and without."""
    return product(ADAPTERS, POSTERIORS, SAMPLING)


def key(adapter, posterior, sampling=None):
    return " ".join(
        [adapter.split(":")[0], posterior.split(":")[0], *(["resting"] * bool(sampling))]
    )


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_every_pair_has_an_outcome(golden):
    """A new method's cells are missing until they are written."""
    assert list(golden) == [key(*cell) for cell in cells()]


@pytest.fixture(scope="module")
def backbone(llama):
    """Loaded once for all pairs, whose fits cannot change it."""
    return load_backbone(llama, dtype="float32")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_pairs_are_allowed_or_refused_as_before(backbone, golden, adapter, caplog):
    caplog.set_level(logging.ERROR)
    for posterior, sampling in product(POSTERIORS, SAMPLING):
        found = outcome(backbone, adapter, posterior, sampling)
        name = key(adapter, posterior, sampling)
        check_same(found, golden[name], name)


def check_same(found, expected, name):
    """Assert that two outcomes are the same reason, or the same answers but for rounding."""
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected, name
    else:
        # Two epochs in single precision, on processors that sum in another order.
        np.testing.assert_allclose(found, expected, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("adapter", FINISHED)
def test_finished_networks_are_calibrated_or_refused_as_before(backbone, adapter, caplog):
    caplog.set_level(logging.ERROR)
    expected = json.loads(CALIBRATED.read_text(encoding="utf-8"))
    for name, found in calibrations(backbone, adapter):
        check_same(found, expected[name], name)


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny import tiny_llama

    with tempfile.TemporaryDirectory() as folder:
        place = load_backbone(str(tiny_llama(Path(folder) / "llama")), dtype="float32")
        every = {
            GOLDEN: {key(*cell): outcome(place, *cell) for cell in cells()},
            CALIBRATED: {k: v for one in FINISHED for k, v in calibrations(place, one)},
        }
    for path, found in every.items():
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
