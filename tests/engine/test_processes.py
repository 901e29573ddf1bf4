"""Several processes produce the same result as one."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from process_pairs import ended, pair, started, working
from safetensors.torch import load_file

from bayeslora import Predictions
from bayeslora.adapters.registry import ADAPTERS
from bayeslora.cli import main

# 41 rows in batches of 8: the last batch has one row, so one of two processes has none.
NUM_TRAIN, BATCH = 41, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a directory with a decoder, training, validation and test rows."""
    path = tmp_path_factory.mktemp("processes")
    tiny.tiny_llama(path / "llama")
    for name, count, seed in (("train", NUM_TRAIN, 1), ("valid", 30, 2), ("test", 90, 3)):
        rows = tiny.toy_rows(count, seed=seed)
        _write(path / f"{name}.jsonl", rows)
        others = tiny.toy_rows(count // 2, seed=seed + 7)
        topics = {"animals": "yes"}
        others = [row | {"label": topics.get(row["label"], "no")} for row in others]
        _write(path / f"{name}-animal.jsonl", others)
        _write(path / f"{name}-questions.jsonl", tiny.toy_questions(count, seed))
        _write(path / f"{name}-items.jsonl", tiny.toy_next_items(count, seed))
    return path


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def data_words(folder, split, kind):
    """Return the arguments that name the rows of a split: texts, or rows of another `kind`."""
    texts = folder / f"{split}.jsonl"
    if kind != "tasks":
        return [folder / f"{split}-{kind}.jsonl" if kind in ("questions", "items") else texts]
    named = [f"topic={texts}", f"animal={folder / split}-animal.jsonl"]
    return [word for source in named for word in ("--multi-task", source)]


def fit_words(folder, out, adapter, posterior, *more, epochs=2, kind="texts"):
    """Return the arguments of `fit`."""
    words = ["fit", *data_words(folder, "train", kind), "--backbone", folder / "llama"]
    words += ["--out", out]
    words += ["--adapter", adapter, "--posterior", posterior, "--epochs", epochs]
    words += ["--batch-size", BATCH, "--set", "dtype=float32", "--depth", "1.0", "--quiet"]
    return [str(word) for word in [*words, *more]]


def predict_words(folder, model, out, kind="texts"):
    """Return the arguments of `predict`."""
    words = ["predict", model, *data_words(folder, "test", kind), "--out", out, "--quiet"]
    return [str(word) for word in words]


def assert_close(first, second, tolerance=1e-5):
    """Compare the tensors of two model directories, relative to the largest number of each."""
    for name in ("adapter", "posterior"):
        expected, actual = (load_file(model / f"{name}.safetensors") for model in (first, second))
        assert expected.keys() == actual.keys()
        for key, tensor in expected.items():
            # A router's first gradients are rounding errors, which Adam makes large. Directions of
            # nearly equal variance rotate into each other without a change of scores.
            if key.endswith((".router", ".directions")):
                continue
            size = max(1.0, float(tensor.double().abs().max())) if tensor.numel() else 1.0
            gap = (tensor.double() - actual[key].double()).abs()
            assert float(gap.max()) <= tolerance * size if gap.numel() else True, key


CASES = {
    "lora-mle": ("lora:r=4,num_layers=2", "mle"),
    "polar-vbll": ("polar:r=4,num_layers=2", tiny.QUICK_VBLL),
    "polar-cv": ("polar:r=4,num_layers=2", tiny.QUICK_VBLL),
    "ilora-mle": ("ilora:num_layers=2", "mle"),
    "frozen": ("none", "laplace"),
    "questions": ("lora:r=4,num_layers=2", tiny.QUICK_VBLL),
    "items": ("ilora:r=4,num_layers=2,num_experts=2,gate_lr_factor=10", "mle"),
    "tasks": ("emtal:r=4,num_layers=2,num_experts=2,quality_retaining=mean", tiny.QUICK_VBLL),
}
CASES = {name: case for name, case in CASES.items() if case[0].partition(":")[0] in ADAPTERS}
VALIDATED = {"polar-vbll", "lora-mle"}
# Its factors are those of a decomposition, in which directions of nearly equal size may rotate into
# each other; its predictions are compared.
AVERAGED = "polar-cv"
# Their models of one process also predict in two.
SHARED = tuple(name for name in ("polar-vbll", "questions", "tasks") if name in CASES)


@pytest.fixture(scope="module")
def fitted(folder):
    """Fit and predict each case in two processes and in this one; return the directory."""
    todo = []
    for name, (adapter, posterior) in CASES.items():
        more = ["--cv", "2" if name == AVERAGED else "0"]
        more = ["--validation", folder / "valid.jsonl"] if name in VALIDATED else more
        more = [] if adapter == "none" else more
        for kind in ("one", "two"):
            model = folder / f"{name}-{kind}"
            words = fit_words(folder, model, adapter, posterior, *more, kind=name)
            if adapter == "none":
                drop = words.index("--epochs")
                del words[drop : drop + 4]
            steps = [words, predict_words(folder, model, f"{model}.parquet", name)]
            if kind == "one":
                assert [main(step) for step in steps] == [0, 0]
            else:
                todo += steps
        if name in SHARED:
            single, shared = folder / f"{name}-one", folder / f"{name}-shared.parquet"
            todo.append(predict_words(folder, single, shared, name))
    (folder / "todo.json").write_text(json.dumps(todo))
    codes, _, errs = ended(working("commands", folder / "todo.json"), 300)
    assert codes == [0, 0], errs
    return folder


@pytest.mark.parametrize("name", [name for name in CASES if name != AVERAGED])
def test_fits_are_those_of_one_process(fitted, name):
    assert_close(fitted / f"{name}-one", fitted / f"{name}-two")
    records = [
        json.loads((fitted / f"{name}-{kind}" / "bayeslora.json").read_text())
        for kind in ("one", "two")
    ]
    epochs = [[row["epoch"] for row in record["results"]["history"]] for record in records]
    assert epochs[0] == epochs[1]
    assert records[0]["results"]["best_epoch"] == records[1]["results"]["best_epoch"]


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_those_of_one_process(fitted, name):
    expected = Predictions.load(fitted / f"{name}-one.parquet")
    predictions = Predictions.load(fitted / f"{name}-two.parquet")
    assert predictions.ids == expected.ids
    np.testing.assert_allclose(predictions.probs, expected.probs, atol=1e-5)
    for score, values in expected.scores.items():
        size = max(1.0, np.abs(values).max())
        np.testing.assert_allclose(predictions.scores[score], values, atol=1e-5 * size)


@pytest.mark.parametrize("name", SHARED)
def test_predictions_of_the_same_model_are_the_same_file(fitted, name):
    """Batches are never split."""
    shared = (fitted / f"{name}-shared.parquet").read_bytes()
    assert shared == (fitted / f"{name}-one.parquet").read_bytes()


def test_a_backbone_in_shards(folder):
    """Each process holds half of the layers that FSDP shards; the result is the same."""
    whole, out = folder / "whole", folder / "whole.parquet"
    assert main(fit_words(folder, whole, "lora:r=4,num_layers=2", "mle", "--cv", "0")) == 0
    assert main(predict_words(folder, whole, out)) == 0
    codes, _, errs = ended(working("sharded", folder))
    assert codes == [0, 0], errs
    assert_close(whole, folder / "sharded")
    expected = Predictions.load(out)
    predictions = Predictions.load(folder / "sharded.parquet")
    np.testing.assert_allclose(predictions.probs, expected.probs, atol=1e-5)


def test_ivon_sees_the_same_draws(folder):
    """Its noise is drawn once per step, before the rows are divided."""
    pytest.importorskip("ivon")
    single, double = folder / "ivon-one", folder / "ivon-two"
    words = ("lora:r=4,num_layers=2", "ivon", "--cv", "0")
    assert main(fit_words(folder, single, *words)) == 0
    pair(*fit_words(folder, double, *words))
    assert_close(single, double)


def test_stdout_and_messages_appear_once(folder):
    words = fit_words(folder, folder / "spoken", "lora:r=2,num_layers=1", "mle")
    words = [*words, "--set", "max_length=5"]
    codes, outs, errs = ended(started(*words))
    assert codes == [0, 0], errs
    assert "spoken" in outs[0]
    assert outs[1] == ""
    assert "were truncated" in errs[0]
    assert "were truncated" not in errs[1]


def launch(*words):
    """Run `python -m` of a launcher's module with the words."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def unlaunched(folder):
    """Fit and predict in this process alone; return the model and the predictions."""
    model, out = folder / "not-launched", folder / "not-launched.parquet"
    assert main(fit_words(folder, model, "lora:r=4,num_layers=2", "mle", "--cv", "0")) == 0
    assert main(predict_words(folder, model, out)) == 0
    return model, Predictions.load(out)


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", 2],
    # `--multi_gpu` starts several processes; without a GPU they run on the CPU.
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0),
    ],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers(folder, unlaunched, launcher):
    """Fits by two processes are those of one process."""
    model = folder / f"by-{launcher}"
    words = fit_words(folder, model, "lora:r=4,num_layers=2", "mle", "--cv", "0")
    launch(*LAUNCHERS[launcher], "-m", "bayeslora", *words)
    assert_close(unlaunched[0], model)


@pytest.mark.parametrize("victim", [1])
def test_killed_in_mid_run(folder, victim):
    """The other process ends with an error; the same command resumes to the same result."""
    model, whole = folder / f"killed-{victim}", folder / "not-killed"
    words = ("polar:r=4,num_layers=2", tiny.QUICK_VBLL, "--validation", folder / "valid.jsonl")
    words += ("--set", "patience=10")
    command = fit_words(folder, model, *words, epochs=5)
    both = started(*command)
    deadline = time.monotonic() + 60
    while not list(model.glob("checkpoints/*/checkpoint.safetensors")):
        assert time.monotonic() < deadline
        assert both[0].poll() is None
        time.sleep(0.02)
    both[victim].send_signal(signal.SIGKILL)
    codes, _, errs = ended(both, 60)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1, errs
    assert "RuntimeError" in errs[1 - victim]
    assert (model / "interrupted-fit.json").is_file()
    pair(*command)
    if not whole.exists():
        pair(*fit_words(folder, whole, *words, epochs=5))
    assert_close(whole, model, 0.0)


def test_killed_while_predicting(folder, fitted, monkeypatch):
    """Finished pieces are kept, and the same command produces the same file."""
    data = folder / "many.jsonl"
    rows = tiny.toy_rows(4500, seed=5)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = fitted / "polar-vbll-one"
    words = ["predict", model, data, "--quiet", "--out"]
    assert main([*map(str, words), str(folder / "many-whole.parquet")]) == 0
    out = folder / "many.parquet"
    both = started(*words, out)
    deadline = time.monotonic() + 60
    while not list(folder.glob(".many.parquet.parts/0*.parquet")):
        assert time.monotonic() < deadline
        assert both[0].poll() is None
        time.sleep(0.01)
    both[1].send_signal(signal.SIGKILL)
    codes, _, errs = ended(both, 60)
    assert codes[0] == 1, errs
    pair(*words, out)
    assert out.read_bytes() == (folder / "many-whole.parquet").read_bytes()


@pytest.mark.parametrize(
    ("case", "codes"),
    [("exchanges", [0, 0]), ("failing_writer", [0, 0]), ("failing_other", [4, 3])],
)
def test_exchanges(case, codes):
    actual, _, errs = ended(working(case), 60)
    assert actual == codes, errs
