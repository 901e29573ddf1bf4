"""Regular expressions of a stored model's record are never matched."""

import json
import shutil

import pytest
from tiny import QUICK_VBLL, tiny_bert, toy_rows, without_hashes

from bayeslora import BayesianClassifier, LoRA

ENDLESS = "(([a-z]+|[a-z.0-9]+)+)+!"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patterns")
    tiny_bert(folder / "bert")
    clf = BayesianClassifier(
        str(folder / "bert"),
        LoRA(r=2, target_modules=(r".*layer\.1\..*\.(query|key)", "value")),
        QUICK_VBLL,
        device="cpu",
        progress=False,
    )
    clf.fit(toy_rows(24), epochs=1)
    clf.save_pretrained(folder / "model")
    return folder / "model", clf.predict(toy_rows(8))


def test_a_crafted_pattern_does_not_hang(saved, tmp_path):
    """It is only a sign to take the names of the stored tensors."""
    folder = shutil.copytree(saved[0], tmp_path / "model")
    without_hashes(folder)
    record = json.loads((folder / "bayeslora.json").read_text())
    record["adapter"]["target_modules"] = [ENDLESS]
    (folder / "bayeslora.json").write_text(json.dumps(record))
    loaded = BayesianClassifier.from_pretrained(folder, device="cpu", progress=False)
    assert (loaded.predict(toy_rows(8)).probs == saved[1].probs).all()
