"""Small models, data and predictions files for the command line."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from bayeslora.cli import main
from bayeslora.predictions import Predictions


@pytest.fixture
def run(capsys):
    """Run a command in this process; return its exit code, stdout and stderr."""

    def command(*argv):
        capsys.readouterr()
        code = main([str(item) for item in argv])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return command


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must be refused; return what it says on stderr."""

    def command(*argv):
        before = sorted(tmp_path.rglob("*"))
        result = run(*argv)
        assert result.code == 2, result.err
        assert result.out == ""
        lines = result.err.strip().splitlines()
        assert 1 <= len(lines) <= 2, result.err
        assert lines[0].startswith("bayeslora: error: ")
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return result.err

    return command


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A directory with backbones, a classifier, data, and a model fitted by the command line."""
    folder = tmp_path_factory.mktemp("world")
    found = SimpleNamespace(
        llama=tiny.tiny_llama(folder / "llama"),
        bert=tiny.tiny_bert(folder / "bert"),
        classifier=tiny.tiny_classifier(folder / "classifier"),
        train=write_rows(folder / "train.jsonl", tiny.toy_rows(90, seed=1)),
        valid=write_rows(folder / "valid.jsonl", tiny.toy_rows(45, seed=2)),
        test=write_rows(folder / "test.jsonl", tiny.toy_rows(60, seed=3)),
        model=folder / "model",
    )
    options = ["--backbone", found.llama, "--epochs", 2, "--quiet", "--out", found.model]
    code = main(list(map(str, ["fit", found.train, "--validation", found.valid, *options])))
    assert code == 0
    return found


def fake(path, rows=60, seed=0, name="", sharp=2.0, outside=False, ids="row-", **parts):
    """Write predictions whose labels are drawn from probabilities less sharp than stated.

    The rows of one `ids` have the same labels whatever the seed.
    """
    classes = ("a", "b", "c")
    labels = np.arange(rows) % 3
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, 3))
    logits[np.arange(rows), labels] += 0.0 if outside else 1.0
    probs = np.exp(sharp * logits)
    probs /= probs.sum(1, keepdims=True)
    epistemic = generator.random(rows) + (0.5 if outside else 0.0)
    predictions = Predictions(
        probs,
        classes,
        None if outside else labels,
        ids=tuple(f"{ids}{row}" for row in range(rows)),
        epistemic=epistemic,
        name=name or path.stem,
        **parts,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    predictions.save(path)
    return path
