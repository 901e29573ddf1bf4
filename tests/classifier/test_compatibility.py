"""Which adapter goes with which posterior, and what a short fit of each pair answers.

`compatibility.json` holds the outcome of every pair: the error's class where it is refused, else
probabilities. `python tests/classifier/test_compatibility.py` writes it anew; a change in it is a
change of behaviour, to be explained in the commit that makes it.
"""

import json
import logging
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).with_suffix("").parent / "compatibility.json"
ADAPTERS = (
    *("lora:r=2", "polar:r=2", "pissa:r=2", "corda:r=2", "s2ft", "lisa", "none"),
    "emtal:r=2,num_experts=4",
    "ilora:r=4,num_experts=2",
    "amt:r=2,ways=2,shots=2,queries=2,num_episodes=2,eps=[0,0.1],weight_eps=[0,0.01]",
)
POSTERIORS = (
    *("mle", "map", "vbll:num_samples=20", "laplace:num_samples=20", "temperature", "gvbll"),
    "prototypes",
    *("nuts:kernel=hmc,num_chains=2,num_warmup=8,num_samples=4", "laplace_lora:num_samples=20"),
    *("ensemble:num_members=2", "mc_dropout:num_samples=2", "swag:num_samples=2"),
    *("tfb:num_samples=2", "blob:num_samples=2", "ivon:num_samples=2", "scalabl:num_samples=2"),
    "clora:num_samples=2",
)
SAMPLING = (None, "num_active=1,interval=1")
ROWS = 3


def outcome(backbone, adapter, posterior, sampling):
    """Return what a fit of two epochs answers, or the class of the error that refuses it."""
    from tiny import toy_rows

    import bayeslora as bl

    options = {} if adapter.startswith(("none", "amt")) else {"epochs": 2, "batch_size": 6}
    try:
        clf = bl.BayesianClassifier(
            backbone, adapter, posterior, dtype="float32", max_length=16, progress=False
        )
        clf.fit(toy_rows(12), toy_rows(9, seed=1), layer_sampling=sampling, **options)
    except (bl.InputError, ValueError, TypeError) as error:
        return type(error).__name__
    return clf.predict(toy_rows(ROWS, seed=2)).probs.round(6).tolist()


def cells():
    """Yield every pair, with layers that rest and without."""
    return product(ADAPTERS, POSTERIORS, SAMPLING)


def key(adapter, posterior, sampling):
    return " ".join(
        [adapter.split(":")[0], posterior.split(":")[0], *(["resting"] * bool(sampling))]
    )


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_every_pair_has_an_outcome(golden):
    assert list(golden) == [key(*cell) for cell in cells()]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_pairs_are_allowed_or_refused_as_before(llama, golden, adapter, caplog):
    caplog.set_level(logging.ERROR)
    for posterior, sampling in product(POSTERIORS, SAMPLING):
        found = outcome(llama, adapter, posterior, sampling)
        expected = golden[key(adapter, posterior, sampling)]
        if isinstance(expected, str) or isinstance(found, str):
            assert found == expected, key(adapter, posterior, sampling)
        else:
            # Two epochs in single precision, on processors that sum in another order.
            np.testing.assert_allclose(found, expected, atol=1e-3)


if __name__ == "__main__":
    import tempfile

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny import tiny_llama

    with tempfile.TemporaryDirectory() as folder:
        place = str(tiny_llama(Path(folder) / "llama"))
        found = {key(*cell): outcome(place, *cell) for cell in cells()}
    GOLDEN.write_text(
        "{\n"
        + ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
        + "\n}\n",
        encoding="utf-8",
    )
