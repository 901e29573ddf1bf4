"""Compatible adapters and posteriors, and the outcome of a short fit of each pair.

`compatibility.json` holds the outcome of every pair: the error's code if it is refused, else the
probabilities of three rows and the hashes of all tensors and of the record; `calibration.json` the
same for posteriors fitted to the finished network of each adapter. If processor and libraries are
those named in the file, every bit is compared; otherwise the probabilities are, with a tolerance.
`python tests/classifier/test_compatibility.py` rewrites both; a change in them is a change of
behaviour, to be explained in the commit that makes it.

Every classifier of either kind also keeps the laws of `check_laws`.
"""

import hashlib
import json
import logging
import platform
import re
import sys
from copy import deepcopy
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import bayeslora as bl
from bayeslora.adapters import registry as adapters
from bayeslora.backbones.load import load_backbone
from bayeslora.checkpoint import library_versions
from bayeslora.errors import CODES, InputError
from bayeslora.posteriors import registry as posteriors

# Records name the default number of epochs, which `main` does not change.
pytestmark = pytest.mark.usefixtures("default_epochs")

HERE = Path(__file__).parent
GOLDEN, CALIBRATED = HERE / "compatibility.json", HERE / "calibration.json"
# Options for quick fits; `small` holds those of the other methods.
SMALL = {
    "emtal": "r=2,num_experts=4",
    "ilora": "r=4,num_experts=2",
    "amt": "r=2,ways=2,shots=2,queries=2,num_episodes=2,eps=[0,0.1],weight_eps=[0,0.01]",
    "vbll": "num_samples=20",
    "laplace": "num_samples=20",
    "laplace_lora": "num_samples=20",
    "nuts": "num_chains=2,num_warmup=8,num_samples=4",
    "ensemble": "num_members=2",
}


def small(method):
    """Return the name of a method with options for a quick fit."""
    usual = (
        "r=2" if hasattr(method, "r") else "num_samples=2" * getattr(method, "is_sampled", False)
    )
    return f"{method.name}:{SMALL.get(method.name, usual)}".rstrip(":")


ADAPTERS = [small(method) for method in adapters.ADAPTERS.values()]
POSTERIORS = [small(method) for method in posteriors.POSTERIORS.values()]
ROWS = 3
# Parts of the record that may differ: the path of the backbone, durations, and what wrote it.
PASSING = ("name", "seconds", "versions")


def fit(backbone, adapter, posterior, epochs=2):
    """Return a classifier after a short fit, or the code of its error."""
    from tiny import toy_rows

    options = {} if adapter.startswith(("none", "amt")) else {"epochs": epochs, "batch_size": 6}
    try:
        clf = bl.BayesianClassifier(backbone, adapter, posterior, max_length=16, progress=False)
        return clf.fit(toy_rows(12), toy_rows(9, seed=1), **options)
    except bl.InputError as error:
        return error.code


def calibrations(backbone, adapter):
    """Yield each posterior with a finished network that got it, or with the code of its error."""
    from tiny import toy_rows

    clf = fit(backbone, adapter, "mle", epochs=1)
    for posterior in POSTERIORS:
        try:
            fitted = deepcopy(clf).calibrate(
                toy_rows(12, seed=3), toy_rows(9, seed=4), posterior=posterior
            )
        except bl.InputError as error:
            yield key(adapter, posterior), error.code
        else:
            yield key(adapter, posterior), fitted


def result(clf):
    """Return the probabilities of three rows, and hashes of the tensors and of the record.

    The code of an error is returned as it is.
    """
    from tiny import toy_rows

    if isinstance(clf, str):
        return clf
    files = clf.network.files()
    record = json.dumps(lasting(asdict(files.record)), sort_keys=True)
    return {
        "probs": clf.predict(toy_rows(ROWS, seed=2)).probs.round(6).tolist(),
        "tensors": files.fingerprint[:12],
        "record": hashlib.sha256(record.encode()).hexdigest()[:12],
    }


def lasting(value):
    """Return a part of a record without what differs from run to run."""
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in PASSING}
    return value


def machine():
    """Return the properties of this machine on which the last bits depend."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else platform.processor()
    # A virtual machine may hide instructions of the processor that it names.
    kind = dict(re.findall(r"^(cpu family|model|model name|flags)\s*: (.+)", text, re.MULTILINE))
    if "flags" in kind:
        kind["flags"] = hashlib.sha256(kind["flags"].encode()).hexdigest()[:12]
    versions = {k: v for k, v in library_versions().items() if k != "bayeslora"}
    return {"processor": " ".join(kind.values()), **versions}


def key(adapter, posterior):
    return f"{adapter.split(':')[0]} {posterior.split(':')[0]}"


@pytest.fixture(scope="module")
def golden():
    """Return the cells of both files, and whether every bit should match on this machine."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in (GOLDEN, CALIBRATED)]
    assert files[0]["machine"] == files[1]["machine"]
    return *(file["cells"] for file in files), files[0]["machine"] == machine()


def test_every_pair_has_an_outcome(golden):
    """A new method's cells are missing until they are written."""
    pairs = {key(*pair) for pair in product(ADAPTERS, POSTERIORS)}
    assert pairs <= golden[0].keys()
    assert pairs <= golden[1].keys()


def test_every_refusal_has_a_code_of_its_own(golden):
    codes = {cell for part in golden[:2] for cell in part.values() if isinstance(cell, str)}
    assert codes <= {*CODES} - {InputError.code}


@pytest.fixture(scope="module")
def backbone(llama):
    """Load the backbone once for all pairs, whose fits cannot change it."""
    return load_backbone(llama, dtype="float32")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_pairs_are_allowed_or_refused_as_before(backbone, golden, adapter, caplog, tmp_path):
    caplog.set_level(logging.ERROR)
    expected, _, every_bit = golden
    for posterior in POSTERIORS:
        name = key(adapter, posterior)
        clf = fit(backbone, adapter, posterior)
        check_same(result(clf), expected[name], name, every_bit=every_bit)
        if not isinstance(clf, str):
            check_laws(clf, backbone, tmp_path / name)


def check_same(actual, expected, name, *, every_bit):
    """Assert that two outcomes are the same code or result, up to rounding on other machines."""
    if every_bit or str in {type(expected), type(actual)}:
        assert actual == expected, name
        return
    # Two epochs in single precision, on processors that sum in another order. A chain amplifies
    # the last bits until its draws are others: what is left is its Monte Carlo error.
    atol = 0.05 if name.endswith(" nuts") else 1e-3
    np.testing.assert_allclose(actual["probs"], expected["probs"], atol=atol, err_msg=name)


def check_laws(clf, backbone, folder):
    """Assert what holds for every classifier.

    Probabilities sum to one, predictions repeat, a mean network has no epistemic uncertainty, and
    saved and loaded it has the same record and predicts the same.
    """
    from usage import TEST, same

    predictions = clf.predict(TEST)
    np.testing.assert_allclose(predictions.probs.sum(1), 1, atol=1e-9)
    assert same(clf.predict(TEST), predictions)
    mean = clf.predict(TEST, num_samples=0)
    assert not mean.epistemic.any() or clf.record.posterior["name"] in {"ensemble", "amt_ensemble"}
    clf.save_pretrained(folder)
    again = bl.BayesianClassifier.from_pretrained(folder, backbone=backbone, progress=False)
    assert again.record == clf.record
    for options, expected in (({}, predictions), ({"num_samples": 0}, mean)):
        actual = again.predict(TEST, **options)
        # In other memory a product may be summed in another order.
        np.testing.assert_allclose(actual.probs, expected.probs, atol=1e-12)
        np.testing.assert_allclose(actual.epistemic, expected.epistemic, atol=1e-12)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.usefixtures("few_resamples")  # intervals are not in the record
def test_finished_networks_are_calibrated_or_refused_as_before(
    backbone, golden, adapter, caplog, tmp_path
):
    caplog.set_level(logging.ERROR)
    _, expected, every_bit = golden
    for name, clf in calibrations(backbone, adapter):
        check_same(result(clf), expected[name], name, every_bit=every_bit)
        if not isinstance(clf, str):
            check_laws(clf, backbone, tmp_path / name)


def main():
    """Write both files."""
    import tempfile

    import torch

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny import tiny_llama

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        place = load_backbone(str(tiny_llama(Path(folder) / "llama")), dtype="float32")
        every = {
            GOLDEN: {
                key(*pair): result(fit(place, *pair)) for pair in product(ADAPTERS, POSTERIORS)
            },
            CALIBRATED: {
                name: result(clf)
                for adapter in ADAPTERS
                for name, clf in calibrations(place, adapter)
            },
        }
    for path, outcomes in every.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in outcomes.items()]
        head = f' "machine": {json.dumps(machine())},\n "cells": {{\n'
        path.write_text("{\n" + head + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
